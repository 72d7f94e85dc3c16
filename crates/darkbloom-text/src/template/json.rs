//! JSON in templates: read with every text in it guarded, and written as Python's `json.dumps` does, which is what the
//! models saw when they were trained.

use std::fmt;
use std::io;

use darkbloom_types::SecretString;
use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize as _;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// What is done to each text that somebody wrote before a template may see it.
pub(super) type Guard = fn(&str) -> SecretString;

/// Widest indentation that a template may ask for: four times the usual.
const INDENT_MAX: usize = 16;

/// Reads a JSON value. `None` when it is none, or nested more than 128 deep.
pub(super) fn read(text: &str, guard: Guard) -> Option<Value> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Guarded(guard).deserialize(&mut reader).ok()?;
    reader.end().ok().map(|()| value)
}

#[derive(Clone, Copy)]
struct Guarded(Guard);

impl<'de> DeserializeSeed<'de> for Guarded {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Guarded {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::from(()))
    }

    fn visit_bool<E>(self, boolean: bool) -> Result<Value, E> {
        Ok(Value::from(boolean))
    }

    fn visit_i64<E>(self, integer: i64) -> Result<Value, E> {
        Ok(Value::from(integer))
    }

    fn visit_u64<E>(self, integer: u64) -> Result<Value, E> {
        Ok(Value::from(integer))
    }

    fn visit_f64<E>(self, float: f64) -> Result<Value, E> {
        Ok(Value::from(float))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::from(self.0(text).expose()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = sequence.next_element_seed(self)? {
            values.push(value);
        }
        Ok(Value::from(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut pairs = Vec::new();
        while let Some(pair) = map.next_entry_seed(self, self)? {
            pairs.push(pair);
        }
        Ok(Value::from_pairs(pairs))
    }
}

/// The filter `tojson`, as templates for language models know it: nothing is escaped for HTML, letters beyond ASCII stay,
/// and a blank follows each comma and colon.
pub(super) fn to_json(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // The only value that there is; templates say it all the same.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut json = Vec::new();
    let written = match indent {
        None => value.serialize(&mut Serializer::with_formatter(&mut json, Spaced)),
        Some(width) if width <= INDENT_MAX => {
            let blanks = " ".repeat(width);
            let formatter = PrettyFormatter::with_indent(blanks.as_bytes());
            value.serialize(&mut Serializer::with_formatter(&mut json, formatter))
        }
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "an indentation this wide")),
    };
    // Neither may quote the value.
    let failed = || Error::new(ErrorKind::BadSerialization, "no JSON");
    written.map_err(|_| failed())?;
    String::from_utf8(json).map_err(|_| failed())
}

/// One line, with blanks.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}
