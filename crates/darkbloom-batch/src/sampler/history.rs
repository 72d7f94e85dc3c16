//! What was said before makes tokens less likely, or more.

use darkbloom_types::TokenId;
use zeroize::Zeroize;

use crate::Sampling;
use crate::sampling::Dry;

/// The highest bit of a mark. For repetition: the token stands in the history, and the rest counts how often it stands
/// in the answer. For DRY: the token is a breaker; without it, a mark is the length of a match that the token follows.
const FLAG: u32 = 1 << 31;

/// Changes logits by a row's history. Its table has room for every token, and is all zeros between two rows.
#[derive(Default, Zeroize)]
pub(super) struct Penalties {
    marks: Vec<u32>,
    matches: Vec<u32>,
}

impl Penalties {
    /// Applies the repetition penalty for what stands in `history`, then the frequency and presence penalties for what
    /// stands in `output`, its end. Tokens outside the vocabulary have no logit to change.
    pub(super) fn repetition(
        &mut self,
        logits: &mut [f32],
        sampling: &Sampling,
        history: &[TokenId],
        output: &[TokenId],
    ) {
        let repeats = sampling.repetition_penalty != 1.0;
        let history = if repeats { history } else { output };
        let marks = table(&mut self.marks, logits.len());
        for &token in output {
            if let Some(mark) = mark_of(marks, token) {
                // More than 2³¹ tokens are in no memory.
                *mark = mark.wrapping_add(1);
            }
        }
        for &token in history {
            if let Some(mark) = mark_of(marks, token) {
                *mark |= FLAG;
            }
        }
        for &token in history {
            // Each token once: the first time takes its mark away.
            let Some(mark) = mark_of(marks, token).map(std::mem::take).filter(|&mark| mark != 0) else { continue };
            let logit = &mut logits[token.0 as usize];
            if repeats {
                let penalty = sampling.repetition_penalty;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
            let count = mark & !FLAG;
            if count > 0 {
                *logit -= count as f32 * sampling.frequency_penalty + sampling.presence_penalty;
            }
            *logit = finite(*logit);
        }
    }

    /// Applies DRY for what stands in `history`.
    pub(super) fn dry(&mut self, logits: &mut [f32], dry: &Dry, history: &[TokenId]) {
        let window = &history[history.len().saturating_sub(dry.range as usize)..];
        let marks = table(&mut self.marks, logits.len());
        for &breaker in &dry.breakers {
            if let Some(mark) = mark_of(marks, breaker) {
                *mark = FLAG;
            }
        }
        let is_breaker = |token: &TokenId| marks.get(token.0 as usize).is_some_and(|&mark| mark == FLAG);
        let unbroken = window.iter().rev().position(is_breaker).unwrap_or(window.len());
        match_lengths(window, unbroken, &mut self.matches);
        // A token that followed several pieces is judged by the longest.
        let followers = window.iter().rev();
        for (&follower, &length) in
            followers.clone().zip(&self.matches).filter(|(_, length)| **length >= dry.allowed_length)
        {
            if let Some(mark) = mark_of(marks, follower) {
                // A breaker stays one: no length is so large.
                *mark = length.max(*mark);
            }
        }
        for &follower in followers {
            let Some(mark) = mark_of(marks, follower).filter(|mark| !matches!(**mark, 0 | FLAG)) else { continue };
            let cost =
                f64::from(dry.multiplier) * power(f64::from(dry.base), std::mem::take(mark) - dry.allowed_length);
            let logit = &mut logits[follower.0 as usize];
            *logit = finite((f64::from(*logit) - cost) as f32);
        }
        for &breaker in &dry.breakers {
            if let Some(mark) = mark_of(marks, breaker) {
                *mark = 0;
            }
        }
        self.matches.zeroize();
    }
}

/// The marks of a vocabulary's tokens.
fn table(marks: &mut Vec<u32>, vocabulary: usize) -> &mut [u32] {
    if marks.len() < vocabulary {
        marks.resize(vocabulary, 0);
    }
    &mut marks[..vocabulary]
}

fn mark_of(marks: &mut [u32], token: TokenId) -> Option<&mut u32> {
    marks.get_mut(token.0 as usize)
}

/// A logit that a change took beyond the finite numbers is the outermost of them: less than −∞ would be a ban.
fn finite(logit: f32) -> f32 {
    logit.clamp(f32::MIN, f32::MAX)
}

/// For each place of the window but its last, from its end: how many tokens up to there equal those up to the window's
/// end, at most `most`. This is the Z function of the window read backwards (Gusfield: "Algorithms on strings, trees, and
/// sequences", 1997, section 1.4): its time is proportional to the window, however much repeats.
fn match_lengths(window: &[TokenId], most: usize, lengths: &mut Vec<u32>) {
    let back = |at: usize| window[window.len() - 1 - at];
    lengths.clear();
    // Tokens from `begin` to before `end`, counted from the window's end, are known to equal its first ones.
    let (mut begin, mut end) = (0, 0);
    for at in 1..window.len() {
        let mut length = if at < end { known(lengths, at - begin).min(end - at) } else { 0 };
        // What is known to be shorter than the rest of the known part ends there.
        if at + length >= end {
            while length < most && at + length < window.len() && back(length) == back(at + length) {
                length += 1;
            }
            (begin, end) = (at, at + length);
        }
        lengths.push(u32::try_from(length).unwrap_or(u32::MAX));
    }
}

/// The length at a place that was passed; the place 0 equals itself and is never asked for.
fn known(lengths: &[u32], at: usize) -> usize {
    at.checked_sub(1).and_then(|at| lengths.get(at)).map_or(0, |&length| length as usize)
}

/// base ^ exponent by squaring, so that every machine gives the same bits.
fn power(base: f64, exponent: u32) -> f64 {
    let (mut power, mut square, mut left) = (1.0, base, exponent);
    while left > 0 {
        if left & 1 == 1 {
            power *= square;
        }
        square *= square;
        left >>= 1;
    }
    power
}
