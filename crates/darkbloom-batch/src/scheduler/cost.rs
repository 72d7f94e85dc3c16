//! What steps take, learnt from those that were executed.

/// Numbers of decoded tokens at which what a step takes is remembered: each about 4/3 of the one before.
const SIZES: [usize; 17] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384];

/// How much one measurement moves what is remembered.
const WEIGHT: f64 = 0.25;

/// The same for prompts beside rows that decode. Their pieces follow each other and grow slower as the prompt goes on, so the
/// last ones say most.
const WEIGHT_BESIDE: f64 = 0.5;

/// Tokens of a prompt's piece where nothing else is at work: as many as a usual prompt has.
const PIECE: f64 = 256.0;

/// How far off one measurement may be from what is remembered; more is taken for a pause of the whole machine.
const OUTLIER: f64 = 4.0;

/// What a step takes, in microseconds. Rows that decode and each prompt's piece beside them are passes over the weights of
/// their own. A piece takes what a step of one row takes, which little but reads the weights, and more for each token: of a
/// 0.6 B model, 28 ms and 12 ms a token, where pieces of 4, 16 and 64 tokens were measured to take 86, 220 and 785 ms.
#[derive(Debug, Clone)]
pub(crate) struct StepCost {
    /// A step that only decodes, at each of [`SIZES`], where known.
    decoding: [Option<f64>; SIZES.len()],
    /// A prompt's token in a step without rows that decode, beyond the pass over the weights.
    alone: Option<f64>,
    /// The same in a step with such rows.
    beside: Option<f64>,
}

impl StepCost {
    pub(crate) fn new() -> Self {
        Self { decoding: [None; SIZES.len()], alone: None, beside: None }
    }

    /// Takes in what a step took that decoded, or guessed, so many tokens and fed so many of prompts, in so many pieces.
    pub(crate) fn learn(&mut self, decoded: usize, prefilled: usize, pieces: usize, us: u64) {
        let us = us as f64;
        let passes = self.pass() * pieces as f64;
        // However short the step was, a prompt's token is not free.
        let each = |us_of_prompts: f64| (us_of_prompts - passes).max(us / 100.0) / prefilled as f64;
        match (decoded, prefilled) {
            _ if us <= 0.0 => {}
            (0, 0) => {}
            (decoded, 0) => self.learn_decoding(decoded, us),
            (0, _) => move_towards(&mut self.alone, each(us), WEIGHT),
            (decoded, _) => match (self.of_decoding(decoded), self.alone) {
                (Some(decoding), _) => move_towards(&mut self.beside, each(us - decoding), WEIGHT_BESIDE),
                // Where many prompts come at once, long may pass before a step only decodes. Its tokens take no less than
                // those of prompts.
                (None, Some(alone)) => {
                    let decoding = us - passes - alone * prefilled as f64;
                    let least = us * decoded as f64 / (decoded + prefilled) as f64;
                    self.learn_decoding(decoded, decoding.max(least));
                }
                (None, None) => {}
            },
        }
    }

    fn learn_decoding(&mut self, decoded: usize, us: f64) {
        let place = SIZES.iter().rposition(|&size| size <= decoded).unwrap_or(0);
        // A step between two sizes counts for the smaller, in proportion.
        let us = us * SIZES[place] as f64 / decoded as f64;
        move_towards(&mut self.decoding[place], us, WEIGHT);
    }

    /// What reading all weights takes, as far as it is known.
    fn pass(&self) -> f64 {
        self.decoding[0].unwrap_or(0.0)
    }

    /// What a step takes that decodes so many tokens: between two known sizes in proportion, beyond the largest as if each
    /// further token were a prompt's, or took as long as those of it did on average. Nothing while no such step was seen.
    pub(crate) fn of_decoding(&self, tokens: usize) -> Option<f64> {
        let known = || SIZES.iter().zip(&self.decoding).filter_map(|(&size, us)| us.map(|us| (size, us)));
        let below = known().take_while(|(size, _)| *size <= tokens).last();
        let above = known().find(|(size, _)| *size >= tokens);
        match (below, above) {
            (Some((low, low_us)), Some((high, high_us))) if high > low => {
                let share = (tokens - low) as f64 / (high - low) as f64;
                Some(low_us + share * (high_us - low_us))
            }
            (Some((low, low_us)), _) => {
                let each = self.of_prompt_token().unwrap_or(low_us / low as f64);
                Some(low_us + each * (tokens - low) as f64)
            }
            (None, Some((_, high_us))) => Some(high_us),
            (None, None) => None,
        }
    }

    /// What a prompt's token takes, its part of the pass of a usual piece included, and an answer's token of one row alone.
    pub(crate) fn pace(&self) -> Option<(f64, f64)> {
        Some((self.alone.or(self.beside)? + self.pass() / PIECE, self.of_decoding(1)?))
    }

    /// What a prompt's token takes beyond the pass over the weights, best known beside rows that decode.
    pub(crate) fn of_prompt_token(&self) -> Option<f64> {
        self.beside.or(self.alone)
    }

    /// How many tokens a prompt's piece has that lengthens a step with rows that decode by so long.
    pub(crate) fn room_beside(&self, us: f64) -> Option<usize> {
        Some(((us - self.pass()) / self.of_prompt_token()?) as usize)
    }

    /// How many tokens a prompt's piece has that takes so long by itself.
    pub(crate) fn room_alone(&self, us: f64) -> Option<usize> {
        Some(((us - self.pass()) / self.alone?) as usize)
    }
}

fn move_towards(known: &mut Option<f64>, us: f64, weight: f64) {
    *known = Some(match *known {
        None => us,
        Some(before) => before + weight * (us.clamp(before / OUTLIER, before * OUTLIER) - before),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoding(points: &[(usize, u64)]) -> StepCost {
        let mut cost = StepCost::new();
        points.iter().for_each(|&(tokens, us)| cost.learn(tokens, 0, 0, us));
        cost
    }

    #[test]
    fn nothing_is_known_before_a_step_was_seen() {
        let mut cost = decoding(&[(0, 5), (4, 0)]);
        assert_eq!((cost.of_decoding(1), cost.room_beside(1e6), cost.room_alone(1e6)), (None, None, None));
        cost.learn(3, 5, 1, 100);
        assert_eq!(cost.room_alone(1e6), None, "whose part of it was whose is not known");
    }

    #[test]
    fn a_prompts_price_tells_what_the_rows_beside_it_take() {
        let mut cost = StepCost::new();
        cost.learn(0, 50, 1, 600);
        cost.learn(2, 50, 1, 600 + 70);
        assert_eq!(cost.of_decoding(2), Some(70.0));
        cost.learn(2, 50, 1, 900);
        assert_eq!(cost.of_decoding(2), Some(70.0), "what is known stays, and the prompt's token takes longer");
        assert_eq!(cost.room_beside(831.0), Some(50));
        let mut cost = StepCost::new();
        cost.learn(0, 50, 1, 600);
        cost.learn(2, 8, 1, 50);
        assert_eq!(cost.of_decoding(2), Some(10.0), "a fifth of the tokens took a fifth of the time at least");
    }

    #[test]
    fn each_piece_is_a_pass_over_the_weights() {
        // A 0.6 B model, in milliseconds.
        let mut cost = decoding(&[(1, 28)]);
        cost.learn(0, 64, 1, 785);
        for (ms, tokens) in [(86.0, 4), (220.0, 16), (420.0, 33)] {
            assert_eq!(cost.room_alone(ms), Some(tokens));
            assert_eq!(cost.room_beside(ms), Some(tokens));
        }
        assert_eq!(cost.room_beside(20.0), Some(0), "less than a pass");
        cost.learn(1, 32, 2, 28 + 2 * 28 + 32 * 12);
        assert_eq!(cost.room_beside(28.0 + 121.0), Some(10));
    }

    #[test]
    fn between_known_sizes_it_goes_in_proportion() {
        let cost = decoding(&[(8, 100), (16, 300)]);
        assert_eq!(cost.of_decoding(8), Some(100.0));
        assert_eq!(cost.of_decoding(12), Some(200.0));
        assert_eq!(cost.of_decoding(32), Some(600.0), "beyond the largest");
        let mut with_prompts = cost.clone();
        with_prompts.learn(0, 10, 1, 50);
        assert_eq!(with_prompts.of_decoding(32), Some(300.0 + 16.0 * 5.0), "as a prompt's");
        assert_eq!(cost.of_decoding(2), Some(100.0), "below the smallest");
    }

    #[test]
    fn a_size_between_two_counts_for_the_smaller() {
        assert_eq!(decoding(&[(20, 200)]).of_decoding(16), Some(160.0));
        assert_eq!(decoding(&[(38_400, 38_400)]).of_decoding(384), Some(384.0));
    }

    #[test]
    fn a_prompts_token_beside_rows_that_decode_has_a_price_of_its_own() {
        let mut cost = decoding(&[(8, 180)]);
        cost.learn(0, 100, 1, 1_000);
        assert_eq!(cost.room_beside(180.0), Some(18), "ten µs a token, as alone");
        assert_eq!(cost.room_alone(1_100.0), Some(110));
        // Beside the others it takes twice as long.
        cost.learn(8, 10, 1, 180 + 200);
        assert_eq!(cost.room_beside(180.0), Some(9));
        assert_eq!(cost.room_alone(1_100.0), Some(110));
    }

    #[test]
    fn a_step_that_was_too_short_to_be_true_makes_no_prompt_free() {
        let mut cost = decoding(&[(8, 1_000)]);
        cost.learn(8, 10, 1, 500);
        assert!(cost.room_beside(1_000.0).is_some_and(|tokens| tokens <= 2_000));
    }

    #[test]
    fn one_pause_of_the_machine_moves_little_and_a_lasting_change_much() {
        let mut cost = decoding(&[(4, 100)]);
        cost.learn(4, 0, 0, 1_000_000);
        assert!(cost.of_decoding(4).is_some_and(|us| us < 200.0));
        for _ in 0..40 {
            cost.learn(4, 0, 0, 1_000);
        }
        assert!(cost.of_decoding(4).is_some_and(|us| us > 950.0));
    }
}
