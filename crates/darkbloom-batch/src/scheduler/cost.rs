//! What steps take, learnt from those that were executed.

/// Sizes, in tokens, at which what a step takes is remembered: each about 4/3 of the one before.
const SIZES: [usize; 24] =
    [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096];

/// How much one measurement moves what is remembered.
const WEIGHT: f64 = 0.25;

/// How far off one measurement may be from what is remembered; more is taken for a pause of the whole machine.
const OUTLIER: f64 = 4.0;

/// What a step of a given size takes.
#[derive(Debug, Clone)]
pub(crate) struct StepCost {
    /// Microseconds at each of [`SIZES`], where known.
    known: [Option<f64>; SIZES.len()],
}

impl StepCost {
    pub(crate) fn new() -> Self {
        Self { known: [None; SIZES.len()] }
    }

    /// Takes in what a step took.
    pub(crate) fn learn(&mut self, tokens: usize, us: u64) {
        if tokens == 0 || us == 0 {
            return;
        }
        let place = SIZES.iter().rposition(|&size| size <= tokens).unwrap_or(0);
        // A step between two sizes counts for the smaller, in proportion.
        let us = us as f64 * SIZES[place] as f64 / tokens as f64;
        let known = &mut self.known[place];
        *known = Some(match *known {
            None => us,
            Some(before) => before + WEIGHT * (us.clamp(before / OUTLIER, before * OUTLIER) - before),
        });
    }

    /// What a step of so many tokens will take, in microseconds: between two known sizes in proportion, beyond the largest as
    /// if each further token took as long as those of it did on average. Nothing while no step was seen.
    pub(crate) fn of(&self, tokens: usize) -> Option<f64> {
        let known = || SIZES.iter().zip(&self.known).filter_map(|(&size, us)| us.map(|us| (size, us)));
        let below = known().take_while(|(size, _)| *size <= tokens).last();
        let above = known().find(|(size, _)| *size >= tokens);
        match (below, above) {
            (Some((low, low_us)), Some((high, high_us))) if high > low => {
                let share = (tokens - low) as f64 / (high - low) as f64;
                Some(low_us + share * (high_us - low_us))
            }
            (Some((low, low_us)), _) => Some(low_us * tokens as f64 / low as f64),
            (None, Some((_, high_us))) => Some(high_us),
            (None, None) => None,
        }
    }

    /// How many tokens, up to `most`, can join a step of `base` tokens so that it takes at most `factor` times as long, or at
    /// most `us_min`.
    pub(crate) fn room(&self, base: usize, factor: f64, us_min: f64, most: usize) -> Option<usize> {
        let limit = (self.of(base)? * factor).max(us_min);
        Some(most_that(most, |more| self.of(base + more).is_some_and(|us| us <= limit)))
    }

    /// How many tokens, up to `most`, a step can have so that it takes so long at most.
    pub(crate) fn within(&self, us: f64, most: usize) -> Option<usize> {
        self.of(1)?;
        Some(most_that(most, |tokens| self.of(tokens).is_some_and(|takes| takes <= us)))
    }
}

/// The largest number up to `most` that fits, if all below one that fits do. Where a larger step takes less (kernels change with
/// the size) this finds one of several answers, which is as good.
fn most_that(most: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learnt(points: &[(usize, u64)]) -> StepCost {
        let mut cost = StepCost::new();
        points.iter().for_each(|&(tokens, us)| cost.learn(tokens, us));
        cost
    }

    #[test]
    fn nothing_is_known_before_a_step_was_seen() {
        let cost = learnt(&[(0, 5), (4, 0)]);
        assert_eq!((cost.of(1), cost.room(1, 2.0, 0.0, 9)), (None, None));
    }

    #[test]
    fn between_known_sizes_it_goes_in_proportion() {
        let cost = learnt(&[(8, 100), (16, 300)]);
        assert_eq!(cost.of(8), Some(100.0));
        assert_eq!(cost.of(12), Some(200.0));
        assert_eq!(cost.of(32), Some(600.0), "beyond the largest");
        assert_eq!(cost.of(2), Some(100.0), "below the smallest");
    }

    #[test]
    fn a_size_between_two_counts_for_the_smaller() {
        assert_eq!(learnt(&[(20, 200)]).of(16), Some(160.0));
        assert_eq!(learnt(&[(100_000, 100_000)]).of(4096), Some(4096.0));
    }

    #[test]
    fn room_is_what_keeps_the_step_within_the_factor() {
        // 100 µs for the step and 10 for each token.
        let cost = learnt(&[(1, 110), (8, 180), (64, 740), (512, 5_220)]);
        assert_eq!(cost.room(8, 2.0, 0.0, 500), Some(18), "360 µs are 26 tokens");
        assert_eq!(cost.room(8, 2.0, 0.0, 5), Some(5));
        assert_eq!(cost.room(8, 1.0, 0.0, 500), Some(0));
        assert_eq!(cost.room(8, 1.0, 460.0, 500), Some(28));
        assert_eq!(cost.within(1_100.0, 500), Some(100));
        assert_eq!(cost.within(1_100.0, 50), Some(50));
    }

    #[test]
    fn one_pause_of_the_machine_moves_little_and_a_lasting_change_much() {
        let mut cost = learnt(&[(4, 100)]);
        cost.learn(4, 1_000_000);
        assert!(cost.of(4).is_some_and(|us| us < 200.0));
        for _ in 0..40 {
            cost.learn(4, 1_000);
        }
        assert!(cost.of(4).is_some_and(|us| us > 950.0));
    }
}
