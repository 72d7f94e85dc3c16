//! Which prompts are fed in a step, and how much of each.

use super::state::{Feeding, Row};
use super::{Scheduler, slot_of};
use crate::plan::RowWork;

/// What a prompt's piece may take, as a part of what the rows take that decode beside it: a little less than the twofold gap
/// between tokens that a long prompt may cause, since what a step takes is known only roughly.
const PREFILL_PART: f64 = 0.9;

/// From so many decoding rows on that gap is kept. Fewer leave a prompt more of the step: a piece is a pass over all weights
/// whatever its size, and what a small one costs is lost for everybody. On one AVX2 thread a token of a 0.6 B model takes 26 ms in
/// a piece of 4, 18 in one of 16 and 16 in one of 64.
const GAP_KEPT_ROWS: usize = 8;

/// A prompt that takes at most so many times what a step of rows of its own owner takes goes in one piece: one longer gap is
/// sooner over than several short ones, each with another pass over the weights.
const SHORT_PROMPT_STEPS: f64 = 5.0;

/// What a step of decoding rows may take in any case so that others prefill in it: a gap that nobody notices.
const PREFILL_STEP_US_MIN: f64 = 1e3;

/// Prompt tokens that join a step of decoding rows while nothing is known about what steps take.
const CHUNK_UNKNOWN: usize = 32;

/// Prompt tokens of a step while nothing is known about what they take: on the slowest machine a few seconds.
const CHUNK_FIRST: usize = 64;

/// How long prompts in a step should take at most: so long waits who comes next. Beside rows of others that decode it is the
/// whole step.
const PREFILL_STEP_US_MAX: f64 = 1e6;

/// The same where several prompts wait and nobody but their owner is there: fewer steps, with more of each in a pass over the
/// weights and fewer rows that decode in small company, have all of them done sooner.
const BURST_STEP_US_MAX: f64 = 2e6;

/// A prompt that would get less than this part of what it needs waits for the next step, where another ends in this one: its
/// rest would be another pass over the weights. Nobody waits twice like that.
const PIECE_PART_MIN: f64 = 0.75;

/// Prompt tokens that join a step of decoding rows at least: with fewer, a prompt of a thousand tokens would take longer than
/// anybody waits.
const CHUNK_MIN: usize = 4;

/// A row whose prompt is fed.
struct Prompt {
    slot: usize,
    /// Tokens that it lacks.
    needs: usize,
    /// The first of them that another row waits for.
    awaited: Option<usize>,
    /// It waited because it would have got a small piece.
    passed_over: bool,
    /// What the step feeds.
    gets: usize,
}

impl Prompt {
    /// The turns that the prompt, `at` some place among others, has in a step, and how many tokens it has after each.
    fn turns(&self, at: usize) -> impl Iterator<Item = (usize, usize)> + use<> {
        let awaited = self.awaited.filter(|&tokens| tokens < self.needs);
        awaited.into_iter().chain([self.needs]).map(move |tokens| (at, tokens))
    }

    /// Whether it gets all that it lacks, or all that another waits for.
    fn ends(&self) -> bool {
        self.gets > 0 && (self.gets == self.needs || self.awaited.is_some_and(|tokens| self.gets >= tokens))
    }
}

impl Scheduler {
    /// Prompts share what decoding rows leave of the step, or of the time that it may take. Half goes to the one that was
    /// admitted first, so that none waits for ever, and the rest to those that need least. Of those that need about the same
    /// the first goes first, in one piece rather than in several. What others wait for goes first as if it were a prompt of
    /// its own. What would have been a small piece goes to the first too.
    pub(super) fn plan_prefill(&mut self, left: usize, rows: &mut Vec<RowWork>) {
        let mut prompts: Vec<Prompt> = Vec::new();
        for &slot in &self.admitted {
            let Some(row) = self.places[slot].row.as_ref() else { continue };
            if !row.decodes() && row.follows.is_none() {
                prompts.push(Prompt {
                    slot,
                    needs: row.pending(),
                    awaited: self.awaited_of(slot, row),
                    passed_over: row.passed_over,
                    gets: 0,
                });
            }
        }
        let Some(first) = prompts.first() else { return };
        let fed = self.limits.step_tokens_max - left;
        let mut left = self.prefill_room(first.slot, fed, rows.len()).max(CHUNK_MIN).min(left);
        let mut turns: Vec<_> = prompts.iter().enumerate().flat_map(|(at, prompt)| prompt.turns(at)).collect();
        turns.sort_by_key(|&(_, tokens)| tokens.checked_ilog2());
        turns.insert(0, (0, first.needs.min(left.div_ceil(2))));
        for (at, tokens) in turns {
            let prompt = &mut prompts[at];
            let more = tokens.saturating_sub(prompt.gets).min(left);
            prompt.gets += more;
            left -= more;
        }
        pass_over_small_pieces(&mut prompts);
        for Prompt { slot, passed_over, gets, .. } in prompts {
            if gets > 0 {
                self.copy_first_tokens(slot);
            }
            let Some(row) = &mut self.places[slot].row else { continue };
            row.passed_over = passed_over;
            if gets == 0 {
                continue;
            }
            let gets = gets.min(row.pending());
            let work = row.work(slot_of(slot), gets, 0);
            self.places[slot].out = Some(Feeding { tokens: gets, draws: work.sample.is_some() });
            rows.push(work);
        }
    }

    /// How many tokens of prompts a step takes that decodes so many tokens of so many rows. `first` is the slot of the prompt
    /// that was admitted first.
    fn prefill_room(&self, first: usize, decoded: usize, decoding: usize) -> usize {
        // Those that wait for what another feeds wait for their first token too.
        let waiting = self.running().filter(|row| !row.decodes()).count();
        let own_us = if waiting > 1 && self.all_of_one_owner() { BURST_STEP_US_MAX } else { PREFILL_STEP_US_MAX };
        if decoding == 0 {
            return self.cost.room_alone(own_us).unwrap_or(CHUNK_FIRST);
        }
        let Some(decoding_us) = self.cost.of_decoding(decoded) else { return CHUNK_UNKNOWN };
        let short = self.cost.room_beside(SHORT_PROMPT_STEPS * decoding_us);
        let whole = self.places[first].row.as_ref().map_or(0, |row| row.prompt_tokens);
        let own = self.decoders_wait_too(waiting > 1 || short.is_some_and(|tokens| whole <= tokens));
        let us = prompts_us(decoding_us, decoding, waiting, own.then_some(own_us));
        self.cost.room_beside(us).unwrap_or(CHUNK_UNKNOWN)
    }

    fn all_of_one_owner(&self) -> bool {
        let mut owners = self.running().chain(self.waiting.iter()).map(|row| row.owner);
        owners.next().is_none_or(|first| owners.all(|owner| owner == first))
    }

    /// Whether everybody whose row decodes has one that waits for its first token: if not `any`, one that came before the
    /// other began.
    fn decoders_wait_too(&self, any: bool) -> bool {
        let came_with = |row: &Row, other: &Row| other.began_after.is_some_and(|last| row.arrival <= last);
        let waits_for = |other: &Row| {
            let waits = |row: &&Row| !row.decodes() && row.owner == other.owner;
            self.running().filter(waits).any(|row| any || came_with(row, other))
        };
        self.running().filter(|row| row.decodes()).all(waits_for)
    }
}

/// Where a prompt ends in a step, small pieces of others wait, and the first gets what they leave.
fn pass_over_small_pieces(prompts: &mut [Prompt]) {
    let anyone_ends = prompts.iter().any(Prompt::ends);
    let Some((first, others)) = prompts.split_first_mut() else { return };
    for prompt in others {
        let small = (prompt.gets as f64) < PIECE_PART_MIN * prompt.needs as f64;
        if prompt.gets > 0 && anyone_ends && small && !prompt.ends() && !prompt.passed_over {
            first.gets = (first.gets + std::mem::take(&mut prompt.gets)).min(first.needs);
            prompt.passed_over = true;
        } else if prompt.gets > 0 {
            prompt.passed_over = false;
        }
    }
    first.passed_over = false;
}

/// How long prompts' pieces may take in a step whose rows decode for so long. `own_us` is for when owners of prompts have all
/// rows that decode, and several prompts wait, or a short one, or one that came before those rows began: who asks for much at
/// once has all of it sooner when prompts go first, and in few pieces.
fn prompts_us(decoding_us: f64, decoding: usize, prompts: usize, own_us: Option<f64>) -> f64 {
    let kept = PREFILL_PART * decoding_us;
    if let Some(own_us) = own_us {
        return kept.max(own_us);
    }
    let few = if decoding < GAP_KEPT_ROWS {
        // Where more wait for their first token than decode, each of them all counts the same.
        (kept * GAP_KEPT_ROWS as f64).max(decoding_us * prompts as f64) / decoding as f64
    } else {
        kept
    };
    few.min(PREFILL_STEP_US_MAX - decoding_us).max(kept).max(PREFILL_STEP_US_MIN - decoding_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_get_a_part_of_a_step_by_how_many_rows_decode_and_how_many_wait() {
        for prompts in [1, 50] {
            assert_eq!(prompts_us(100e3, 8, prompts, None), 90e3, "the gap is kept");
            assert_eq!(prompts_us(100e3, 16, prompts, None), 90e3);
        }
        assert_eq!(prompts_us(100e3, 4, 1, None), 180e3, "as much as beside eight for all of them");
        assert_eq!(prompts_us(100e3, 2, 12, None), 600e3, "six times as many wait");
        assert_eq!(prompts_us(200e3, 1, 1, None), 800e3, "the step takes a second");
        assert_eq!(prompts_us(100e3, 16, 2, Some(1e6)), 1e6, "and longer for who waits for several");
        assert_eq!(prompts_us(4e6, 1, 1, None), 3.6e6, "which it takes without any prompt");
        assert_eq!(prompts_us(100.0, 8, 1, None), 900.0, "nobody notices a millisecond");
    }
}
