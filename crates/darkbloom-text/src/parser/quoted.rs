//! JSON that stands in a JSON string (RFC 8259, section 7), letter by letter.

/// Reads the letters of a string.
#[derive(Clone, Default)]
pub(super) struct Quoted(Escape);

/// How far an escape sequence came.
#[derive(Clone, Copy, Default)]
enum Escape {
    #[default]
    None,
    /// Behind the backslash.
    Begun,
    /// Behind `\u` and so many digits with this value; and the first half of a pair before it.
    Unicode { digits: u8, value: u32, first: Option<u32> },
    /// Behind the first half of a surrogate pair.
    Half(u32),
    /// And a backslash.
    HalfBegun(u32),
}

pub(super) enum Unquoted {
    /// An escape sequence that is not whole.
    Partial,
    Letter(char),
    /// The string ends here, or with this letter it is none.
    Over,
}

impl Quoted {
    /// Takes the next letter in. After [`Unquoted::Over`] nothing may come.
    pub(super) fn push(&mut self, letter: char) -> Unquoted {
        let next = match (self.0, letter) {
            (Escape::None, '\\') => Escape::Begun,
            (Escape::None, '"') => return Unquoted::Over,
            (Escape::None, _) => return Unquoted::Letter(letter),
            (Escape::Begun, 'u') => Escape::Unicode { digits: 0, value: 0, first: None },
            (Escape::Begun, _) => {
                let Some(meant) = escaped(letter) else { return Unquoted::Over };
                return self.is(meant);
            }
            (Escape::Unicode { digits, value, first }, _) => {
                let Some(digit) = letter.to_digit(16) else { return Unquoted::Over };
                let (digits, value) = (digits + 1, value << 4 | digit);
                match (digits, first, value) {
                    (..4, ..) => Escape::Unicode { digits, value, first },
                    (_, None, 0xd800..0xdc00) => Escape::Half(value),
                    (_, None, _) => return char::from_u32(value).map_or(Unquoted::Over, |letter| self.is(letter)),
                    (_, Some(first), 0xdc00..0xe000) => {
                        let both = 0x10000 + ((first - 0xd800) << 10) + (value - 0xdc00);
                        return char::from_u32(both).map_or(Unquoted::Over, |letter| self.is(letter));
                    }
                    (_, Some(_), _) => return Unquoted::Over,
                }
            }
            (Escape::Half(first), '\\') => Escape::HalfBegun(first),
            (Escape::HalfBegun(first), 'u') => Escape::Unicode { digits: 0, value: 0, first: Some(first) },
            (Escape::Half(_) | Escape::HalfBegun(_), _) => return Unquoted::Over,
        };
        self.0 = next;
        Unquoted::Partial
    }

    fn is(&mut self, letter: char) -> Unquoted {
        self.0 = Escape::None;
        Unquoted::Letter(letter)
    }
}

/// What a letter behind a backslash stands for.
fn escaped(letter: char) -> Option<char> {
    Some(match letter {
        '"' | '\\' | '/' => letter,
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unquoted(text: &str) -> (String, bool) {
        let (mut quoted, mut letters) = (Quoted::default(), String::new());
        for letter in text.chars() {
            match quoted.push(letter) {
                Unquoted::Partial => {}
                Unquoted::Letter(letter) => letters.push(letter),
                Unquoted::Over => return (letters, false),
            }
        }
        (letters, true)
    }

    #[test]
    fn escapes_stand_for_what_json_says() {
        for text in ["", "a \"b\" \\ / \u{8}\u{c}\n\r\t", "grün 中 👍 \u{1}"] {
            let quoted = serde_json::to_string(text).unwrap();
            assert_eq!(unquoted(&quoted[1..quoted.len() - 1]), (text.to_owned(), true));
        }
        assert_eq!(unquoted("\\u4e2D\\ud83d\\udc4d\\/"), ("中👍/".to_owned(), true));
    }

    #[test]
    fn what_is_no_string_ends_it() {
        for text in ["\\x", "\\u12g", "\\udc4d", "\\ud83dx", "\\ud83d\\n", "\\ud83d\\u0041", "\""] {
            assert_eq!(unquoted(&format!("a{text}b")), ("a".to_owned(), false), "{text}");
        }
    }
}
