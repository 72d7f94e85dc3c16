//! One token from one row's logits.

use darkbloom_types::TokenId;

use crate::Sampling;
use crate::stream::uniform;

/// Lanes in which reductions run: one AVX-512 register, or two or four narrower ones. The compiler does the rest.
const LANES: usize = 16;

/// How many logits are looked at before deciding whether one of them is of interest.
const BLOCK: usize = 8 * LANES;

/// Why logits give no token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// There are none.
    #[error("there are no logits")]
    Empty,
    /// One of them is infinite or not a number.
    #[error("a logit is not a finite number")]
    NotFinite,
    /// More than token ids can name.
    #[error("there are more logits than token ids")]
    TooMany,
}

/// Draws tokens. The result is a function of the arguments alone; what the sampler keeps is memory to work in.
///
/// Greedy is one pass. Otherwise weights are e^((logit − largest) ÷ temperature), computed with arithmetic that gives
/// the same bits on every machine, and the draw among the nucleus (the fewest most likely tokens that reach `top_p`;
/// among equals those with lower ids) walks the vocabulary in order. No more than the nucleus's neighbourhood is ever
/// ordered, and that only as far as a selection needs.
#[derive(Default)]
pub struct Sampler {
    weights: Vec<f32>,
    blocks: Vec<Block>,
    candidates: Vec<Candidate>,
}

/// What is known of [`BLOCK`] neighbouring weights.
#[derive(Clone, Copy)]
struct Block {
    mass: f64,
    largest: f32,
}

#[derive(Clone, Copy)]
struct Candidate {
    weight: f32,
    index: u32,
}

impl Sampler {
    /// A sampler without working memory; it grows to the vocabulary's size when first needed.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The token for one place in an answer. `position` and the seed decide the draw, nothing else does.
    ///
    /// # Errors
    /// When the logits are not usable.
    pub fn sample(&mut self, logits: &[f32], sampling: &Sampling, position: u32) -> Result<TokenId, SampleError> {
        if logits.is_empty() {
            return Err(SampleError::Empty);
        }
        if u32::try_from(logits.len()).is_err() {
            return Err(SampleError::TooMany);
        }
        let (best, largest) = argmax(logits)?;
        if sampling.temperature == 0.0 || sampling.top_p == 0.0 {
            return Ok(TokenId(best));
        }
        self.weigh(logits, largest, sampling.temperature);
        let draw = uniform(sampling.seed, position);
        let drawn = if sampling.top_p < 1.0 {
            self.select_nucleus(f64::from(sampling.top_p) * self.mass());
            walk(self.candidates.iter().copied(), draw)
        } else {
            self.walk_all(draw)
        };
        Ok(TokenId(drawn.unwrap_or(best)))
    }

    fn weigh(&mut self, logits: &[f32], largest: f32, temperature: f32) {
        self.weights.clear();
        self.blocks.clear();
        for block in logits.chunks(BLOCK) {
            let start = self.weights.len();
            self.weights.extend(block.iter().map(|logit| exp_of_negative((logit - largest) / temperature)));
            let weights = &self.weights[start..];
            self.blocks.push(Block { mass: sum_from(weights, 0.0), largest: largest_of(weights) });
        }
    }

    fn mass(&self) -> f64 {
        self.blocks.iter().map(|block| block.mass).sum()
    }

    /// The blocks with what is known of them, and the first token of each.
    fn blocks(&self) -> impl Iterator<Item = (&[f32], Block, u32)> {
        let starts = (0u32..).step_by(BLOCK);
        self.weights.chunks(BLOCK).zip(&self.blocks).zip(starts).map(|((weights, &block), at)| (weights, block, at))
    }

    /// Leaves the nucleus, in the vocabulary's order, in `candidates`.
    fn select_nucleus(&mut self, mass_wanted: f64) {
        self.gather(self.mass_floor(mass_wanted), u32::MAX);
        let (weight, index) = cutoff(&mut self.candidates, mass_wanted);
        self.gather(weight, index);
    }

    /// A weight such that what weighs at least as much has the mass wanted. Coarse: it only spares most of the
    /// vocabulary the selection. The largest weight is 1.
    fn mass_floor(&self, mass_wanted: f64) -> f32 {
        // Each is one quick pass over the blocks that reach it; trained models stop at the first or the second.
        const FLOORS: [f32; 6] = [0.125, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6];
        let mass_from = |floor: f32| -> f64 {
            let reaching = self.blocks().filter(|(_, block, _)| block.largest >= floor);
            reaching.map(|(weights, ..)| sum_from(weights, floor)).sum()
        };
        FLOORS.into_iter().find(|&floor| mass_from(floor) >= mass_wanted).unwrap_or(0.0)
    }

    /// Collects what weighs more than `floor`, and what weighs exactly that up to the token `last_equal`.
    fn gather(&mut self, floor: f32, last_equal: u32) {
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        for (weights, _, start) in self.blocks().filter(|(_, block, _)| block.largest >= floor) {
            for (&weight, index) in weights.iter().zip(start..) {
                if weight > floor || (weight == floor && index <= last_equal) {
                    candidates.push(Candidate { weight, index });
                }
            }
        }
        self.candidates = candidates;
    }

    /// As [`walk`] over the whole vocabulary, by blocks.
    fn walk_all(&self, share: f64) -> Option<u32> {
        let mut left = share * self.mass();
        for (weights, block, start) in self.blocks() {
            if left < block.mass {
                let candidates = weights.iter().zip(start..).map(|(&weight, index)| Candidate { weight, index });
                return walk(candidates, left / block.mass);
            }
            left -= block.mass;
        }
        None
    }
}

/// Index and value of the largest logit; the first of several.
fn argmax(logits: &[f32]) -> Result<(u32, f32), SampleError> {
    let (mut best_block, mut largest) = (0, f32::NEG_INFINITY);
    for (at, block) in logits.chunks(BLOCK).enumerate() {
        if !all_finite(block) {
            return Err(SampleError::NotFinite);
        }
        let here = largest_of(block);
        if here > largest {
            (best_block, largest) = (at, here);
        }
    }
    let start = best_block * BLOCK;
    let index = logits[start..].iter().position(|&logit| logit == largest).unwrap_or(0) + start;
    u32::try_from(index).map(|index| (index, largest)).map_err(|_| SampleError::TooMany)
}

/// x × 0 is 0 for every finite number and not a number for the rest.
fn all_finite(block: &[f32]) -> bool {
    let mut lanes = [0.0f32; LANES];
    let chunks = block.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|x| x * 0.0).sum();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x * 0.0;
        }
    }
    rest == 0.0 && lanes.iter().all(|&lane| lane == 0.0)
}

fn largest_of(block: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = block.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, larger);
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    lanes.into_iter().fold(rest, larger)
}

/// Sum of what is at least `floor`, in an order that does not depend on the machine.
fn sum_from(block: &[f32], floor: f32) -> f64 {
    let kept = |x: f32| if x >= floor { x } else { 0.0 };
    let mut lanes = [0.0f32; LANES];
    let chunks = block.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|&x| kept(x)).sum();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += kept(x);
        }
    }
    f64::from(lanes.into_iter().fold(rest, |sum, lane| sum + lane))
}

/// The last member of the nucleus, most likely first and among equals the lower id first: halves what can still hold
/// it, so the time is proportional to the number of candidates.
fn cutoff(candidates: &mut [Candidate], mass_wanted: f64) -> (f32, u32) {
    let mut rest = candidates;
    let mut wanted = mass_wanted;
    while rest.len() > 1 {
        let middle = rest.len() / 2;
        rest.select_nth_unstable_by(middle, |a, b| b.weight.total_cmp(&a.weight).then(a.index.cmp(&b.index)));
        let (likelier, others) = rest.split_at_mut(middle);
        let mass: f64 = likelier.iter().map(|candidate| f64::from(candidate.weight)).sum();
        if mass >= wanted {
            rest = likelier;
        } else {
            wanted -= mass;
            rest = others;
        }
    }
    rest.first().map_or((0.0, u32::MAX), |candidate| (candidate.weight, candidate.index))
}

/// The candidate at the given share of the candidates' mass; nothing only when there is no mass.
fn walk(candidates: impl Iterator<Item = Candidate> + Clone, share: f64) -> Option<u32> {
    let total: f64 = candidates.clone().map(|candidate| f64::from(candidate.weight)).sum();
    let mut left = share * total;
    for candidate in candidates {
        left -= f64::from(candidate.weight);
        if left < 0.0 {
            return Some(candidate.index);
        }
    }
    None
}

/// e^x for x ≤ 0, within three units in the last place, and about 10⁻³⁸ from −87 down. Multiplication and addition of
/// single floats only, so every machine gives the same bits, and the compiler can run many at once.
fn exp_of_negative(x: f32) -> f32 {
    /// Adding this rounds to a whole number, which then stands in the lowest bits: 1.5 × 2²³.
    const ROUNDER: f32 = 12_582_912.0;
    /// ln 2 in two parts; the first has so few digits that its multiples up to 128 are exact.
    const LN_2_HIGH: f32 = 355.0 / 512.0;
    const LN_2_LOW: f32 = -2.121_944_4e-4;

    let x = if x > -87.0 { x } else { -87.0 };
    let rounded = x * std::f32::consts::LOG2_E + ROUNDER;
    let whole = rounded - ROUNDER;
    let rest = x - whole * LN_2_HIGH - whole * LN_2_LOW;
    // Taylor's series; |rest| ≤ ½ ln 2 leaves an error of 5 × 10⁻⁹.
    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * rest + coefficient;
    }
    series * f32::from_bits(rounded.to_bits().wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_accurate_over_the_whole_range() {
        for step in 0..=870_000 {
            let x = -(step as f32) / 10_000.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp_of_negative(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "e^{x}: relative error {error:e}");
        }
        assert_eq!(exp_of_negative(0.0), 1.0);
        assert!(exp_of_negative(f32::NEG_INFINITY) < 1e-37);
        assert!(exp_of_negative(-1e30) < 1e-37);
    }
}
