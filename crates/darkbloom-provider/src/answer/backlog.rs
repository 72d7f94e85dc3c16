//! How much text can be left over, computed from token counts alone.
//!
//! A frame's size depends on its number of tokens, so a text of long tokens may not fit and goes on in later frames; what
//! is left at the end needs frames of its own. Were there as many as the text needs, their number would show that the
//! tokens were long. So the end always has the frames that the longest possible text would need.

use darkbloom_content::PART_HEAD_BYTES_MAX;
use darkbloom_seal::{AnswerSealer, FRAME_SIZES};
use darkbloom_text::{ANSWER_HELD_BYTES_MAX, TextModel};
use darkbloom_types::TokenId;

/// Longest text of a token that the tail provides for: twice the longest tokens of public vocabularies, which are runs
/// of 128 spaces. What longer tokens leave over shows.
const TOKEN_TEXT_MAX: usize = 256;
/// Least text that a token counts for: the heads of three parts. A marker and a call of few letters between two texts bring
/// one head more than the marker's own letters would pay for.
const TOKEN_TEXT_MIN: usize = 16;
/// Most of an answer that is held back, and the head of the part that it becomes. Three bytes of a character may become
/// three bytes of U+FFFD.
const HELD_MAX: usize = ANSWER_HELD_BYTES_MAX + PART_HEAD_BYTES_MAX;
/// Most bytes of a tail. Coordinators relay 64 frames without a token; this takes 58 of them at most, and is reached
/// after 8,600 frames of one token of 128 bytes.
const TAIL_MAX: usize = 46 * LARGEST;
/// What a frame's content takes beside tokens and text, at most: keys and kind 5 bytes, the heads of tokens and parts 3
/// each, the first part's own, and what a cut can leave unused: 3 bytes before the last whole character, or those of a
/// head with no room behind it. Every further part's head is paid for by what is no text before it, the letters of markers
/// and of what a call is written with: so tokens never bring more bytes, heads included, than they count for, which the
/// parser's tests hold.
const CONTENT_HEAD_MAX: usize = 5 + 3 + 3 + PART_HEAD_BYTES_MAX + 3 + PART_HEAD_BYTES_MAX;
/// Bytes of a token's number, at most.
const TOKEN_NUMBER_MAX: usize = 5;
/// The largest frame.
pub const LARGEST: usize = FRAME_SIZES[FRAME_SIZES.len() - 1].0;

/// The longest text that one token of a model can bring, `TOKEN_TEXT_MAX` at most. Bytes that are no characters count
/// as the U+FFFD that they become, and a marker as its letters.
pub fn token_text_max(text: &TextModel) -> usize {
    let tokens = (0..u32::try_from(text.vocabulary()).unwrap_or(u32::MAX)).map(TokenId);
    let lengths = tokens.filter_map(|token| Some(String::from_utf8_lossy(text.token_bytes(token)?).len()));
    lengths.max().unwrap_or(0).clamp(TOKEN_TEXT_MIN, TOKEN_TEXT_MAX)
}

/// The most text that can be waiting or held back, whatever the answer says.
pub struct Backlog {
    pub token_text_max: usize,
    pub most: usize,
}

impl Backlog {
    /// A frame of so many tokens was sealed: either all text that was ready went with it, or it was filled.
    pub fn sealed(&mut self, tokens: usize, size: usize) {
        let before = self.most + tokens * self.token_text_max;
        let filled = before.saturating_sub(room(tokens, size));
        self.most = filled.max(before.min(HELD_MAX)).min(TAIL_MAX);
    }

    /// Sizes of the frames that hold all of it.
    pub fn tail(&self) -> Vec<usize> {
        let sizes = FRAME_SIZES.map(|(size, _)| size);
        let (mut tail, mut rest) = (Vec::new(), self.most);
        while rest > 0 {
            let fits = sizes.iter().position(|size| rest <= room(0, *size));
            let size = match fits {
                None => LARGEST,
                // A quarter of the size, up to three times, is less than the whole.
                Some(fits @ 1..) if rest < 3 * room(0, sizes[fits - 1]) => sizes[fits - 1],
                Some(fits) => sizes[fits],
            };
            tail.push(size);
            rest = rest.saturating_sub(room(0, size));
        }
        tail
    }
}

/// The text that a frame of this size has room for beside so many tokens, at least.
fn room(tokens: usize, size: usize) -> usize {
    AnswerSealer::capacity(size).saturating_sub(CONTENT_HEAD_MAX + tokens * TOKEN_NUMBER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use darkbloom_seal::frame_size;

    #[test]
    fn a_tail_holds_the_most_that_can_be_left_and_few_frames_do() {
        for most in (0..20_000).chain([60_000, TAIL_MAX - 60, TAIL_MAX]) {
            let tail = Backlog { token_text_max: 128, most }.tail();
            assert!(tail.iter().map(|size| room(0, *size)).sum::<usize>() >= most, "{most}");
            assert!(tail.len() <= 58, "{} frames for {most} bytes", tail.len());
        }
        assert!(Backlog { token_text_max: 128, most: 0 }.tail().is_empty());
    }

    #[test]
    fn only_what_is_held_back_can_be_left_of_short_tokens() {
        let mut backlog = Backlog { token_text_max: 13, most: 0 };
        for tokens in [1, 1, 1, 6, 25, 400] {
            backlog.sealed(tokens, frame_size(u32::try_from(tokens).unwrap()));
        }
        assert_eq!(backlog.most, HELD_MAX);
        assert_eq!(backlog.tail(), [1_024, 256, 256, 256]);
    }
}
