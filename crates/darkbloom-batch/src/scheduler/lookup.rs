//! Guessing a row's next tokens from its own past: what followed the last time that the same tokens came.
//!
//! ("Prompt lookup": Saxena, 2023. Checked by the model like a draft model's guesses: Leviathan, Kalman, Matias, "Fast inference
//! from transformers via speculative decoding", ICML 2023. Draws here depend on seed and position alone, so a guess is right
//! exactly when it is what would have been drawn, and rows say the same with and without guesses.)
//!
//! Whether guessing pays is known before the first guess is fed: each sampled token is compared with what would have been
//! guessed, and only the share that was right decides.

use darkbloom_types::TokenId;

/// So many tokens must be the same for what followed them to be a guess.
const MATCH: usize = 3;

/// How much one token moves the share of right guesses: about the last twenty tokens count.
const WEIGHT: f64 = 0.1;

/// Most tokens guessed at once.
pub(crate) const GUESSES_MAX: usize = 16;

/// Where a row's past is looked up. Holds places only, no tokens.
#[derive(Debug, Clone)]
pub(crate) struct Lookup {
    /// The place after the last [`MATCH`] tokens with a hash, or 0. Its length is a power of two.
    after: Vec<u32>,
    /// Tokens of the past that are in `after`.
    seen: usize,
    /// The place of the token that is guessed next, if there is one.
    guess: Option<usize>,
    /// Share of tokens that were guessed right lately, missing guesses included.
    right: f64,
}

impl Lookup {
    /// For a row of at most so many tokens.
    pub(crate) fn new(tokens_max: usize) -> Self {
        let after = vec![0; (tokens_max * 2).next_power_of_two()];
        Self { after, seen: 0, guess: None, right: 0.0 }
    }

    /// Takes in the tokens that came since the last call; of those from `sampled` on it learns how good guesses are.
    pub(crate) fn learn(&mut self, history: &[TokenId], sampled: usize) {
        while self.seen < history.len() {
            let at = self.seen;
            let token = history[at];
            let hit = self.guess.is_some_and(|guess| history[guess] == token);
            if at >= sampled {
                self.right += WEIGHT * (f64::from(u8::from(hit)) - self.right);
            }
            self.seen += 1;
            let found = self.remember(&history[..self.seen]);
            self.guess = if hit { self.guess.map(|guess| guess + 1) } else { found };
        }
    }

    /// Enters the end of the past, and returns the place after where the same tokens stood before.
    fn remember(&mut self, history: &[TokenId]) -> Option<usize> {
        let (_, last) = history.split_last_chunk::<MATCH>()?;
        // The same on every run. Who makes tokens collide only keeps their own row from being guessed at.
        let hash =
            last.iter().fold(0u64, |hash, token| (hash ^ u64::from(token.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let place = (hash >> 32) as usize & (self.after.len() - 1);
        let before = std::mem::replace(&mut self.after[place], u32::try_from(history.len()).ok()?) as usize;
        let same = before >= MATCH && history[before - MATCH..before] == *last;
        same.then_some(before)
    }

    /// The guess at the next tokens, `most` at most.
    pub(crate) fn guess<'h>(&self, history: &'h [TokenId], most: usize) -> &'h [TokenId] {
        let Some(from) = self.guess.filter(|_| self.seen == history.len()) else { return &[] };
        &history[from..history.len().min(from + most)]
    }

    /// How many of so many guesses will be right, at the present share.
    pub(crate) fn expected(&self, guesses: usize) -> f64 {
        // Each is right only if those before it were.
        (1..=guesses).map(|nth| self.right.powi(i32::try_from(nth).unwrap_or(i32::MAX))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(numbers: &[u32]) -> Vec<TokenId> {
        numbers.iter().copied().map(TokenId).collect()
    }

    #[test]
    fn what_followed_the_last_time_is_guessed() {
        let history = tokens(&[1, 2, 3, 9, 8, 1, 2, 3, 7, 6, 5, 1, 2, 3]);
        let mut lookup = Lookup::new(100);
        lookup.learn(&history, history.len());
        assert_eq!(lookup.guess(&history, 4), tokens(&[7, 6, 5, 1]), "the latest of two");
        assert_eq!(lookup.guess(&history, 1), tokens(&[7]));
        assert_eq!(lookup.expected(4), 0.0, "nothing was sampled yet");
    }

    #[test]
    fn nothing_is_guessed_without_a_match_or_with_a_past_that_was_not_learnt() {
        let mut lookup = Lookup::new(100);
        let mut history = tokens(&[1, 2, 3, 4, 5, 6]);
        lookup.learn(&history, 0);
        assert!(lookup.guess(&history, 4).is_empty());
        history.extend(tokens(&[1, 2, 3]));
        assert!(lookup.guess(&history, 4).is_empty());
        lookup.learn(&history, 0);
        assert_eq!(lookup.guess(&history, 9), tokens(&[4, 5, 6, 1, 2, 3]));
    }

    #[test]
    fn a_row_that_repeats_itself_is_worth_guessing_and_one_that_does_not_is_not() {
        let mut same = Lookup::new(1_000);
        let history: Vec<_> = (0..400u32).map(|at| TokenId(at % 7)).collect();
        same.learn(&history, 10);
        assert!(same.expected(4) > 3.9, "{}", same.expected(4));
        let mut other = Lookup::new(1_000);
        let history: Vec<_> = (0..400u32).map(TokenId).collect();
        other.learn(&history, 10);
        assert_eq!(other.expected(4), 0.0);
    }
}
