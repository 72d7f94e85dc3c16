//! Where a JSON object ends, told letter by letter.

/// Deepest nesting of arguments: half of what the parsers that will read them take.
pub(super) const NESTING_MAX: u32 = 64;

/// Follows brackets and strings from within an object. It finds where the object ends and what cannot be JSON; whether
/// everything else is in its place is for whoever reads the arguments.
#[derive(Debug, Clone)]
pub(super) struct Scanner {
    /// The open brackets, the innermost in the lowest bit: 1 for an object's.
    objects: u64,
    depth: u32,
    in_string: bool,
    escaped: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scanned {
    Inside,
    /// The character closed the outermost object.
    Closed,
    /// With this character it is no JSON, or nested too deeply.
    Broken,
}

impl Scanner {
    /// Behind the bracket that opens an object.
    pub(super) fn in_object() -> Self {
        Self { objects: 1, depth: 1, in_string: false, escaped: false }
    }

    pub(super) fn in_string(&self) -> bool {
        self.in_string
    }

    pub(super) fn push(&mut self, character: char) -> Scanned {
        if self.in_string {
            match character {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => self.in_string = false,
                _ => {}
            }
            return Scanned::Inside;
        }
        match character {
            '"' => self.in_string = true,
            '{' | '[' if self.depth == NESTING_MAX => return Scanned::Broken,
            '{' | '[' => {
                self.objects = self.objects << 1 | u64::from(character == '{');
                self.depth += 1;
            }
            '}' | ']' if (self.objects & 1 == 1) != (character == '}') => return Scanned::Broken,
            '}' | ']' => {
                self.objects >>= 1;
                self.depth -= 1;
                if self.depth == 0 {
                    return Scanned::Closed;
                }
            }
            // Numbers, `true`, `false`, `null`, and what stands between values.
            ':' | ',' | '+' | '-' | '.' => {}
            other if other.is_ascii_alphanumeric() || other.is_ascii_whitespace() => {}
            _ => return Scanned::Broken,
        }
        Scanned::Inside
    }
}
