//! In how many forwards a step is computed, and how wide they are.
//!
//! A forward reads all weights once, and llama.cpp's products of them with a few columns take longer than as many of one column
//! each: on one AVX2 thread a 0.6 B model in Q8_0 decoded one row in 28 ms, two together in 105 and three in 144. So rows that
//! decode share no forward with a prompt's piece, whose first token would be a column more for them, and a few of them share
//! one only where that is faster. With more rows the products go two columns at a time, and a last one alone reads all weights
//! again: seven rows took 189 ms and eight 180, so a token of no consequence may be cheap company. No neighbour changes
//! a row's bits in exact mode, so none of this does either.

use std::cmp::Ordering;
use std::ops::RangeInclusive;

use darkbloom_batch::RowWork;

/// Most idle slots between two decoding rows that are filled with a token of no consequence. llama.cpp computes only
/// neighbouring slots in one pass over the weights, so a gap costs another pass.
const GAP_FILLED_MAX: usize = 2;

/// Fewest decoding rows with which gaps are filled: a forward of two rows took 105 ms, so with a gap between them four rows took
/// twice that, and one of six columns took 182; one of three columns took longer than three of one.
const GAP_FILL_ROWS_MIN: usize = 4;

/// How many decoding rows may be faster apart.
const APART_ROWS_MAX: usize = 5;

/// Odd numbers of columns with which another may be added: with fewer, a forward takes longer than it is worth, and among more,
/// one is little.
const FILLED: RangeInclusive<usize> = 5..=31;

/// Every so many steps of so many rows another way than the fastest is tried once more.
const TRIED_AGAIN: u32 = 64;

/// How much a slower measurement moves what is remembered, and how much slower it counts for at most: the machine may have had
/// other work. Nothing makes a forward faster than it is.
const WEIGHT: f64 = 0.25;
const SLOWER_MAX: f64 = 1.5;

/// A way to decode some rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// One forward for all.
    Together,
    /// A forward for each.
    Apart,
    /// One forward for all and a token of no consequence.
    Filled,
}

impl Way {
    /// How many there are.
    const COUNT: usize = 3;

    /// Those that may be the fastest for so many rows in so many columns; `spare` says whether another can be added.
    fn all(rows: usize, columns: usize, spare: bool) -> Vec<Self> {
        let mut ways = vec![Self::Together];
        if (2..=APART_ROWS_MAX).contains(&rows) && rows == columns {
            ways.push(Self::Apart);
        }
        if FILLED.contains(&columns) && columns % 2 == 1 && spare {
            ways.push(Self::Filled);
        }
        ways
    }
}

/// What is known about the ways to decode each number of columns.
#[derive(Debug, Default)]
pub(super) struct Passes {
    known: [Known; *FILLED.end() + 1],
}

/// What each way took for one number of columns, in microseconds, where known.
#[derive(Debug, Default, Clone, Copy)]
struct Known {
    us: [Option<f64>; Way::COUNT],
    steps: u32,
}

impl Known {
    /// Which of these ways the next step goes.
    fn next(&self, ways: &[Way]) -> Option<Way> {
        let us = |way: &Way| self.us[*way as usize];
        if let Some(unknown) = ways.iter().find(|way| us(way).is_none()) {
            return Some(*unknown);
        }
        let mut ways = ways.to_vec();
        ways.sort_by(|one, other| us(one).partial_cmp(&us(other)).unwrap_or(Ordering::Equal));
        let (fastest, others) = ways.split_first()?;
        let turns = (self.steps / TRIED_AGAIN) as usize;
        let tried_again = others.get(turns % others.len().max(1)).filter(|_| self.steps.is_multiple_of(TRIED_AGAIN));
        Some(*tried_again.unwrap_or(fastest))
    }
}

/// The rows of a step, by the forwards that compute them.
pub(super) struct Split<'r> {
    /// Those that decode: one group for each forward.
    pub(super) decoding: Vec<Vec<&'r RowWork>>,
    /// Slots that get a token of no consequence beside them.
    pub(super) fillers: Vec<usize>,
    /// Those that are fed more of their prompt, in one forward.
    pub(super) prompts: Vec<&'r RowWork>,
    /// How many columns there are and which way is gone, if there are several.
    way: Option<(usize, Way)>,
}

impl Passes {
    /// Splits a step. `alone` says whether a row may be computed alone, and `spare` whether there is such a slot with room for a
    /// token more.
    pub(super) fn split<'r>(
        &self,
        rows: impl IntoIterator<Item = &'r RowWork>,
        alone: bool,
        spare: impl Fn(usize) -> bool,
    ) -> Split<'r> {
        let decodes = |row: &&RowWork| row.sample.is_some() && row.tokens.len() == 1 + row.guesses as usize;
        let (decoding, prompts): (Vec<_>, Vec<_>) = rows.into_iter().partition(decodes);
        let mut slots: Vec<usize> = decoding.iter().map(|row| row.slot.0 as usize).collect();
        slots.sort_unstable();
        let mut fillers = fill_gaps(&slots, &spare);
        let columns = slots.len() + fillers.len();
        let plain = alone && decoding.iter().all(|row| row.guesses == 0);
        let ends = slots.first().copied().zip(slots.last().copied());
        let ends = ends.filter(|(first, last)| plain && last - first + 1 == columns);
        let way = ends.and_then(|(first, last)| {
            let beside = [Some(last + 1), first.checked_sub(1)].into_iter().flatten().find(|slot| spare(*slot));
            let ways = Way::all(slots.len(), columns, beside.is_some());
            let way = self.known.get(columns).filter(|_| ways.len() > 1)?.next(&ways)?;
            fillers.extend(beside.filter(|_| way == Way::Filled));
            Some((columns, way))
        });
        let decoding = match way {
            _ if decoding.is_empty() => Vec::new(),
            Some((_, Way::Apart)) => decoding.into_iter().map(|row| vec![row]).collect(),
            _ => vec![decoding],
        };
        Split { decoding, fillers, prompts, way }
    }

    /// Takes in what the decoding of a step took that was split so.
    pub(super) fn learn(&mut self, split: &Split<'_>, us: f64) {
        let Some((columns, way)) = split.way else { return };
        let Some(known) = self.known.get_mut(columns) else { return };
        known.steps = known.steps.wrapping_add(1);
        let known = &mut known.us[way as usize];
        *known = Some(match *known {
            Some(before) if us > before => before + WEIGHT * (us.min(SLOWER_MAX * before) - before),
            _ => us,
        });
    }
}

/// The slots between those of rows, in order, that get a token of no consequence.
fn fill_gaps(slots: &[usize], spare: impl Fn(usize) -> bool) -> Vec<usize> {
    let gaps = slots.windows(2).filter(|_| slots.len() >= GAP_FILL_ROWS_MIN).map(|pair| pair[0] + 1..pair[1]);
    gaps.filter(|gap| gap.len() <= GAP_FILLED_MAX && gap.clone().all(&spare)).flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use darkbloom_batch::{RowId, SampleAt, Sampling, Slot};
    use darkbloom_types::{SecretTokens, TokenId};

    use super::*;

    fn row(slot: u32, tokens: usize, guesses: u32, draws: bool) -> RowWork {
        let sample = draws.then(|| SampleAt::new(Arc::new(Sampling::greedy()), 0));
        let tokens = SecretTokens::new(vec![TokenId(1); tokens]);
        RowWork { slot: Slot(slot), id: RowId(slot.into()), start: 5, tokens, guesses, sample }
    }

    /// Rows that decode, in slots from this one on.
    fn decoding(first: u32, rows: u32) -> Vec<RowWork> {
        (first..first + rows).map(|slot| row(slot, 1, 0, true)).collect()
    }

    fn sizes(split: &Split<'_>) -> (Vec<usize>, usize) {
        (split.decoding.iter().map(Vec::len).collect(), split.prompts.len())
    }

    /// Steps of these rows, where eight slots are. What each takes is told by its forwards and fillers; returns how often each
    /// was taken.
    fn steps(
        passes: &mut Passes,
        rows: &[RowWork],
        steps: usize,
        us: impl Fn(usize, usize) -> f64,
    ) -> BTreeMap<(usize, usize), usize> {
        let mut taken = BTreeMap::new();
        for _ in 0..steps {
            let split = passes.split(rows, true, |slot| slot < 8);
            let way = (split.decoding.len(), split.fillers.len());
            *taken.entry(way).or_default() += 1;
            // Once in a while the machine stands still.
            let us = us(way.0, way.1) * if taken.values().sum::<usize>() % 100 == 0 { 50.0 } else { 1.0 };
            passes.learn(&split, us);
        }
        taken
    }

    #[test]
    fn a_prompts_piece_is_never_computed_with_rows_that_decode() {
        let rows =
            [row(0, 1, 0, true), row(1, 9, 0, false), row(2, 4, 3, true), row(3, 9, 0, true), row(4, 1, 0, false)];
        let split = Passes::default().split(&rows, true, |_| true);
        assert_eq!(sizes(&split), (vec![2], 3));
        assert_eq!(split.decoding[0].iter().map(|row| row.slot.0).collect::<Vec<_>>(), [0, 2]);
        assert_eq!(sizes(&Passes::default().split(&rows[1..2], true, |_| true)), (vec![], 1));
    }

    #[test]
    fn few_rows_go_the_faster_way_after_both_were_tried() {
        for (together, apart) in [(105.0, 76.0), (76.0, 105.0)] {
            for count in 2..=4 {
                let us = |forwards, _| if forwards == 1 { together } else { apart };
                let taken = steps(&mut Passes::default(), &decoding(0, count), 640, us);
                assert_eq!(taken.keys().copied().collect::<Vec<_>>(), [(1, 0), (count as usize, 0)]);
                let faster = if together < apart { 1 } else { count as usize };
                assert!(taken[&(faster, 0)] > 550, "{taken:?}");
            }
        }
    }

    #[test]
    fn the_way_changes_with_what_it_takes() {
        let (rows, mut passes) = (decoding(0, 2), Passes::default());
        let mut run =
            |together: f64| steps(&mut passes, &rows, 400, |forwards, _| if forwards == 1 { together } else { 76.0 });
        assert!(run(105.0)[&(2, 0)] > 350);
        assert!(run(60.0)[&(1, 0)] > 200);
    }

    #[test]
    fn a_row_too_many_gets_company_where_that_is_faster() {
        let by_twos = |columns: usize| columns.div_ceil(2) as f64 + (columns % 2) as f64;
        let same = |columns: usize| columns as f64;
        let best = |count: u32, first: u32, us: &dyn Fn(usize) -> f64| {
            let us = |forwards: usize, fillers: usize| if forwards == 1 { us(count as usize + fillers) } else { 99.0 };
            let taken = steps(&mut Passes::default(), &decoding(first, count), 640, us);
            *taken.iter().max_by_key(|(_, times)| **times).unwrap().0
        };
        assert_eq!(best(7, 0, &by_twos), (1, 1));
        assert_eq!(best(7, 1, &by_twos), (1, 1), "the slot before them does as well");
        assert_eq!(best(5, 2, &by_twos), (1, 1));
        assert_eq!(best(6, 0, &by_twos), (1, 0));
        assert_eq!(best(7, 0, &same), (1, 0));
    }

    #[test]
    fn company_lives_in_a_slot_beside_the_rows_that_has_room() {
        let rows = decoding(2, 7);
        for (spare, filler) in [([1, 9], Some(9)), ([1, 10], Some(1)), ([0, 10], None)] {
            let mut passes = Passes::default();
            let fillers = (0..2).map(|_| {
                let split = passes.split(&rows, true, |slot| spare.contains(&slot));
                passes.learn(&split, 9.0);
                split.fillers
            });
            assert_eq!(fillers.flatten().next(), filler, "{spare:?}");
        }
    }

    #[test]
    fn short_gaps_between_rows_are_filled_and_count_as_columns() {
        let rows = |slots: &[u32]| slots.iter().map(|&slot| row(slot, 1, 0, true)).collect::<Vec<_>>();
        let fillers = |slots: &[u32], spare: &dyn Fn(usize) -> bool| {
            let rows = rows(slots);
            let split = Passes::default().split(&rows, true, spare);
            (split.fillers.clone(), split.way.map(|(columns, _)| columns))
        };
        assert_eq!(fillers(&[0, 2, 5, 6], &|slot| slot < 8), (vec![1, 3, 4], Some(7)));
        assert_eq!(fillers(&[0, 2, 3, 7], &|slot| slot < 8), (vec![1], None), "one is too long");
        assert_eq!(fillers(&[0, 2, 3, 4], &|slot| slot != 1), (vec![], None), "one has no room");
        assert_eq!(fillers(&[0, 2, 4], &|_| true), (vec![], None), "too few rows");
        let mut guessing = rows(&[0, 2, 3, 4]);
        guessing[0] = row(0, 3, 2, true);
        assert_eq!(Passes::default().split(&guessing, true, |_| true).fillers, [1]);
    }

    #[test]
    fn rows_with_guesses_or_a_gap_many_rows_and_rows_that_need_company_share_one_forward() {
        let mut passes = Passes::default();
        let apart = |forwards, _| if forwards == 1 { 100.0 } else { 10.0 };
        (2..=5).for_each(|count| _ = steps(&mut passes, &decoding(0, count), 4, apart));
        let split = |rows: &[RowWork], alone| {
            let split = passes.split(rows, alone, |_| true);
            (sizes(&split).0, split.fillers.len(), split.way.is_some())
        };
        assert_eq!(split(&decoding(0, 3), true), (vec![1, 1, 1], 0, true));
        assert_eq!(split(&decoding(0, 3), false), (vec![3], 0, false));
        assert_eq!(split(&decoding(0, 33), true), (vec![33], 0, false));
        assert_eq!(split(&decoding(0, 1), true), (vec![1], 0, false));
        // Whose cost would say nothing about the ways.
        for others in [[row(0, 1, 0, true), row(1, 3, 2, true)], [row(0, 1, 0, true), row(2, 1, 0, true)]] {
            assert_eq!(split(&others, true), (vec![2], 0, false));
        }
        assert!(split(&[row(4, 1, 0, true), row(3, 1, 0, true)], true).2);
    }
}
