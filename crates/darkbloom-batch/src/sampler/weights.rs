//! The weights that a draw can still fall on.

use zeroize::Zeroize;

use super::wide::{Amount, BLOCK, Range, Scale, Wide};

/// Powers of two by which the edges of a selection may be off: far more than the arithmetic's rounding, and so little
/// that hardly a token lies in it.
const MARGIN: f32 = 1e-3;

/// When no more than this part of a vocabulary can be left, it is moved together.
const FEW: usize = 16;

/// Weights of tokens: of a whole vocabulary, or of some tokens in the vocabulary's order. A weight of 0 is out.
#[derive(Default, Zeroize)]
pub(super) struct Weights {
    /// Filled up to whole blocks with zeros.
    weights: Vec<f32>,
    /// For each block a number that none of its weights is above.
    peaks: Vec<f32>,
    /// Whose weights they are, if `some_only`.
    tokens: Vec<u32>,
    /// Their logits, if `some_only`.
    logits: Vec<f32>,
    some_only: bool,
    /// Places that a selection has to look at one by one.
    places: Vec<u32>,
    /// Their weights.
    doubtful: Vec<f32>,
    ranks: Vec<u64>,
}

impl Weights {
    /// Weighs a whole vocabulary.
    pub(super) fn weigh(&mut self, wide: Wide, logits: &[f32], scale: Scale) {
        self.some_only = false;
        wide.weigh(logits, scale, &mut self.weights, &mut self.peaks);
    }

    /// Weighs the `count` largest logits of a vocabulary, at least one; among equals those with lower ids. `peaks` has
    /// the largest logit of each block.
    pub(super) fn weigh_largest(&mut self, wide: Wide, logits: &[f32], peaks: &[f32], scale: Scale, count: usize) {
        self.rank_largest(wide, logits, peaks, count);
        self.tokens.clear();
        self.tokens.extend(self.ranks.iter().map(|&rank| place_of(rank)));
        self.tokens.sort_unstable();
        self.some_only = true;
        self.look_up(logits);
        wide.weigh(&self.logits, scale, &mut self.weights, &mut self.peaks);
    }

    /// The `count` largest logits of a vocabulary, at least one, with their tokens: the largest first, and among equals
    /// the lower id first. `peaks` has the largest logit of each block.
    pub(super) fn largest(
        &mut self,
        wide: Wide,
        logits: &[f32],
        peaks: &[f32],
        count: usize,
    ) -> impl Iterator<Item = (u32, f32)> {
        self.rank_largest(wide, logits, peaks, count);
        self.ranks.sort_unstable();
        self.ranks.iter().map(|&rank| (place_of(rank), logits[place_of(rank) as usize]))
    }

    /// The token at a share of all weights; nothing only when rounding leaves the share behind the last.
    pub(super) fn walk(&self, wide: Wide, share: f64) -> Option<u32> {
        let place = wide.walk(&self.weights, share)?;
        if self.some_only { self.tokens.get(place).copied() } else { u32::try_from(place).ok() }
    }

    /// Keeps the typical: the fewest weights that reach a share of their sum, those first whose surprise is closest to
    /// the entropy; among equals those with lower ids.
    pub(super) fn keep_typical(&mut self, wide: Wide, logits: &[f32], scale: Scale, share: f32) {
        // A token's surprise is the logarithm of the sum less its power of two, and the entropy is the mean of all
        // surprises: their distance is the one between the power and the mean of all powers.
        let sum = wide.sum(&self.weights);
        let moment = wide.moment(if self.some_only { &self.logits } else { logits }, &self.weights, scale);
        self.keep_nearest(wide, logits, scale, (moment / sum) as f32, f64::from(share) * sum);
    }

    /// Keeps the nucleus: the fewest weights that reach a share of their sum, the largest first; among equals those with
    /// lower ids.
    pub(super) fn keep_nucleus(&mut self, wide: Wide, logits: &[f32], scale: Scale, share: f32) {
        // No power is above 0, so the nearest to it are the largest.
        self.keep_nearest(wide, logits, scale, 0.0, f64::from(share) * wide.sum(&self.weights));
    }

    /// Keeps what weighs at least such a share of the largest.
    pub(super) fn keep_share_of_largest(&mut self, wide: Wide, share: f32) {
        wide.peaks(&self.weights, &mut self.peaks);
        let largest = self.peaks.iter().copied().fold(0.0, f32::max);
        wide.clear_outside(&mut self.weights, Range::from((share * largest).max(f32::MIN_POSITIVE)));
    }

    /// Keeps the fewest weights that have the sum wanted, those first whose power of two is closest to the centre.
    fn keep_nearest(&mut self, wide: Wide, logits: &[f32], scale: Scale, centre: f32, wanted: f64) {
        // A share of nothing leaves one, too.
        let wanted = wanted.max(f64::MIN_POSITIVE);
        let bracket = self.bracket(wide, centre, wanted);
        let sure = around(wide, centre, bracket.sure - MARGIN);
        let within = around(wide, centre, bracket.reach + MARGIN);
        if !self.some_only && bracket.count <= logits.len() / FEW {
            self.move_together(wide, logits, within);
        }
        let Self { weights, peaks, places, doubtful, ranks, .. } = self;
        let logits = if self.some_only { &self.logits } else { logits };
        places.clear();
        wide.gather(weights, peaks, within, sure, places);
        doubtful.clear();
        doubtful.extend(places.iter().map(|&place| weights[place as usize]));
        ranks.clear();
        ranks.extend((0u32..).zip(&*places).map(|(at, &place)| {
            let distance = (scale.power(logits[place as usize]) - centre).abs();
            // A distance is at least 0, so its bits are in its order.
            rank(distance.to_bits(), at)
        }));
        let kept = wide.clear_outside(weights, sure);
        for &rank in first_with(ranks, doubtful, wanted - kept) {
            let at = place_of(rank) as usize;
            weights[places[at] as usize] = doubtful[at];
        }
    }

    /// Distances from the centre between which the last of the weights with the sum wanted lies. It only spares most of
    /// the vocabulary the selection.
    fn bracket(&self, wide: Wide, centre: f32, wanted: f64) -> Bracket {
        /// From the centre, which is at least −32, this is beyond every weight that is not 0.
        const REACH_MAX: f32 = 256.0;
        /// So many are looked at one by one in the time of one more pass over the vocabulary.
        const DOUBTFUL_MIN: usize = 2_000;
        /// After so many steps between the last two doublings, what is in between is as good as equal.
        const STEPS_MAX: u32 = 12;

        let amount = |reach| wide.amount(&self.weights, &self.peaks, around(wide, centre, reach));
        let (mut sure, mut reach) = ((-1.0, Amount::default()), (1.0, amount(1.0)));
        while reach.0 < REACH_MAX && reach.1.sum < wanted {
            (sure, reach) = (reach, (2.0 * reach.0, amount(2.0 * reach.0)));
        }
        for _ in 0..STEPS_MAX {
            // Between two distances that differ by rounding alone, there can be less than nothing.
            if reach.1.count.saturating_sub(sure.1.count) <= DOUBTFUL_MIN {
                break;
            }
            // Where a straight line between both has the sum wanted, yet so far from either that the other comes near it
            // with the next step.
            let part = (wanted - sure.1.sum) / (reach.1.sum - sure.1.sum);
            let low = f32::max(sure.0, 0.0);
            let middle = low + (reach.0 - low) * (part as f32).clamp(0.1, 0.9);
            let middle = (middle, amount(middle));
            if middle.1.sum < wanted {
                sure = middle;
            } else {
                reach = middle;
            }
        }
        Bracket { sure: sure.0, reach: reach.0, count: reach.1.count }
    }

    /// From a whole vocabulary to the tokens whose weights lie in a range.
    fn move_together(&mut self, wide: Wide, logits: &[f32], range: Range) {
        self.tokens.clear();
        wide.gather(&self.weights, &self.peaks, range, Range::NOTHING, &mut self.tokens);
        // In the vocabulary's order, no weight is overwritten before it is moved.
        for (to, &from) in self.tokens.iter().enumerate() {
            self.weights[to] = self.weights[from as usize];
        }
        self.weights.truncate(self.tokens.len());
        self.weights.resize(self.tokens.len().next_multiple_of(BLOCK), 0.0);
        wide.peaks(&self.weights, &mut self.peaks);
        self.some_only = true;
        self.look_up(logits);
    }

    fn look_up(&mut self, logits: &[f32]) {
        self.logits.clear();
        self.logits.extend(self.tokens.iter().map(|&token| logits[token as usize]));
    }

    /// Leaves the ranks of the `count` largest logits, in any order, in `ranks`; their places are tokens.
    fn rank_largest(&mut self, wide: Wide, logits: &[f32], peaks: &[f32], count: usize) {
        let Self { tokens, ranks, doubtful: order, .. } = self;
        let last = count.saturating_sub(1);
        order.clear();
        order.extend_from_slice(peaks);
        // So many blocks have a logit from the floor on, and most of them no more than one.
        let floor =
            if last < order.len() { *order.select_nth_unstable_by(last, |a, b| b.total_cmp(a)).1 } else { f32::MIN };
        tokens.clear();
        // A logit of −∞ is not allowed.
        wide.gather(logits, peaks, Range::from(floor.max(f32::MIN)), Range::NOTHING, tokens);
        ranks.clear();
        ranks.extend(tokens.iter().map(|&token| rank(descending(logits[token as usize]), token)));
        if last < ranks.len() {
            ranks.select_nth_unstable(last);
            ranks.truncate(last + 1);
        }
    }
}

/// Distances from a centre.
struct Bracket {
    /// What lies within has less than the sum wanted; −1 when nothing is known to.
    sure: f32,
    /// What lies within has the sum wanted.
    reach: f32,
    /// How many weights that are.
    count: usize,
}

/// The weights within a distance from a power of two that is not above 0; nothing within a negative distance.
fn around(wide: Wide, centre: f32, reach: f32) -> Range {
    if reach < 0.0 {
        return Range::NOTHING;
    }
    let high = if centre + reach < 0.0 { wide.power_of_two(centre + reach) } else { f32::MAX };
    // What weighs nothing is never drawn.
    Range { low: wide.power_of_two(centre - reach).max(f32::MIN_POSITIVE), high }
}

/// Ranks are in the order of what comes first, and among equals the lower place does.
fn rank(first: u32, place: u32) -> u64 {
    u64::from(first) << 32 | u64::from(place)
}

fn place_of(rank: u64) -> u32 {
    rank as u32
}

/// A whole number that is smaller the larger a finite number is.
fn descending(number: f32) -> u32 {
    // Adding 0 turns −0 into 0, which it equals.
    let bits = (number + 0.0).to_bits();
    // Negative numbers are larger the smaller their bits are.
    if bits >> 31 == 0 { !(bits | 1 << 31) } else { bits }
}

/// The first ranks, at least one if there are any, that together have the sum wanted. Halves what can still hold the last
/// of them, so the time is proportional to the number of ranks.
fn first_with<'a>(ranks: &'a mut [u64], weights: &[f32], wanted: f64) -> &'a [u64] {
    let (mut begin, mut end) = (0, ranks.len());
    let mut wanted = wanted;
    while end - begin > 1 {
        let middle = (end - begin) / 2;
        ranks[begin..end].select_nth_unstable(middle);
        let nearer = &ranks[begin..][..middle];
        let sum: f64 = nearer.iter().map(|&rank| f64::from(weights[place_of(rank) as usize])).sum();
        if sum >= wanted {
            end = begin + middle;
        } else {
            wanted -= sum;
            begin += middle;
        }
    }
    &ranks[..end]
}
