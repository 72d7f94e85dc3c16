//! Passes over a whole row of numbers, many numbers at once.
//!
//! Each pass is compiled once for every kind of vector register, and the widest that the machine has is used. Sixteen
//! numbers go together on all of them, through nothing but single additions, subtractions, multiplications and
//! comparisons, and sums are taken in one order: every machine gives the same bits.

use fearless_simd::prelude::*;
use fearless_simd::{Level, Simd, dispatch, f32x16, mask32x16, u32x16};

/// Numbers that go together: one AVX-512 register, two of AVX2, four of SSE2 or NEON.
const LANES: usize = 16;

/// How many numbers are looked at before deciding whether one of them is of interest, and that are added as single
/// floats before their sum goes into a double.
pub(super) const BLOCK: usize = 8 * LANES;

/// Below this power of two a weight is 0: so little that no sum of weights, and no draw with its 53 bits, shows it.
const LEAST_POWER: f32 = -125.0;

/// The passes, for the registers that this machine has.
#[derive(Clone, Copy)]
pub(super) struct Wide(Level);

impl Default for Wide {
    fn default() -> Self {
        Self(Level::new())
    }
}

/// From logits to weights: 2 ^ ((logit − largest) × scale).
#[derive(Clone, Copy)]
pub(super) struct Scale {
    largest: f32,
    per_logit: f32,
}

impl Scale {
    /// Weights are e ^ ((logit − largest) ÷ temperature).
    pub(super) fn new(largest: f32, temperature: f32) -> Self {
        // So small a temperature that it has no finite inverse is as good as the smallest that has.
        let per_logit = (std::f32::consts::LOG2_E / temperature).min(f32::MAX);
        Self { largest, per_logit }
    }

    /// The power of two that a logit weighs, at most 0.
    pub(super) fn power(self, logit: f32) -> f32 {
        (logit - self.largest) * self.per_logit
    }

    #[inline(always)]
    fn powers<S: Simd>(self, logits: f32x16<S>) -> f32x16<S> {
        (logits - self.largest) * self.per_logit
    }
}

/// The numbers from `low` to `high`.
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub(super) low: f32,
    pub(super) high: f32,
}

impl Range {
    /// No number.
    pub(super) const NOTHING: Self = Self { low: f32::INFINITY, high: f32::NEG_INFINITY };

    pub(super) const fn from(low: f32) -> Self {
        Self { low, high: f32::MAX }
    }

    #[inline(always)]
    fn holds<S: Simd>(self, numbers: f32x16<S>) -> mask32x16<S> {
        numbers.simd_ge(self.low) & numbers.simd_le(self.high)
    }
}

/// How much some weights are.
#[derive(Clone, Copy, Default)]
pub(super) struct Amount {
    pub(super) sum: f64,
    pub(super) count: usize,
}

impl Wide {
    /// Whether all numbers are finite. Leaves the largest of each block in `peaks`.
    pub(super) fn survey(self, numbers: &[f32], peaks: &mut Vec<f32>) -> bool {
        dispatch!(self.0, simd => survey(simd, numbers, peaks))
    }

    /// Leaves the largest of each block in `peaks`.
    pub(super) fn peaks(self, numbers: &[f32], peaks: &mut Vec<f32>) {
        dispatch!(self.0, simd => peaks_of(simd, numbers, peaks));
    }

    /// Takes what the words do not allow down to −∞, in whole blocks.
    pub(super) fn mask(self, logits: &mut [f32], words: &[u32]) {
        dispatch!(self.0, simd => mask(simd, logits, words));
    }

    /// Leaves the logits' weights in `weights`, filled up to whole blocks with zeros, and the largest of each block in
    /// `peaks`.
    pub(super) fn weigh(self, logits: &[f32], scale: Scale, weights: &mut Vec<f32>, peaks: &mut Vec<f32>) {
        weights.resize(logits.len().next_multiple_of(BLOCK), 0.0);
        dispatch!(self.0, simd => weigh(simd, logits, scale, weights, peaks));
    }

    /// The sum of the logits' weights.
    pub(super) fn mass(self, logits: &[f32], scale: Scale) -> f64 {
        dispatch!(self.0, simd => mass(simd, logits, scale))
    }

    /// The sum of each weight times its power of two.
    pub(super) fn moment(self, logits: &[f32], weights: &[f32], scale: Scale) -> f64 {
        dispatch!(self.0, simd => moment(simd, logits, weights, scale))
    }

    /// The sum of the weights, in whole blocks.
    pub(super) fn sum(self, weights: &[f32]) -> f64 {
        dispatch!(self.0, simd => sum(simd, weights))
    }

    /// How much lies in a range, in whole blocks, none of whose weights is above its peak.
    pub(super) fn amount(self, weights: &[f32], peaks: &[f32], range: Range) -> Amount {
        dispatch!(self.0, simd => amount(simd, weights, peaks, range))
    }

    /// Appends the places of the numbers in a range and not in the hole in it. No number of a block is above its peak.
    pub(super) fn gather(self, numbers: &[f32], peaks: &[f32], range: Range, hole: Range, places: &mut Vec<u32>) {
        dispatch!(self.0, simd => gather(simd, numbers, peaks, range, hole, places));
    }

    /// Makes 0 of the weights outside the range, in whole blocks. Returns the sum of the others.
    pub(super) fn clear_outside(self, weights: &mut [f32], range: Range) -> f64 {
        dispatch!(self.0, simd => clear_outside(simd, weights, range))
    }

    /// The place at the given share of the weights' sum, in whole blocks; nothing only when rounding leaves it behind
    /// the last.
    pub(super) fn walk(self, weights: &[f32], share: f64) -> Option<usize> {
        dispatch!(self.0, simd => walk(simd, weights, share))
    }

    /// 2 ^ x, as weights are computed.
    pub(super) fn power_of_two(self, x: f32) -> f32 {
        dispatch!(self.0, simd => power_of_two(f32x16::splat(simd, x))[0])
    }
}

#[inline(always)]
fn survey<S: Simd>(simd: S, numbers: &[f32], peaks: &mut Vec<f32>) -> bool {
    peaks.clear();
    for block in blocks(numbers, f32::MIN, &mut [0.0; BLOCK]) {
        let mut largest = f32x16::splat(simd, f32::NEG_INFINITY);
        let mut zeros = f32x16::splat(simd, 0.0);
        for numbers in vectors(block) {
            let numbers = f32x16::load_array_ref(simd, numbers);
            largest = largest.max(numbers);
            // x × 0 is 0 for every finite number and not a number for the rest.
            zeros += numbers * 0.0;
        }
        if !zeros.simd_eq(0.0).all_true() {
            return false;
        }
        peaks.push(largest.reduce_max());
    }
    true
}

#[inline(always)]
fn peaks_of<S: Simd>(simd: S, numbers: &[f32], peaks: &mut Vec<f32>) {
    peaks.clear();
    for block in blocks(numbers, f32::NEG_INFINITY, &mut [0.0; BLOCK]) {
        let mut largest = f32x16::splat(simd, f32::NEG_INFINITY);
        for numbers in vectors(block) {
            largest = largest.max(f32x16::load_array_ref(simd, numbers));
        }
        peaks.push(largest.reduce_max());
    }
}

#[inline(always)]
fn mask<S: Simd>(simd: S, logits: &mut [f32], words: &[u32]) {
    /// Two vectors of logits for each word.
    const HALF: u32 = u32::BITS / 2;
    const { assert!(HALF as usize == LANES) };
    let (unbounded, banned) = (f32x16::splat(simd, f32::INFINITY), f32x16::splat(simd, f32::NEG_INFINITY));
    let halves = words.iter().flat_map(|word| [word & 0xffff, word >> HALF]).chain(std::iter::repeat(0));
    for (logits, half) in logits.as_chunks_mut::<LANES>().0.iter_mut().zip(halves) {
        let most = mask32x16::from_bitmask(simd, half.into()).select(unbounded, banned);
        // Choosing between the logit and −∞ would become a store that skips lanes, which some machines are slow at.
        f32x16::load_array_ref(simd, logits).min(most).store_slice(logits);
    }
}

#[inline(always)]
fn weigh<S: Simd>(simd: S, logits: &[f32], scale: Scale, weights: &mut [f32], peaks: &mut Vec<f32>) {
    peaks.clear();
    let weights = weights.as_chunks_mut().0;
    for (logits, weights) in blocks(logits, f32::NEG_INFINITY, &mut [0.0; BLOCK]).zip(weights) {
        let mut largest = f32x16::splat(simd, 0.0);
        for (logits, to) in vectors(logits).iter().zip(vectors_mut(weights)) {
            let weights = power_of_two(scale.powers(f32x16::load_array_ref(simd, logits)));
            largest = largest.max(weights);
            weights.store_slice(to);
        }
        peaks.push(largest.reduce_max());
    }
}

#[inline(always)]
fn mass<S: Simd>(simd: S, logits: &[f32], scale: Scale) -> f64 {
    let mut total = 0.0;
    for block in blocks(logits, f32::NEG_INFINITY, &mut [0.0; BLOCK]) {
        let mut sums = f32x16::splat(simd, 0.0);
        for logits in vectors(block) {
            sums += power_of_two(scale.powers(f32x16::load_array_ref(simd, logits)));
        }
        total += sum_of(simd, sums);
    }
    total
}

#[inline(always)]
fn moment<S: Simd>(simd: S, logits: &[f32], weights: &[f32], scale: Scale) -> f64 {
    let nothing = f32x16::splat(simd, 0.0);
    let weights = weights.as_chunks().0;
    let mut total = 0.0;
    for (logits, weights) in blocks(logits, 0.0, &mut [0.0; BLOCK]).zip(weights) {
        let mut sums = nothing;
        for (logits, weights) in vectors(logits).iter().zip(vectors(weights)) {
            let powers = scale.powers(f32x16::load_array_ref(simd, logits));
            // Zero times an infinite power would be no number.
            let powers = powers.simd_ge(LEAST_POWER).select(powers, nothing);
            sums += f32x16::load_array_ref(simd, weights) * powers;
        }
        total += sum_of(simd, sums);
    }
    total
}

#[inline(always)]
fn sum<S: Simd>(simd: S, weights: &[f32]) -> f64 {
    let mut total = 0.0;
    for block in weights.as_chunks().0 {
        total += sum_of_block(simd, block);
    }
    total
}

#[inline(always)]
fn amount<S: Simd>(simd: S, weights: &[f32], peaks: &[f32], range: Range) -> Amount {
    let nothing = f32x16::splat(simd, 0.0);
    let (none, one) = (u32x16::splat(simd, 0), u32x16::splat(simd, 1));
    let (mut sum, mut counts) = (0.0, none);
    for (block, &peak) in weights.as_chunks().0.iter().zip(peaks) {
        if peak >= range.low {
            let mut sums = nothing;
            for weights in vectors(block) {
                let weights = f32x16::load_array_ref(simd, weights);
                let inside = range.holds(weights);
                sums += inside.select(weights, nothing);
                counts += inside.select(one, none);
            }
            sum += sum_of(simd, sums);
        }
    }
    Amount { sum, count: count_of(counts) }
}

#[inline(always)]
fn gather<S: Simd>(simd: S, numbers: &[f32], peaks: &[f32], range: Range, hole: Range, places: &mut Vec<u32>) {
    let mut block_start = 0;
    for (block, &peak) in blocks(numbers, f32::NEG_INFINITY, &mut [0.0; BLOCK]).zip(peaks) {
        if peak >= range.low {
            for (numbers, start) in vectors(block).iter().zip((block_start..).step_by(LANES)) {
                let numbers = f32x16::load_array_ref(simd, numbers);
                let mut wanted = (range.holds(numbers) & !hole.holds(numbers)).to_bitmask();
                while wanted != 0 {
                    places.push(start + wanted.trailing_zeros());
                    wanted &= wanted - 1;
                }
            }
        }
        block_start += BLOCK as u32;
    }
}

#[inline(always)]
fn clear_outside<S: Simd>(simd: S, weights: &mut [f32], range: Range) -> f64 {
    let (nothing, one) = (f32x16::splat(simd, 0.0), f32x16::splat(simd, 1.0));
    let mut sum = 0.0;
    for block in weights.as_chunks_mut().0 {
        let mut sums = nothing;
        for to in vectors_mut(block) {
            let weights = f32x16::load_array_ref(simd, to);
            // As in `mask`, no choice between what is there and something else.
            let kept = weights * range.holds(weights).select(one, nothing);
            sums += kept;
            kept.store_slice(to);
        }
        sum += sum_of(simd, sums);
    }
    sum
}

#[inline(always)]
fn walk<S: Simd>(simd: S, weights: &[f32], share: f64) -> Option<usize> {
    let mut left = share * sum(simd, weights);
    for (at, block) in weights.as_chunks().0.iter().enumerate() {
        let mass = sum_of_block(simd, block);
        if left < mass {
            return walk_block(block, left / mass).map(|place| at * BLOCK + place);
        }
        left -= mass;
    }
    None
}

/// As [`walk`], one by one.
fn walk_block(weights: &[f32; BLOCK], share: f64) -> Option<usize> {
    let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
    let mut left = share * total;
    weights.iter().position(|&weight| {
        left -= f64::from(weight);
        left < 0.0
    })
}

/// The numbers in whole blocks: what is missing at the end is filled up, in the place given for it.
#[inline(always)]
fn blocks<'a>(numbers: &'a [f32], filler: f32, last: &'a mut [f32; BLOCK]) -> impl Iterator<Item = &'a [f32; BLOCK]> {
    let (whole, rest) = numbers.as_chunks();
    last.fill(filler);
    last[..rest.len()].copy_from_slice(rest);
    whole.iter().chain((!rest.is_empty()).then_some(&*last))
}

#[inline(always)]
fn vectors(block: &[f32; BLOCK]) -> &[[f32; LANES]] {
    block.as_chunks().0
}

#[inline(always)]
fn vectors_mut(block: &mut [f32; BLOCK]) -> &mut [[f32; LANES]] {
    block.as_chunks_mut().0
}

#[inline(always)]
fn sum_of_block<S: Simd>(simd: S, block: &[f32; BLOCK]) -> f64 {
    let mut sums = f32x16::splat(simd, 0.0);
    for numbers in vectors(block) {
        sums += f32x16::load_array_ref(simd, numbers);
    }
    sum_of(simd, sums)
}

/// The sum of the lanes: halved twice, then one by one.
#[inline(always)]
fn sum_of<S: Simd>(simd: S, lanes: f32x16<S>) -> f64 {
    let (low, high) = simd.split_f32x16(lanes);
    let (low, high) = simd.split_f32x8(low + high);
    let [a, b, c, d] = (low + high).into();
    f64::from(a + b + (c + d))
}

#[inline(always)]
fn count_of<S: Simd>(lanes: u32x16<S>) -> usize {
    lanes.as_slice().iter().map(|&count| count as usize).sum()
}

/// 2 ^ x for x from −125 to 126, within 2.5 × 10⁻⁷ of itself; 0 below. 2 ^ 0 is 1.
#[inline(always)]
fn power_of_two<S: Simd>(x: f32x16<S>) -> f32x16<S> {
    /// Adding this rounds to a whole number, which then stands in the lowest bits: 1.5 × 2²³.
    const ROUNDER: f32 = 12_582_912.0;
    /// Bits of a float below its exponent.
    const FRACTION_BITS: u32 = 23;

    let rounded = x + ROUNDER;
    let rest = x - (rounded - ROUNDER);
    // Of the polynomials of this degree that have the value and the slope of 2 ^ x at 0, the one with the least relative
    // error from −½ to ½: 1.1 × 10⁻⁷.
    let mut series = rest * 1.330_060_7e-3;
    for coefficient in [9.669_692e-3, 5.550_558_5e-2, 2.402_228_3e-1, std::f32::consts::LN_2] {
        series = (series + coefficient) * rest;
    }
    let power = f32x16::from_bits((series + 1.0).to_bits() + (rounded.to_bits() << FRACTION_BITS));
    x.simd_ge(LEAST_POWER).select(power, f32x16::splat(x.token(), 0.0))
}

/// The natural logarithm of a number from 1 on, within 10⁻¹⁴.
pub(super) fn logarithm(x: f64) -> f64 {
    const FRACTION_BITS: u32 = 52;
    const EXPONENT_OF_ONE: u64 = 1023;

    // x = 2 ^ whole × part, and the part is between √½ and √2.
    let bits = x.to_bits();
    let mut whole = (bits >> FRACTION_BITS) as f64 - EXPONENT_OF_ONE as f64;
    let mut part = f64::from_bits(bits & ((1 << FRACTION_BITS) - 1) | EXPONENT_OF_ONE << FRACTION_BITS);
    if part > std::f64::consts::SQRT_2 {
        part *= 0.5;
        whole += 1.0;
    }
    // ln part = 2 artanh z; |z| ≤ 0.172, so that the first term left out is below 10⁻¹⁶.
    let z = (part - 1.0) / (part + 1.0);
    let square = z * z;
    let series = [17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0];
    let series = series.into_iter().fold(1.0 / 19.0, |sum, odd| sum * square + 1.0 / odd);
    whole * std::f64::consts::LN_2 + 2.0 * z * series
}

#[cfg(test)]
mod tests {
    use fearless_simd::Simd as _;

    use super::*;

    /// The passes for each kind of register that this machine has.
    fn all() -> Vec<Wide> {
        let mut levels = vec![Level::baseline(), Level::new()];
        #[cfg(target_arch = "x86_64")]
        {
            let level = Level::new();
            levels.extend(level.as_sse4_2().map(|sse4_2| sse4_2.level()));
            levels.extend(level.as_avx2().map(|avx2| avx2.level()));
        }
        levels.into_iter().map(Wide).collect()
    }

    /// Numbers from −8 to 8 that look random.
    fn numbers(count: usize) -> Vec<f32> {
        let mixed = |at: u32| (at.wrapping_mul(0x9e37_79b9) ^ 0x5bd1_e995).wrapping_mul(0x85eb_ca6b) >> 8;
        (0..count as u32).map(|at| mixed(at) as f32 / (1 << 20) as f32 - 8.0).collect()
    }

    fn assert_close(a: f64, b: f64) {
        assert!((a - b).abs() <= 1e-5 * a.abs().max(1e-30), "{a} and {b}");
    }

    #[test]
    fn powers_are_accurate_over_the_whole_range() {
        let wide = Wide::default();
        let logits: Vec<f32> = (0..=870_000).map(|step| -(step as f32) / 10_000.0).collect();
        let (mut weights, mut peaks) = (Vec::new(), Vec::new());
        let scale = Scale { largest: 0.0, per_logit: 1.0 };
        wide.weigh(&logits, scale, &mut weights, &mut peaks);
        for (&x, &weight) in logits.iter().zip(&weights) {
            let exact = f64::from(x).exp2();
            let error = (f64::from(weight) - exact).abs() / exact;
            assert!(error < 2.5e-7, "2^{x}: relative error {error:e}");
        }
        assert_eq!([weights[0], wide.power_of_two(-1.0), wide.power_of_two(3.0)], [1.0, 0.5, 8.0]);
        assert!(wide.power_of_two(-125.0) > 0.0);
        for nothing in [-125.1, -150.0, -1e30, f32::MIN, f32::NEG_INFINITY] {
            assert_eq!(wide.power_of_two(nothing), 0.0);
        }
    }

    #[test]
    fn logarithms_are_accurate() {
        for step in 0..200_000 {
            let x = 1.0 + f64::from(step) * f64::from(step) / 3.0;
            assert!((logarithm(x) - x.ln()).abs() < 1e-14 * x.ln().max(1.0), "ln {x}");
        }
        assert_eq!(logarithm(1.0), 0.0);
    }

    #[test]
    fn every_register_gives_the_same_bits_for_every_length() {
        let scale = Scale::new(8.0, 0.7);
        let range = Range { low: 1e-6, high: 1e-3 };
        for length in (0..300).chain([1_000, 5_000]) {
            let logits = numbers(length);
            let results = all().into_iter().map(|wide| {
                let (mut peaks, mut weights, mut weight_peaks) = (Vec::new(), Vec::new(), Vec::new());
                let mut masked = logits.clone();
                masked.resize(length.next_multiple_of(BLOCK), 0.0);
                wide.mask(&mut masked, &[0xdead_beef, 0x1234_5678]);
                assert!(wide.survey(&logits, &mut peaks));
                wide.weigh(&logits, scale, &mut weights, &mut weight_peaks);
                let amount = wide.amount(&weights, &weight_peaks, range);
                let mut cleared = weights.clone();
                let sums = [
                    wide.mass(&logits, scale),
                    wide.sum(&weights),
                    wide.moment(&logits, &weights, scale),
                    amount.sum,
                    wide.clear_outside(&mut cleared, range),
                ];
                let walked = [0.0, 0.3, 0.9].map(|share| wide.walk(&weights, share));
                let floats = [peaks, weights, weight_peaks, masked, cleared].concat();
                (floats.into_iter().map(f32::to_bits).collect::<Vec<_>>(), sums.map(f64::to_bits), amount.count, walked)
            });
            let results: Vec<_> = results.collect();
            assert!(results.iter().all(|result| *result == results[0]), "length {length}");
        }
    }

    #[test]
    fn passes_do_what_loops_do() {
        let scale = Scale::new(8.0, 0.7);
        let (range, hole) = (Range { low: 1e-6, high: 1e-3 }, Range { low: 1e-5, high: 1e-4 });
        for length in [1, 15, 16, 17, 128, 129, 1_000] {
            let wide = Wide::default();
            let logits = numbers(length);
            let (mut peaks, mut weights, mut places) = (Vec::new(), Vec::new(), Vec::new());
            wide.peaks(&logits, &mut peaks);
            let largest = |block: &[f32]| block.iter().copied().fold(f32::MIN, f32::max);
            assert_eq!(peaks, logits.chunks(BLOCK).map(largest).collect::<Vec<_>>());
            wide.weigh(&logits, scale, &mut weights, &mut peaks);
            assert_eq!(peaks, weights.chunks(BLOCK).map(largest).collect::<Vec<_>>());
            assert!(weights[length..].iter().all(|&filler| filler == 0.0));
            let exact = |&logit: &f32| ((f64::from(logit) - 8.0) / 0.7).exp();
            assert_close(wide.mass(&logits, scale), logits.iter().map(exact).sum());
            assert_close(wide.sum(&weights), logits.iter().map(exact).sum());
            let product = |logit: &f32| exact(logit) * exact(logit).log2();
            assert_close(wide.moment(&logits, &weights, scale), logits.iter().map(product).sum());

            let inside: Vec<_> = weights.iter().copied().filter(|weight| (1e-6..=1e-3).contains(weight)).collect();
            let amount = wide.amount(&weights, &peaks, range);
            assert_eq!(amount.count, inside.len());
            assert_close(amount.sum, inside.iter().copied().map(f64::from).sum());
            wide.gather(&weights, &peaks, range, hole, &mut places);
            let wanted = |&place: &u32| {
                let weight = weights[place as usize];
                (1e-6..=1e-3).contains(&weight) && !(1e-5..=1e-4).contains(&weight)
            };
            assert_eq!(places, (0..length as u32).filter(wanted).collect::<Vec<_>>());
            assert_close(wide.clear_outside(&mut weights, range), amount.sum);
            assert_eq!(weights.into_iter().filter(|&weight| weight != 0.0).collect::<Vec<_>>(), inside);
        }
    }
}
