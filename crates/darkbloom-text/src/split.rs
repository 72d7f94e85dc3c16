//! Pre-tokenizers: where a text is cut before byte-pair encoding, which then never joins across a cut.
//!
//! Each family is a regular expression in its makers' files. Here they are written out by hand: one pass, no
//! backtracking, nothing that a hostile text could make slow. Tests compare them with the expressions themselves.

use crate::unicode::{Class, class};

/// How a family of models cuts text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PreTokenizer {
    /// GPT-2's.
    Gpt2,
    /// Llama 3's: numbers in groups of up to three digits.
    Llama3,
    /// Qwen 2's, 2.5's and 3's: each digit alone.
    Qwen2,
    /// `SmolLM`'s and StarCoder's: GPT-2's with each digit alone.
    SmolLm,
}

impl PreTokenizer {
    /// Every one there is.
    pub const ALL: [Self; 4] = [Self::Gpt2, Self::Llama3, Self::Qwen2, Self::SmolLm];

    /// The name in a [`crate::TextPack`] and in GGUF files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt2 => "gpt-2",
            Self::Llama3 => "llama-bpe",
            Self::Qwen2 => "qwen2",
            Self::SmolLm => "smollm",
        }
    }

    /// The pre-tokenizer of a name in a GGUF file, some of which mean the same.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "llama3" | "llama-v3" => Some(Self::Llama3),
            "deepseek-r1-qwen" => Some(Self::Qwen2),
            _ => Self::ALL.into_iter().find(|known| known.name() == name),
        }
    }

    /// Cuts `text` into pieces that together are `text`.
    pub(crate) fn pieces(self, text: &str) -> Pieces<'_> {
        Pieces { rules: self, rest: text }
    }

    /// Length in bytes of the first piece of `text`, which is not empty.
    fn first(self, text: &str) -> usize {
        match self {
            Self::Gpt2 => gpt2(text),
            Self::Llama3 => modern(text, 3),
            Self::Qwen2 => modern(text, 1),
            Self::SmolLm => smollm(text),
        }
    }
}

/// Iterates over the pieces of a text.
pub(crate) struct Pieces<'t> {
    rules: PreTokenizer,
    rest: &'t str,
}

impl<'t> Iterator for Pieces<'t> {
    type Item = &'t str;
    fn next(&mut self) -> Option<&'t str> {
        if self.rest.is_empty() {
            return None;
        }
        let (piece, rest) = self.rest.split_at(self.rules.first(self.rest));
        self.rest = rest;
        Some(piece)
    }
}

/// Bytes of the longest prefix whose characters all satisfy `wanted`.
fn run(text: &str, wanted: impl Fn(char) -> bool) -> usize {
    text.char_indices().find(|&(_, character)| !wanted(character)).map_or(text.len(), |(at, _)| at)
}

fn is(wanted: Class) -> impl Fn(char) -> bool {
    move |character| class(character) == wanted
}

fn is_line_end(character: char) -> bool {
    matches!(character, '\r' | '\n')
}

/// `'s|'t|'re|'ve|'m|'ll|'d`, after the apostrophe; in any case if `fold`.
fn contraction(rest: &str, fold: bool) -> Option<usize> {
    let mut characters = rest.chars().map(|character| match character {
        // The long s is an s to an expression that ignores case.
        'ſ' if fold => 's',
        _ if fold => character.to_ascii_lowercase(),
        _ => character,
    });
    let first = rest.chars().next()?;
    match (characters.next()?, characters.next()) {
        ('s' | 't' | 'm' | 'd', _) => Some(1 + first.len_utf8()),
        ('r' | 'v', Some('e')) | ('l', Some('l')) => Some(3),
        _ => None,
    }
}

/// Whitespace that no other rule took: `\s+(?!\S)|\s+`. Its last character is left to the word that follows.
fn spaces(text: &str) -> usize {
    let length = run(text, char::is_whitespace);
    let last = text[..length].chars().next_back().map_or(0, char::len_utf8);
    if length == text.len() || length == last { length } else { length - last }
}

/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
fn gpt2(text: &str) -> usize {
    if let Some(length) = text.strip_prefix('\'').and_then(|rest| contraction(rest, false)) {
        return length;
    }
    let space = usize::from(text.starts_with(' '));
    let word = &text[space..];
    match word.chars().next().map(class) {
        Some(kind @ (Class::Letter | Class::Number | Class::Other)) => space + run(word, is(kind)),
        Some(Class::Space) | None => spaces(text),
    }
}

/// `\p{N}` first, and GPT-2's rules for what lies between the numbers, each stretch as if it were a whole text.
fn smollm(text: &str) -> usize {
    let white = run(text, char::is_whitespace);
    match text[white..].chars().next() {
        Some(next) if class(next) == Class::Number => {
            if white == 0 {
                next.len_utf8()
            } else {
                white
            }
        }
        _ => gpt2(text),
    }
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
fn modern(text: &str, digits: usize) -> usize {
    if let Some(length) = text.strip_prefix('\'').and_then(|rest| contraction(rest, true)) {
        return length;
    }
    let mut characters = text.chars();
    let first = characters.next().expect("a text with a first piece is not empty");
    let second = characters.next().map(class);
    let kind = class(first);
    if kind == Class::Letter {
        return run(text, is(Class::Letter));
    }
    if kind == Class::Number {
        return text.chars().take(digits).take_while(|&next| class(next) == Class::Number).map(char::len_utf8).sum();
    }
    if second == Some(Class::Letter) && !is_line_end(first) {
        let marked = first.len_utf8();
        return marked + run(&text[marked..], is(Class::Letter));
    }
    if kind == Class::Other || (first == ' ' && second == Some(Class::Other)) {
        let space = usize::from(first == ' ');
        let end = space + run(&text[space..], is(Class::Other));
        return end + run(&text[end..], is_line_end);
    }
    let white = run(text, char::is_whitespace);
    match text[..white].rfind(is_line_end) {
        Some(line_end) => line_end + 1,
        None => spaces(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokenizers::utils::SysRegex;

    const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

    fn by_expression<'t>(expression: &SysRegex, text: &'t str) -> Vec<&'t str> {
        expression.find_iter(text).map(|(start, end)| &text[start..end]).collect()
    }

    fn by_hand(rules: PreTokenizer, text: &str) -> Vec<&str> {
        rules.pieces(text).collect()
    }

    #[test]
    fn names_read_back() {
        for rules in PreTokenizer::ALL {
            assert_eq!(PreTokenizer::from_name(rules.name()), Some(rules));
        }
        assert_eq!(PreTokenizer::from_name("tekken"), None);
    }

    #[test]
    fn qwen2_cuts_as_its_makers_show() {
        let text = "I'LL pay 42€  now\n\n  (maybe)!\r\n";
        let expected = ["I", "'LL", " pay", " ", "4", "2", "€", " ", " now", "\n\n", " ", " (", "maybe", ")!\r\n"];
        assert_eq!(by_hand(PreTokenizer::Qwen2, text), expected);
    }

    #[test]
    fn a_megabyte_of_one_character_is_cut_at_once() {
        for character in [' ', '\n', 'a', '!', '7'] {
            let text: String = std::iter::repeat_n(character, 1 << 20).collect();
            for rules in PreTokenizer::ALL {
                assert_eq!(rules.pieces(&text).map(str::len).sum::<usize>(), text.len());
            }
        }
    }

    /// Texts in which the rules meet: contractions, spaces of all kinds, digits, letters of several scripts.
    fn meeting_text() -> impl Strategy<Value = String> {
        let part = prop_oneof![
            Just("'".to_owned()),
            prop::sample::select(vec!["'s", "'S", "'ſ", "'re", "'lL", "'ve", "'d", "ſ", "K", "İ"])
                .prop_map(str::to_owned),
            prop::sample::select(vec![" ", "  ", "\n", "\r\n", "\t", "\u{3000}", "\u{a0}", "\u{85}", "\u{200b}"])
                .prop_map(str::to_owned),
            "[a-z0-9é中٣Ⅷ²!?<|>_. \n\u{301}👍]{1,3}",
            any::<char>().prop_map(String::from),
        ];
        prop::collection::vec(part, 0..24).prop_map(|parts| parts.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn pieces_are_those_of_the_expressions(text in meeting_text()) {
            thread_local! {
                static EXPRESSIONS: [SysRegex; 3] = [GPT2, LLAMA3, QWEN2].map(|it| SysRegex::new(it).unwrap());
            }
            EXPRESSIONS.with(|[gpt2, llama3, qwen2]| {
                prop_assert_eq!(by_hand(PreTokenizer::Gpt2, &text), by_expression(gpt2, &text));
                prop_assert_eq!(by_hand(PreTokenizer::Llama3, &text), by_expression(llama3, &text));
                prop_assert_eq!(by_hand(PreTokenizer::Qwen2, &text), by_expression(qwen2, &text));
                // SmolLM: each number alone, the rest as GPT-2's.
                let mut expected = Vec::new();
                for part in text.split_inclusive(is(Class::Number)) {
                    let digit = part.chars().next_back().filter(|&last| class(last) == Class::Number);
                    let (words, digit) = part.split_at(part.len() - digit.map_or(0, char::len_utf8));
                    expected.extend(by_expression(gpt2, words));
                    expected.extend(Some(digit).filter(|digit| !digit.is_empty()));
                }
                prop_assert_eq!(by_hand(PreTokenizer::SmolLm, &text), expected);
                Ok(())
            })?;
        }
    }
}
