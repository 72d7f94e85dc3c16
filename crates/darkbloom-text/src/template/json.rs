//! JSON in templates: read with every text in it guarded, and written as Python's `json.dumps` does, which is what the
//! models saw when they were trained.

use std::io;

use darkbloom_types::SecretString;
use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind, State};
use serde::Serialize as _;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use zeroize::Zeroizing;

/// What is done to each text that somebody wrote before a template may see it.
pub(super) type Guard = fn(&str) -> SecretString;

/// Widest indentation that a template may ask for: four times the usual.
const INDENT_MAX: usize = 16;

/// Deepest nesting: what serde's readers of JSON take.
const NESTING_MAX: usize = 128;
/// How many bytes of JSON cost one unit of a rendering's work, as for all text that a template makes.
const BYTES_A_UNIT: usize = 64;

/// Reads a JSON value. `None` when it is none, nested too deeply, or has a number that no number here is: integers are
/// exact up to 128 bits, and of the others nobody should see another.
pub(super) fn read(text: &str, guard: Guard) -> Option<Value> {
    let mut reader = Reader { rest: text, guard };
    let value = reader.value(0)?;
    reader.white();
    reader.rest.is_empty().then_some(value)
}

/// Reads JSON (RFC 8259). Numbers and strings go through serde's reader.
struct Reader<'t> {
    rest: &'t str,
    guard: Guard,
}

impl<'t> Reader<'t> {
    fn value(&mut self, depth: usize) -> Option<Value> {
        self.white();
        let first = self.rest.bytes().next()?;
        match first {
            b'{' | b'[' if depth == NESTING_MAX => None,
            b'{' => self.object(depth),
            b'[' => self.list(depth),
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            _ => {
                let literals = [("null", Value::from(())), ("true", Value::from(true)), ("false", Value::from(false))];
                literals.into_iter().find(|(literal, _)| self.maybe(literal)).map(|(_, value)| value)
            }
        }
    }

    fn object(&mut self, depth: usize) -> Option<Value> {
        let mut pairs = Vec::new();
        self.maybe("{");
        self.white();
        if !self.maybe("}") {
            loop {
                self.white();
                let key = self.string()?;
                self.white();
                self.maybe(":").then_some(())?;
                pairs.push((key, self.value(depth + 1)?));
                if self.ends("}")? {
                    break;
                }
            }
        }
        Some(Value::from_pairs(pairs))
    }

    fn list(&mut self, depth: usize) -> Option<Value> {
        let mut values = Vec::new();
        self.maybe("[");
        self.white();
        if !self.maybe("]") {
            loop {
                values.push(self.value(depth + 1)?);
                if self.ends("]")? {
                    break;
                }
            }
        }
        Some(Value::from(values))
    }

    /// Whether the end or a comma stands here.
    fn ends(&mut self, end: &str) -> Option<bool> {
        self.white();
        if self.maybe(end) { Some(true) } else { self.maybe(",").then_some(false) }
    }

    fn string(&mut self) -> Option<Value> {
        let (mut escaped, mut bytes) = (false, self.rest.bytes().enumerate());
        bytes.next().filter(|(_, first)| *first == b'"')?;
        let (last, _) = bytes.find(|(_, byte)| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        })?;
        let text: Zeroizing<String> = Zeroizing::new(serde_json::from_str(self.take(last + 1)).ok()?);
        Some(Value::from((self.guard)(&text).expose()))
    }

    fn number(&mut self) -> Option<Value> {
        let of_number = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.' | b'e' | b'E');
        let end = self.rest.bytes().position(|byte| !of_number(byte)).unwrap_or(self.rest.len());
        let number = self.take(end);
        let float: f64 = serde_json::from_str(number).ok()?;
        if number.contains(['.', 'e', 'E']) {
            return Some(Value::from(float));
        }
        let short = number.parse::<i64>().map(Value::from).or_else(|_| number.parse::<u64>().map(Value::from));
        short.or_else(|_| number.parse::<i128>().map(Value::from)).ok()
    }

    fn white(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r']);
    }

    fn maybe(&mut self, text: &str) -> bool {
        let behind = self.rest.strip_prefix(text);
        self.rest = behind.unwrap_or(self.rest);
        behind.is_some()
    }

    fn take(&mut self, bytes: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }
}

/// The filter `tojson`, as templates for language models know it: nothing is escaped for HTML, letters beyond ASCII stay,
/// and a blank follows each comma and colon.
pub(super) fn to_json(state: &State, value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    // The only value that there is; templates say it all the same.
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let mut json = Charged { state, json: Vec::new(), paid: 0 };
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
    match written {
        Err(error) if error.is_io() => Err(ErrorKind::OutOfFuel.into()),
        Err(_) => Err(failed()),
        Ok(()) => String::from_utf8(json.json).map_err(|_| failed()),
    }
}

/// JSON in the making, which is paid for before it is there: a value can be much longer than the template that makes it.
struct Charged<'s, 'e> {
    state: &'s State<'s, 'e>,
    json: Vec<u8>,
    /// Bytes that were paid for.
    paid: usize,
}

impl io::Write for Charged<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.json.len() + bytes.len();
        if length > super::PROMPT_BYTES_MAX {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if length > self.paid {
            let units = (length - self.paid).div_ceil(BYTES_A_UNIT);
            self.state.consume_fuel(units as u64).map_err(|_| io::ErrorKind::QuotaExceeded)?;
            self.paid += units * BYTES_A_UNIT;
        }
        self.json.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
