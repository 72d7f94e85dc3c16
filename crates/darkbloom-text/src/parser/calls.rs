//! Calls: their heads, their arguments, and what follows those.

use darkbloom_content::{CALL_ARGUMENTS_BYTES_MAX, CALLS_MAX, PartKind};
use darkbloom_types::SecretString;
use zeroize::Zeroizing;

use super::head::{self, After, Given, HEAD_BYTES_MAX, Head, HeadKind, Known};
use super::quoted::{Quoted, Unquoted};
use super::scanner::{Scanned, Scanner};
use super::{AnswerParser, EARLY_BYTES_MAX, State, UNITS_MAX, Unit};
use crate::format::Written;

impl AnswerParser {
    fn known(&self) -> Known<'_> {
        Known { marks: &self.marks, offered: self.offered.as_deref() }
    }

    pub(super) fn read_head(&mut self, kind: HeadKind) {
        match head::read(kind, &self.head, self.known()) {
            Head::Partial if self.held <= HEAD_BYTES_MAX => {}
            Head::Partial => self.no_head(kind, 0),
            Head::None { from } => self.no_head(kind, from),
            Head::Call { .. } if self.calls == CALLS_MAX => self.no_head(kind, 0),
            Head::Call { name, given, after } => {
                self.leave_head();
                self.begin_call(&name);
                match given {
                    Given::Object => {
                        self.argue("{");
                        self.state = State::Arguments(Scanner::in_object(), after);
                    }
                    Given::Text => {
                        self.argue("{");
                        self.state = State::Quoted(Quoted::default(), Scanner::in_object(), after);
                    }
                    Given::Nothing => {
                        self.argue("{}");
                        self.argued(after);
                    }
                }
            }
            Head::Early => self.state = State::Early(Scanner::in_object(), kind),
            Head::Body(body) => {
                self.leave_head();
                self.voice.apart();
                self.state = State::Say(body);
            }
        }
    }

    /// Arguments that stand before the name.
    pub(super) fn read_early(&mut self, unit: Unit) {
        let mark = self.mark_of(unit);
        self.hold(unit);
        let State::Early(scanner, kind) = &mut self.state else { return };
        let kind = *kind;
        let scanned = match (unit, mark) {
            (Unit::Letter(letter), _) => scanner.push(letter),
            (Unit::Mark(_), Some(mark)) if mark.written == Written::Whole && scanner.in_string() => {
                // None of its letters ends a string.
                for letter in mark.text.chars() {
                    scanner.push(letter);
                }
                Scanned::Inside
            }
            (Unit::Mark(_), _) => Scanned::Broken,
        };
        if scanned == Scanned::Broken || self.held > HEAD_BYTES_MAX + EARLY_BYTES_MAX {
            self.no_head(kind, 0);
        } else if scanned == Scanned::Closed {
            self.state = State::Late(self.head.len(), kind);
        }
    }

    /// What stands behind them.
    pub(super) fn read_late(&mut self, from: usize, kind: HeadKind) {
        match head::read_late(kind, &self.head[from..], self.known()) {
            Head::Partial if self.held <= HEAD_BYTES_MAX + EARLY_BYTES_MAX => {}
            Head::Call { name, after, .. } if self.calls < CALLS_MAX => {
                let head = std::mem::replace(&mut self.head, Zeroizing::new(Vec::with_capacity(UNITS_MAX)));
                self.leave_head();
                self.begin_call(&name);
                let begin = head.iter().take(from).position(|unit| *unit == Unit::Letter(':')).map_or(0, |at| at + 1);
                // The first bracket behind a colon opens them: what may stand before is a key and `"function"`.
                let begin = begin + head[begin..from].iter().position(|unit| *unit == Unit::Letter('{')).unwrap_or(0);
                for unit in &head[begin..from] {
                    match *unit {
                        Unit::Letter(letter) => self.argue(letter.encode_utf8(&mut [0; 4])),
                        Unit::Mark(_) => self.mark_of(*unit).into_iter().for_each(|mark| self.argue(mark.text)),
                    }
                }
                self.argued(after);
            }
            Head::Partial | Head::Call { .. } | Head::None { .. } | Head::Body(_) | Head::Early => {
                self.no_head(kind, 0);
            }
        }
    }

    fn begin_call(&mut self, name: &SecretString) {
        self.voice.call(name.expose());
        (self.calls, self.arguments) = (self.calls + 1, 0);
    }

    fn argue(&mut self, text: &str) {
        self.arguments += text.len();
        self.voice.argue(text);
    }

    /// A head is read.
    pub(super) fn leave_head(&mut self) {
        self.head.clear();
        (self.held, self.led) = (0, None);
    }

    /// Whether what was read of the head of a message is that, and not already what it says.
    pub(super) fn is_about_a_message(&self) -> bool {
        let letters = |beginning: &str| {
            let white = |unit: &&Unit| matches!(unit, Unit::Letter(letter) if letter.is_ascii_whitespace());
            let head = self.head.iter().skip_while(white);
            head.zip(beginning.chars()).filter(|(unit, letter)| **unit == Unit::Letter(*letter)).count()
                == beginning.len()
        };
        let marked = self.head.iter().any(|unit| matches!(unit, Unit::Mark(_)));
        self.led.is_some() || marked || letters("to=") || letters("<|channel|>")
    }

    /// What was read as a head is text, from this unit on.
    pub(super) fn no_head(&mut self, kind: HeadKind, from: usize) {
        let head = std::mem::replace(&mut self.head, Zeroizing::new(Vec::with_capacity(UNITS_MAX)));
        let led = self.led;
        self.leave_head();
        self.state = State::Say(PartKind::Text);
        let mut rest = &head[from..];
        if from == 0
            && let Some(led) = led.filter(|led| led.written != Written::Control)
        {
            // It was no marker.
            led.text.chars().for_each(|letter| self.say(PartKind::Text, letter));
        }
        if kind == HeadKind::Bare
            && let Some((Unit::Letter(first), behind)) = rest.split_first()
        {
            // Its first letter is what made it one.
            self.say(PartKind::Text, *first);
            rest = behind;
        }
        self.again.extend(rest.iter().rev());
    }

    pub(super) fn read_argument(&mut self, unit: Unit) {
        let mark = self.mark_of(unit);
        let (letter, scanned, after) = match (&mut self.state, unit) {
            (State::Arguments(scanner, _), Unit::Mark(_)) if !scanner.in_string() => return self.broken(unit),
            (State::Arguments(..) | State::Quoted(..), Unit::Mark(_)) => {
                return match mark {
                    // In a string it is what the model writes.
                    Some(mark) if mark.written == Written::Whole => {
                        self.again.extend(mark.text.chars().rev().map(Unit::Letter));
                    }
                    Some(_) | None => self.broken(unit),
                };
            }
            (State::Arguments(scanner, after), Unit::Letter(letter)) => (letter, scanner.push(letter), *after),
            (State::Quoted(quoted, scanner, after), Unit::Letter(letter)) => match quoted.push(letter) {
                Unquoted::Partial => return self.hold(unit),
                Unquoted::Letter(letter) => (letter, scanner.push(letter), *after),
                Unquoted::Over => return self.broken(unit),
            },
            _ => return,
        };
        if scanned == Scanned::Broken || self.arguments + letter.len_utf8() > CALL_ARGUMENTS_BYTES_MAX {
            return self.broken(unit);
        }
        self.leave_head();
        self.argue(letter.encode_utf8(&mut [0; 4]));
        if scanned != Scanned::Closed {
            return;
        }
        if let State::Quoted(..) = self.state {
            self.state = State::Unquote(after);
        } else {
            self.argued(after);
        }
    }

    /// The arguments are whole.
    pub(super) fn argued(&mut self, after: After) {
        if self.one_call {
            return self.voice.stop();
        }
        match after {
            After::Nothing => self.speak(),
            After::Fence => {
                self.speak();
                self.fence = true;
            }
            After::Object | After::Element => self.state = State::Tail(Scanner::in_object(), after),
            After::ObjectInFence => {
                self.fence = true;
                self.state = State::Tail(Scanner::in_object(), after);
            }
            After::List => self.state = State::List,
        }
    }

    /// The rest of a call's object: its end, or more of its keys. They are short and have plain letters; what has not is text.
    pub(super) fn read_tail(&mut self, unit: Unit) {
        let begun = self.head.iter().any(|unit| !matches!(unit, Unit::Letter(white) if white.is_ascii_whitespace()));
        let State::Tail(scanner, after) = &mut self.state else { return };
        let after = *after;
        let scanned = match unit {
            Unit::Letter(',' | '}') => scanner.push(if unit == Unit::Letter(',') { ',' } else { '}' }),
            Unit::Letter(letter) if letter.is_ascii() && (begun || letter.is_ascii_whitespace()) => {
                scanner.push(letter)
            }
            Unit::Letter(_) | Unit::Mark(_) => Scanned::Broken,
        };
        match scanned {
            Scanned::Inside if self.held < HEAD_BYTES_MAX => self.hold(unit),
            Scanned::Inside | Scanned::Broken => self.broken(unit),
            Scanned::Closed => {
                self.leave_head();
                if after == After::Element {
                    self.state = State::List;
                } else {
                    self.speak();
                }
            }
        }
    }

    /// A call does not go on as one: this is the first of what follows, behind what was held back.
    pub(super) fn broken(&mut self, unit: Unit) {
        if self.one_call {
            return self.voice.stop();
        }
        self.again.push(unit);
        self.head_is_text();
    }

    /// What is held back of a call is no part of it.
    pub(super) fn head_is_text(&mut self) {
        self.again.extend(self.head.iter().rev());
        self.leave_head();
        self.speak();
    }
}
