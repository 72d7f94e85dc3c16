//! What the calls of an answer are named by.

use darkbloom_types::Digest;

/// Letters and digits, of which ids are made.
const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Length of an id: the chat templates of one family take no other, and all others take this one.
const ID_LETTERS: usize = 9;

/// Names the calls of one answer. A provider names none: an id is for the consumer's own conversation, and what a provider
/// cannot choose it cannot lie about.
pub struct CallIds {
    answer: String,
    next: usize,
}

impl CallIds {
    /// Of the answer with this id.
    pub fn new(answer: &str) -> Self {
        Self { answer: answer.to_owned(), next: 0 }
    }

    /// Which call comes now, from 0, and its id: no two of a conversation are alike, as likely as that is with 53 bits.
    pub fn next(&mut self) -> (usize, String) {
        let index = self.next;
        self.next += 1;
        let number = u64::try_from(index).unwrap_or(u64::MAX).to_be_bytes();
        let digest = Digest::of(&[b"darkbloom/v1/call-id", self.answer.as_bytes(), &number]);
        // A byte has four times as many values as there are letters, and eight more: the bias hurts nobody.
        let letters = digest.as_bytes().iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
        (index, letters.take(ID_LETTERS).collect())
    }

    /// The call that came last.
    pub fn last(&self) -> usize {
        self.next.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_nine_letters_and_no_two_alike() {
        let mut ids = std::collections::BTreeSet::new();
        for answer in ["chatcmpl-1", "chatcmpl-2"] {
            let mut calls = CallIds::new(answer);
            for index in 0..128 {
                let (given, id) = calls.next();
                assert_eq!((given, calls.last(), id.len()), (index, index, ID_LETTERS));
                assert!(id.bytes().all(|letter| letter.is_ascii_alphanumeric()));
                ids.insert(id);
            }
        }
        assert_eq!(ids.len(), 256);
    }
}
