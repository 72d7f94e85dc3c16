//! Tokens that stay whole in every text.

use std::ops::Range;

use darkbloom_types::TokenId;

/// One of them.
struct Entry {
    text: Box<str>,
    token: TokenId,
    /// The longest other one that it begins with.
    shorter: Option<usize>,
    /// How many others it begins with.
    depth: usize,
    /// One of those, far down; itself where there is none. Chosen as by Myers, An applicative random-access stack, 1983:
    /// whichever of them is looked for, the way there has a logarithmic number of steps.
    jump: usize,
}

/// Finds them in a text. Each place of it costs one binary search among those that begin with its byte, and a logarithmic
/// number of steps down the chain of those that one of them begins with: also a vocabulary that is made for it, with
/// thousands of long ones that differ in their last bytes or that each begin with all others, does not make a prompt slow.
pub(crate) struct UserDefined {
    /// In order of their bytes: what one begins with stands before it.
    entries: Vec<Entry>,
    /// Where those are that begin with each byte.
    by_first_byte: Vec<Range<usize>>,
}

impl UserDefined {
    pub(crate) fn new<'t>(tokens: impl Iterator<Item = (&'t String, u32)>) -> Self {
        let mut tokens: Vec<_> = tokens.filter(|(text, _)| !text.is_empty()).collect();
        tokens.sort_unstable();
        let mut entries: Vec<Entry> = Vec::with_capacity(tokens.len());
        let mut by_first_byte = vec![0..0; 256];
        for (at, (text, number)) in tokens.into_iter().enumerate() {
            // What this one begins with is the one before it, or what that begins with, and so on.
            let mut shorter = at.checked_sub(1);
            while let Some(before) = shorter.filter(|before| !text.starts_with(&*entries[*before].text)) {
                shorter = entries[before].shorter;
            }
            let range = &mut by_first_byte[usize::from(text.as_bytes()[0])];
            *range = if range.end == 0 { at..at + 1 } else { range.start..at + 1 };
            let (depth, jump) = match shorter {
                None => (0, at),
                Some(parent) => (entries[parent].depth + 1, jump_over(&entries, parent)),
            };
            entries.push(Entry { text: text.as_str().into(), token: TokenId(number), shorter, depth, jump });
        }
        Self { entries, by_first_byte }
    }

    /// The first of them in `text`, the longest if several begin there: where it is, its length, its number.
    pub(crate) fn find(&self, text: &str) -> Option<(usize, usize, TokenId)> {
        if self.entries.is_empty() {
            return None;
        }
        text.bytes().enumerate().find_map(|(at, byte)| {
            // A token begins with the first byte of a character, so `at` is a character's start wherever one fits.
            let found = self.at(&text.as_bytes()[at..], byte)?;
            Some((at, found.text.len(), found.token))
        })
    }

    /// The longest that `rest` begins with.
    fn at(&self, rest: &[u8], first: u8) -> Option<&Entry> {
        let range = self.by_first_byte[usize::from(first)].clone();
        let after = self.entries[range.clone()].partition_point(|entry| entry.text.as_bytes() <= rest);
        // Whatever `rest` begins with is not after it; and what stands between the two begins with it as well. So the last
        // one that is not after `rest` is the wanted one, or begins with it.
        let mut near = &self.entries[range.start + after.checked_sub(1)?];
        let same = near.text.bytes().zip(rest).take_while(|(its, here)| its == *here).count();
        while near.text.len() > same {
            near = self.step(near, same)?;
        }
        Some(near)
    }

    /// From one that is longer than `most` towards the longest of its chain that is not.
    fn step(&self, from: &Entry, most: usize) -> Option<&Entry> {
        let shorter = from.shorter?;
        let jump = &self.entries[from.jump];
        Some(if jump.text.len() > most { jump } else { &self.entries[shorter] })
    }
}

/// Where the one after `parent` jumps: over two jumps of its that are as long as each other, otherwise to `parent`.
fn jump_over(entries: &[Entry], parent: usize) -> usize {
    let jump = entries[parent].jump;
    let next = entries[jump].jump;
    let even = entries[parent].depth + entries[next].depth == 2 * entries[jump].depth;
    if even { next } else { parent }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Every token at every place, longest first.
    fn by_trying(tokens: &[String], text: &str) -> Option<(usize, usize, TokenId)> {
        let mut longest_first: Vec<_> = (0..).zip(tokens).collect();
        longest_first.sort_by_key(|(_, token)| std::cmp::Reverse(token.len()));
        (0..text.len()).find_map(|at| {
            let rest = &text.as_bytes()[at..];
            let (number, token) = longest_first.iter().find(|(_, token)| rest.starts_with(token.as_bytes()))?;
            Some((at, token.len(), TokenId(*number)))
        })
    }

    fn built(tokens: &[String]) -> UserDefined {
        UserDefined::new(tokens.iter().zip(0..))
    }

    #[test]
    fn the_longest_of_the_first_is_found() {
        let tokens = ["a", "ab", "abcd", "b", "\u{e9}"].map(str::to_owned);
        let found = |text| built(&tokens).find(text).map(|(at, length, token)| (at, length, token.0));
        assert_eq!(found("xabcd"), Some((1, 4, 2)));
        assert_eq!(found("xabce"), Some((1, 2, 1)));
        assert_eq!(found("xacd"), Some((1, 1, 0)));
        assert_eq!(found("x\u{e8}\u{e9}"), Some((3, 2, 4)));
        assert_eq!(found("xyz\u{e8}"), None);
        assert_eq!(found(""), None);
        assert_eq!(built(&[]).find("a"), None);
    }

    #[test]
    fn thousands_of_tokens_that_almost_fit_everywhere_cost_little() {
        // Every one of them fits but for its last byte at almost every place: by trying each this takes minutes.
        let tokens: Vec<_> = (1..4_096).map(|length| format!("{}b", "a".repeat(length))).collect();
        assert_eq!(built(&tokens).find(&"a".repeat(100_000)), None);
    }

    #[test]
    fn a_chain_of_thousands_is_walked_in_few_steps() {
        let defined = built(&(1..=4_096).map(|length| "a".repeat(length)).collect::<Vec<_>>());
        let deepest = defined.entries.last().unwrap();
        for most in 0..4_096 {
            let (mut near, mut steps) = (Some(deepest), 0);
            while let Some(longer) = near.filter(|near| near.text.len() > most) {
                near = defined.step(longer, most);
                steps += 1;
            }
            assert_eq!(near.map_or(0, |near| near.text.len()), most);
            assert!(steps <= 3 * 12, "{steps} steps to the one of {most} bytes");
        }
    }

    #[test]
    fn every_member_of_a_chain_is_found() {
        for (first, every) in [(1, 1), (2, 1), (1, 2), (3, 5), (40, 1)] {
            let mut tokens: Vec<_> = (first..70).step_by(every).map(|length| "a".repeat(length)).collect();
            tokens.extend((first..70).step_by(7).map(|length| format!("{}b", "a".repeat(length))));
            let defined = built(&tokens);
            for length in 0..80 {
                for text in [format!("{}b", "a".repeat(length)), format!("{}c", "a".repeat(length))] {
                    assert_eq!(defined.find(&text), by_trying(&tokens, &text), "{text}");
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn what_is_found_is_what_trying_finds(
            tokens in prop::collection::btree_set("[ab\u{e9}\u{e8}<>]{1,5}", 0..20),
            text in "[ab\u{e9}\u{e8}<>]{0,30}",
        ) {
            let tokens: Vec<_> = tokens.into_iter().rev().collect();
            let defined = built(&tokens);
            for (at, _) in text.char_indices() {
                prop_assert_eq!(defined.find(&text[at..]), by_trying(&tokens, &text[at..]));
            }
        }
    }
}
