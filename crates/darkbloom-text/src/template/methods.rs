//! The methods of Python's strings and dictionaries that chat templates call.

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State};

/// Called for `value.name(arguments)` where the value has no such method of its own.
pub(super) fn call(_: &mut State, value: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    match value.as_str() {
        Some(text) => on_text(text, name, arguments),
        None if value.kind() == ValueKind::Map => on_map(value, name, arguments),
        None => Err(ErrorKind::UnknownMethod.into()),
    }
}

fn on_text(text: &str, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let none = || from_args::<()>(arguments);
    Ok(match name {
        "strip" => strip(text, arguments, true, true)?,
        "lstrip" => strip(text, arguments, true, false)?,
        "rstrip" => strip(text, arguments, false, true)?,
        "startswith" => Value::from(any_affix(arguments, |affix| text.starts_with(affix))?),
        "endswith" => Value::from(any_affix(arguments, |affix| text.ends_with(affix))?),
        "split" => split(text, arguments)?,
        "replace" => {
            let (from, to): (&str, &str) = from_args(arguments)?;
            let grown = text.len().saturating_add(text.matches(from).count().saturating_mul(to.len()));
            if grown > super::PROMPT_BYTES_MAX {
                return Err(ErrorKind::OutOfFuel.into());
            }
            Value::from(text.replace(from, to))
        }
        "find" => {
            let (wanted,): (&str,) = from_args(arguments)?;
            let at = text.find(wanted).map(|at| text[..at].chars().count());
            Value::from(at.and_then(|at| i64::try_from(at).ok()).unwrap_or(-1))
        }
        "count" => {
            let (wanted,): (&str,) = from_args(arguments)?;
            Value::from(text.matches(wanted).count())
        }
        "lower" => none().map(|()| Value::from(text.to_lowercase()))?,
        "upper" => none().map(|()| Value::from(text.to_uppercase()))?,
        "capitalize" => none().map(|()| Value::from(capitalize(text)))?,
        "title" => none().map(|()| Value::from(title(text)))?,
        "isdigit" => none().map(|()| Value::from(!text.is_empty() && text.chars().all(char::is_numeric)))?,
        _ => return Err(ErrorKind::UnknownMethod.into()),
    })
}

fn on_map(map: &Value, name: &str, arguments: &[Value]) -> Result<Value, Error> {
    let none = || from_args::<()>(arguments);
    match name {
        "items" => {
            none()?;
            let mut items = Vec::new();
            for key in map.try_iter()? {
                items.push(Value::from(vec![key.clone(), map.get_item(&key)?]));
            }
            Ok(Value::from(items))
        }
        "keys" => {
            none()?;
            Ok(Value::from_iter(map.try_iter()?))
        }
        "values" => {
            none()?;
            let values: Result<Vec<Value>, Error> = map.try_iter()?.map(|key| map.get_item(&key)).collect();
            values.map(Value::from)
        }
        "get" => {
            let (key, default): (&Value, Option<Value>) = from_args(arguments)?;
            let found = map.get_item(key)?;
            Ok(if found.is_undefined() { default.unwrap_or(Value::from(())) } else { found })
        }
        _ => Err(ErrorKind::UnknownMethod.into()),
    }
}

fn strip(text: &str, arguments: &[Value], left: bool, right: bool) -> Result<Value, Error> {
    let (characters,): (Option<&str>,) = from_args(arguments)?;
    let unwanted = |character: char| match characters {
        Some(characters) => characters.contains(character),
        None => character.is_whitespace(),
    };
    let text = if left { text.trim_start_matches(unwanted) } else { text };
    Ok(Value::from(if right { text.trim_end_matches(unwanted) } else { text }))
}

/// One affix or a sequence of them, of which any will do.
fn any_affix(arguments: &[Value], matches: impl Fn(&str) -> bool) -> Result<bool, Error> {
    let (affix,): (&Value,) = from_args(arguments)?;
    if let Some(affix) = affix.as_str() {
        return Ok(matches(affix));
    }
    for affix in affix.try_iter()? {
        if affix.as_str().is_some_and(&matches) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn split(text: &str, arguments: &[Value]) -> Result<Value, Error> {
    let (separator, at_most, named): (Option<&str>, Option<i64>, Kwargs) = from_args(arguments)?;
    let at_most = match at_most {
        Some(at_most) => Some(at_most),
        None => named.get::<Option<i64>>("maxsplit")?,
    };
    named.assert_all_used()?;
    // A negative number means no limit, as in Python.
    let parts = at_most.and_then(|at_most| usize::try_from(at_most).ok()).map_or(usize::MAX, |it| it.saturating_add(1));
    let Some(separator) = separator else {
        return Ok(split_words(text, parts));
    };
    if separator.is_empty() {
        return Err(Error::new(ErrorKind::InvalidOperation, "empty separator"));
    }
    Ok(Value::from_iter(text.splitn(parts, separator).map(Value::from)))
}

fn split_words(text: &str, parts: usize) -> Value {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        if words.len() + 1 >= parts {
            words.push(Value::from(rest));
            break;
        }
        let (word, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        words.push(Value::from(word));
        rest = after.trim_start();
    }
    Value::from(words)
}

fn capitalize(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_uppercase().chain(characters.flat_map(char::to_lowercase)).collect(),
        None => String::new(),
    }
}

fn title(text: &str) -> String {
    let mut inside = false;
    let mut titled = String::with_capacity(text.len());
    for character in text.chars() {
        match (character.is_alphabetic(), inside) {
            (true, false) => titled.extend(character.to_uppercase()),
            (true, true) => titled.extend(character.to_lowercase()),
            (false, _) => titled.push(character),
        }
        inside = character.is_alphabetic();
    }
    titled
}
