//! Text that others chose, for a terminal or a log.

use std::fmt::Write as _;

/// The text without anything that could move a cursor, change a colour, begin a line of its own, or turn the reading
/// direction: such characters are shown as `\u{…}`.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_plain(character) {
            shown.push(character);
        } else {
            write!(shown, "\\u{{{:x}}}", u32::from(character)).expect("writing to a text never fails");
        }
    }
    shown
}

/// A piece of a model's answer for a terminal: whole, with its lines and tabs, and with U+FFFD for what would drive the
/// terminal. Marks of direction stay: they belong to texts of some languages.
#[must_use]
pub fn printable_answer(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let drives = character.is_control() && !matches!(character, '\n' | '\t');
        shown.push(if drives { char::REPLACEMENT_CHARACTER } else { character });
    }
    shown
}

/// Neither a control character nor one that changes the direction or the place of what follows (Unicode TR 9, section 2,
/// and the line and paragraph separators).
fn is_plain(character: char) -> bool {
    !character.is_control()
        && !matches!(character, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_drive_a_terminal_is_spelled_out() {
        assert_eq!(printable("evil\u{1b}[2J\r\nerror: x\u{9b}0m"), "evil\\u{1b}[2J\\u{d}\\u{a}error: x\\u{9b}0m");
        assert_eq!(printable("a\u{202e}b\u{2066}c\u{2028}"), "a\\u{202e}b\\u{2066}c\\u{2028}");
        assert_eq!(printable("grün, 中文 👍"), "grün, 中文 👍");
    }

    #[test]
    fn an_answer_keeps_its_lines_and_nothing_else_that_moves() {
        assert_eq!(printable_answer("a\tb\nc\u{1b}[31md\r\u{7}"), "a\tb\nc\u{fffd}[31md\u{fffd}\u{fffd}");
    }

    #[test]
    fn nothing_that_is_shown_is_a_control_character() {
        let all: String = (0..=u32::from(char::MAX)).filter_map(char::from_u32).collect();
        for block in all.chars().collect::<Vec<_>>().chunks(64) {
            let text: String = block.iter().collect();
            assert!(!printable(&text).chars().any(char::is_control));
            assert!(!printable_answer(&text).chars().any(|c| c.is_control() && !matches!(c, '\n' | '\t')));
        }
    }
}
