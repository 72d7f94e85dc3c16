//! In how many forwards a step is computed, and how wide they are.
//!
//! A forward reads all weights once, and llama.cpp's products of them with a few columns take longer than as many of one column
//! each: on one AVX2 thread a 0.6 B model in Q8_0 decoded one row in 28 ms, two together in 105 and three in 144. So rows that
//! decode share no forward with a prompt's piece, whose first token would be a column more for them, and a few of them share
//! one only where that is faster. With more rows the products go two columns at a time, and a last one alone reads all weights
//! again: seven rows took 189 ms and eight 180, so a token of no consequence may be cheap company. No neighbour changes
//! a row's bits in exact mode, so none of this does either.

use std::ops::RangeInclusive;

use darkbloom_batch::RowWork;

/// Most idle slots between two decoding rows that are filled with a token of no consequence. llama.cpp computes only
/// neighbouring slots in one pass over the weights, so a gap costs another pass.
const GAP_FILLED_MAX: usize = 2;

/// Fewest decoding rows with which gaps are filled: one forward of two rows and one of one took as long as four of one.
const GAP_FILL_ROWS_MIN: usize = 4;

/// How many decoding rows may be faster apart.
const APART_ROWS_MAX: usize = 5;

/// Odd numbers of columns with which another may be added: with fewer, a forward takes longer than it is worth, and among more,
/// one is little.
const FILLED: RangeInclusive<usize> = 5..=31;

/// After so many steps a slower way is tried once more, for each tenth by which it was slower: that costs 0.2 % at most.
const TRIED_AGAIN: f64 = 64.0;

/// How much a slower measurement moves what is remembered, and how much slower it counts for at most: the machine may have had
/// other work. Nothing makes a forward faster than it is.
const WEIGHT: f64 = 0.25;
const SLOWER_MAX: f64 = 1.5;

/// A way to decode some rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// One forward for so many columns: rows, and tokens of no consequence in the gaps between them.
    Together(usize),
    /// A forward for each of so many rows.
    Apart(usize),
    /// One forward for so many columns and a token of no consequence.
    Filled(usize),
}

/// What is known about the ways to decode few rows.
#[derive(Debug, Default)]
pub(super) struct Passes {
    /// By the number of columns.
    together: [Known; *FILLED.end() + 1],
    /// By the number of rows.
    apart: [Known; APART_ROWS_MAX + 1],
    /// By the number of columns that there were before.
    filled: [Known; *FILLED.end() + 1],
    /// Steps that were measured.
    steps: u64,
}

/// What a way took, in microseconds, if it was tried, and at which step it last was.
#[derive(Debug, Default, Clone, Copy)]
struct Known {
    us: Option<f64>,
    at: u64,
}

/// The rows of a step, by the forwards that compute them.
pub(super) struct Split<'r> {
    /// Those that decode: one group for each forward.
    pub(super) decoding: Vec<Vec<&'r RowWork>>,
    /// Slots that get a token of no consequence beside them.
    pub(super) fillers: Vec<usize>,
    /// Those that are fed more of their prompt, in one forward.
    pub(super) prompts: Vec<&'r RowWork>,
    /// Which way that is, if there are several.
    way: Option<Way>,
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
        let guesses = decoding.iter().any(|row| row.guesses > 0);
        let mut slots: Vec<usize> = decoding.iter().map(|row| row.slot.0 as usize).collect();
        slots.sort_unstable();
        let mut fillers = if guesses { Vec::new() } else { fill_gaps(&slots, &spare) };
        let (measured, apart) =
            if alone && !guesses { self.choose(&slots, &mut fillers, spare) } else { (None, false) };
        let decoding = match decoding {
            none if none.is_empty() => Vec::new(),
            rows if apart => rows.into_iter().map(|row| vec![row]).collect(),
            rows => vec![rows],
        };
        Split { decoding, fillers, prompts, way: measured }
    }

    /// The way to decode rows in these slots, in order, if what it takes is worth remembering, and whether they are apart. `fillers`
    /// fill gaps between them; there is one more, or none, where that is the way.
    fn choose(&self, slots: &[usize], fillers: &mut Vec<usize>, spare: impl Fn(usize) -> bool) -> (Option<Way>, bool) {
        let (Some(first), Some(last)) = (slots.first(), slots.last()) else { return (None, false) };
        let (rows, columns) = (slots.len(), slots.len() + fillers.len());
        let apart = Some(Way::Apart(rows)).filter(|_| (2..=APART_ROWS_MAX).contains(&rows));
        if last - first + 1 != columns {
            // Several forwards in any case: no measure of one.
            let us = |way| self.known(way).and_then(|known| known.us);
            let faster = apart.is_some_and(|apart| us(apart).zip(us(Way::Together(rows))).is_some_and(|(a, b)| a < b));
            if faster {
                fillers.clear();
            }
            return (None, faster);
        }
        let beside = [Some(last + 1), first.checked_sub(1)].into_iter().flatten().find(|slot| spare(*slot));
        let odd = FILLED.contains(&columns) && columns % 2 == 1;
        let filled = beside.filter(|_| odd).map(|_| Way::Filled(columns));
        let ways: Vec<_> = [Some(Way::Together(columns)), apart, filled].into_iter().flatten().collect();
        let Some(way) = self.next(&ways).filter(|_| ways.len() > 1) else { return (None, false) };
        match way {
            Way::Together(_) => {}
            Way::Apart(_) => fillers.clear(),
            Way::Filled(_) => fillers.extend(beside),
        }
        (Some(way), matches!(way, Way::Apart(_)))
    }

    /// Which of these ways the next step goes: one that was never tried, one that was not for long, or the fastest.
    fn next(&self, ways: &[Way]) -> Option<Way> {
        let known = |way: &Way| self.known(*way).copied().unwrap_or_default();
        if let Some(unknown) = ways.iter().find(|way| known(way).us.is_none()) {
            return Some(*unknown);
        }
        let us = |way: &Way| known(way).us.unwrap_or(f64::INFINITY);
        let fastest = ways.iter().min_by(|one, other| us(one).total_cmp(&us(other)))?;
        let again = |way: &&Way| {
            let tenths = (10.0 * (us(way) / us(fastest) - 1.0)).ceil().max(1.0);
            *way != fastest && (self.steps - known(way).at) as f64 >= TRIED_AGAIN * tenths
        };
        Some(*ways.iter().find(again).unwrap_or(fastest))
    }

    fn known(&self, way: Way) -> Option<&Known> {
        match way {
            Way::Together(columns) => self.together.get(columns),
            Way::Apart(rows) => self.apart.get(rows),
            Way::Filled(columns) => self.filled.get(columns),
        }
    }

    /// Takes in what the decoding of a step took that was split so.
    pub(super) fn learn(&mut self, split: &Split<'_>, us: f64) {
        let known = match split.way {
            Some(Way::Together(columns)) => self.together.get_mut(columns),
            Some(Way::Apart(rows)) => self.apart.get_mut(rows),
            Some(Way::Filled(columns)) => self.filled.get_mut(columns),
            None => None,
        };
        let Some(known) = known else { return };
        self.steps += 1;
        known.at = self.steps;
        known.us = Some(match known.us {
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
    fn the_way_changes_with_what_it_takes_and_what_is_much_slower_is_hardly_tried() {
        let (rows, mut passes) = (decoding(0, 2), Passes::default());
        let us = |together: f64| move |forwards, _| if forwards == 1 { together } else { 76.0 };
        assert!(steps(&mut passes, &rows, 400, us(105.0))[&(2, 0)] > 390);
        assert!(steps(&mut passes, &rows, 400, us(60.0))[&(1, 0)] > 100);
        let taken = steps(&mut Passes::default(), &rows, 640, us(20.0));
        assert_eq!(taken[&(2, 0)], 1, "almost four times as slow");
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
            (split.fillers.clone(), split.way)
        };
        assert_eq!(fillers(&[0, 2, 5, 6], &|slot| slot < 8), (vec![1, 3, 4], Some(Way::Together(7))));
        assert_eq!(fillers(&[0, 2, 3, 7], &|slot| slot < 8), (vec![1], None), "one is too long");
        assert_eq!(fillers(&[0, 2, 3, 4], &|slot| slot != 1), (vec![], None), "one has no room");
        assert_eq!(fillers(&[0, 2, 4], &|_| true), (vec![], None), "too few rows");
        let mut guessing = rows(&[0, 2, 3, 4]);
        guessing[0] = row(0, 3, 2, true);
        assert!(
            Passes::default().split(&guessing, true, |_| true).fillers.is_empty(),
            "guesses take another pass anyway"
        );
    }

    #[test]
    fn few_rows_with_gaps_are_apart_where_neighbours_are_faster_apart() {
        for (apart_us, apart) in [(90.0, true), (200.0, false)] {
            let mut passes = Passes::default();
            let us = |forwards, _| if forwards == 1 { 120.0 } else { apart_us };
            [3, 4, 5].into_iter().for_each(|rows| _ = steps(&mut passes, &decoding(0, rows), 4, us));
            for (slots, fillers) in [(&[0, 1, 3][..], 0), (&[0, 1, 2, 4], 1), (&[0, 1, 2, 7], 0)] {
                let rows: Vec<_> = slots.iter().map(|&slot| row(slot, 1, 0, true)).collect();
                let split = passes.split(&rows, true, |slot| slot < 8);
                let forwards = if apart { slots.len() } else { 1 };
                assert_eq!((split.decoding.len(), split.fillers.len()), (forwards, if apart { 0 } else { fillers }));
            }
        }
    }

    #[test]
    fn rows_with_guesses_many_rows_and_rows_that_need_company_share_one_forward() {
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
        assert_eq!(split(&[row(0, 1, 0, true), row(1, 3, 2, true)], true), (vec![2], 0, false));
        assert_eq!(split(&[row(0, 1, 0, true), row(2, 1, 0, true)], true), (vec![1, 1], 0, false));
        assert!(split(&[row(4, 1, 0, true), row(3, 1, 0, true)], true).2);
    }
}
