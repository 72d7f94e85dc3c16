//! In how many forwards a step is computed.
//!
//! A forward reads all weights once, and llama.cpp's products of them with two or three columns take longer than as many of
//! one column each: on one AVX2 thread a 0.6 B model in Q8_0 decoded one row in 38 ms, two together in 105 and three in 144. So
//! rows that decode share no forward with a prompt's piece, whose first token would be a column more for them, and two or
//! three of them share one only where that is faster. No neighbour changes a row's bits in exact mode, so this does not either.

use darkbloom_batch::RowWork;

/// How many decoding rows may be faster apart.
const APART_ROWS_MAX: usize = 3;

/// Every so many steps of so many rows the slower way is tried once more.
const TRIED_AGAIN: u32 = 64;

/// How much a slower measurement moves what is remembered, and how much slower it counts for at most: the machine may have had
/// other work. Nothing makes a forward faster than it is.
const WEIGHT: f64 = 0.25;
const SLOWER_MAX: f64 = 1.5;

/// What is known about decoding a few rows together and apart.
#[derive(Debug, Default)]
pub(super) struct Passes {
    ways: [Ways; APART_ROWS_MAX - 1],
}

/// Both ways to decode one number of rows.
#[derive(Debug, Default, Clone, Copy)]
struct Ways {
    /// Microseconds, where known.
    together: Option<f64>,
    apart: Option<f64>,
    steps: u32,
}

impl Ways {
    /// Which way the next step goes.
    fn next_is_apart(self) -> bool {
        match (self.together, self.apart) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(together), Some(apart)) => (apart < together) != self.steps.is_multiple_of(TRIED_AGAIN),
        }
    }
}

/// The rows of a step, by the forwards that compute them.
pub(super) struct Split<'r> {
    /// Those that decode: one group for each forward.
    pub(super) decoding: Vec<Vec<&'r RowWork>>,
    /// Those that are fed more of their prompt, in one forward.
    pub(super) prompts: Vec<&'r RowWork>,
    /// Whether what the decoding takes says something about the ways to do it.
    pub(super) measured: bool,
}

impl Passes {
    /// Splits a step. `alone` says whether a row may be computed alone.
    pub(super) fn split<'r>(&self, rows: impl IntoIterator<Item = &'r RowWork>, alone: bool) -> Split<'r> {
        let decodes = |row: &&RowWork| row.sample.is_some() && row.tokens.len() == 1 + row.guesses as usize;
        let (decoding, prompts): (Vec<_>, Vec<_>) = rows.into_iter().partition(decodes);
        // llama.cpp computes slots with a gap between them apart in any case.
        let neighbours = decoding.iter().map(|row| row.slot.0).max() == last_of_neighbours(&decoding);
        let plain = alone && neighbours && decoding.iter().all(|row| row.guesses == 0);
        let ways = decoding.len().checked_sub(2).and_then(|at| self.ways.get(at)).filter(|_| plain);
        let apart = ways.is_some_and(|ways| ways.next_is_apart());
        let decoding = match decoding {
            none if none.is_empty() => Vec::new(),
            rows if apart => rows.into_iter().map(|row| vec![row]).collect(),
            rows => vec![rows],
        };
        Split { decoding, prompts, measured: ways.is_some() }
    }

    /// Takes in what a decoding took that is to be measured, of so many rows in so many forwards.
    pub(super) fn learn(&mut self, rows: usize, forwards: usize, us: f64) {
        let Some(ways) = rows.checked_sub(2).and_then(|at| self.ways.get_mut(at)) else { return };
        ways.steps = ways.steps.wrapping_add(1);
        let known = if forwards > 1 { &mut ways.apart } else { &mut ways.together };
        *known = Some(match *known {
            Some(before) if us > before => before + WEIGHT * (us.min(SLOWER_MAX * before) - before),
            _ => us,
        });
    }
}

/// The slot that the last of so many rows has if all are in neighbouring slots.
fn last_of_neighbours(rows: &[&RowWork]) -> Option<u32> {
    Some(rows.iter().map(|row| row.slot.0).min()? + rows.len() as u32 - 1)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use darkbloom_batch::{RowId, SampleAt, Sampling, Slot};
    use darkbloom_types::{SecretTokens, TokenId};

    use super::*;

    fn row(slot: u32, tokens: usize, guesses: u32, draws: bool) -> RowWork {
        let sample = draws.then(|| SampleAt::new(Arc::new(Sampling::greedy()), 0));
        let tokens = SecretTokens::new(vec![TokenId(1); tokens]);
        RowWork { slot: Slot(slot), id: RowId(slot.into()), start: 5, tokens, guesses, sample }
    }

    fn sizes(split: &Split<'_>) -> (Vec<usize>, usize) {
        (split.decoding.iter().map(Vec::len).collect(), split.prompts.len())
    }

    #[test]
    fn a_prompts_piece_is_never_computed_with_rows_that_decode() {
        let rows =
            [row(0, 1, 0, true), row(1, 9, 0, false), row(2, 4, 3, true), row(3, 9, 0, true), row(4, 1, 0, false)];
        let split = Passes::default().split(&rows, true);
        assert_eq!(sizes(&split), (vec![2], 3));
        assert_eq!(split.decoding[0].iter().map(|row| row.slot.0).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(sizes(&Passes::default().split(&rows[1..2], true)), (vec![], 1));
    }

    #[test]
    fn two_and_three_rows_go_the_faster_way_after_both_were_tried() {
        for (together, apart) in [(105.0, 76.0), (76.0, 105.0)] {
            for count in [2_u32, 3] {
                let rows: Vec<_> = (0..count).map(|slot| row(slot, 1, 0, true)).collect();
                let mut passes = Passes::default();
                let mut slower = 0;
                for step in 0..640 {
                    let split = passes.split(&rows, true);
                    assert!(split.measured);
                    let us = if split.decoding.len() == 1 { together } else { apart };
                    slower += usize::from(us > 80.0);
                    // Once in a while the machine stands still.
                    let us = if step % 100 == 0 { us * 50.0 } else { us };
                    passes.learn(rows.len(), split.decoding.len(), us);
                }
                assert!((10..=90).contains(&slower), "{slower} of 640 steps went the slower way");
            }
        }
    }

    #[test]
    fn the_way_changes_with_what_it_takes() {
        let rows = [row(0, 1, 0, true), row(1, 1, 0, true)];
        let mut passes = Passes::default();
        let mut step = |together: f64, apart: f64| {
            let forwards = passes.split(&rows, true).decoding.len();
            passes.learn(2, forwards, if forwards == 1 { together } else { apart });
            forwards
        };
        (0..100).for_each(|_| _ = step(105.0, 76.0));
        let forwards: Vec<_> = (0..400).map(|_| step(60.0, 76.0)).collect();
        assert!(forwards[300..].iter().filter(|&&forwards| forwards == 1).count() > 90);
    }

    #[test]
    fn rows_with_guesses_or_a_gap_many_rows_and_rows_that_need_company_share_one_forward() {
        let mut passes = Passes::default();
        for count in [2, 3] {
            passes.learn(count, 1, 100.0);
            passes.learn(count, count, 10.0);
        }
        let plain: Vec<_> = (0..4).map(|slot| row(slot, 1, 0, true)).collect();
        assert_eq!(sizes(&passes.split(&plain[..3], true)), (vec![1, 1, 1], 0));
        assert_eq!(sizes(&passes.split(&plain[..3], false)), (vec![3], 0));
        assert_eq!(sizes(&passes.split(&plain, true)), (vec![4], 0));
        assert_eq!(sizes(&passes.split(&plain[..1], true)), (vec![1], 0));
        // Whose cost would say nothing about the two ways.
        for others in [[row(0, 1, 0, true), row(1, 3, 2, true)], [row(0, 1, 0, true), row(2, 1, 0, true)]] {
            let split = passes.split(&others, true);
            assert_eq!((sizes(&split), split.measured), ((vec![2], 0), false));
        }
        assert!(passes.split(&[row(4, 1, 0, true), row(3, 1, 0, true)], true).measured);
    }
}
