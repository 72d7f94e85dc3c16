//! Two things measured in turn, so that a machine whose speed drifts treats both alike.

/// The middle value; for an even number the mean of the two in the middle. Not a number for none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Rates of A and B, round by round.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    rounds: Vec<(f64, f64)>,
}

impl Comparison {
    /// Adds a round: both rates, in the same unit.
    pub fn push(&mut self, a: f64, b: f64) {
        self.rounds.push((a, b));
    }

    /// Median rate of A.
    #[must_use]
    pub fn a(&self) -> f64 {
        median(&self.rounds.iter().map(|(a, _)| *a).collect::<Vec<_>>())
    }

    /// Median rate of B.
    #[must_use]
    pub fn b(&self) -> f64 {
        median(&self.rounds.iter().map(|(_, b)| *b).collect::<Vec<_>>())
    }

    /// Median, least and largest of A ÷ B, pair by pair.
    #[must_use]
    pub fn ratio(&self) -> (f64, f64, f64) {
        let ratios: Vec<_> = self.rounds.iter().map(|(a, b)| a / b).collect();
        let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (median(&ratios), least, largest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_taken_pair_by_pair() {
        let mut comparison = Comparison::default();
        for (a, b) in [(1.0, 2.0), (30.0, 10.0), (4.0, 4.0)] {
            comparison.push(a, b);
        }
        assert_eq!((comparison.a(), comparison.b()), (4.0, 4.0));
        assert_eq!(comparison.ratio(), (1.0, 0.5, 3.0));
        assert!(median(&[]).is_nan());
        assert_eq!(median(&[1.0, 2.0]), 1.5);
    }
}
