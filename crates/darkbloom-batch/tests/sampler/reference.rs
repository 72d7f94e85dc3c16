//! What the sampler should do, by the textbook: over all tokens, fully sorted, in double precision.

use std::collections::BTreeMap;

use darkbloom_batch::{Draw, Dry, Sampler, Sampling, TokenMask};
use darkbloom_types::TokenId;

/// A decision that is closer than this is one of rounding, which a reference cannot judge.
const EDGE: f64 = 1e-4;

/// What a token is drawn from.
#[derive(Debug, Clone)]
pub struct Place {
    pub logits: Vec<f32>,
    pub history: Vec<u32>,
    pub prompt_tokens: usize,
    pub allowed: Option<Vec<bool>>,
}

impl Place {
    pub fn new(logits: Vec<f32>) -> Self {
        Self { logits, history: Vec::new(), prompt_tokens: 0, allowed: None }
    }

    /// The given number of draws with fresh positions.
    pub fn draws(&self, sampler: &mut Sampler, sampling: &Sampling, count: u32) -> Vec<u32> {
        let history: Vec<_> = self.history.iter().copied().map(TokenId).collect();
        let mask = self.allowed.as_deref().map(mask_of);
        let draw = |position| {
            let (prompt_tokens, mask) = (self.prompt_tokens, mask.as_ref());
            let draw = Draw { sampling, position, history: &history, prompt_tokens, mask };
            sampler.draw(&self.logits, &draw).unwrap().token.0
        };
        (0..count).map(draw).collect()
    }

    /// The probability of each token after everything that the sampling asks for; nothing when a decision is on an edge.
    pub fn probabilities(&self, sampling: &Sampling) -> Option<Vec<f64>> {
        let logits = self.changed(sampling);
        let scaled: Vec<f64> = logits.iter().map(|logit| logit / f64::from(sampling.temperature)).collect();
        keep_all(&scaled, sampling, EDGE)
    }

    /// Which tokens are left, or could be if rounding went their way.
    pub fn loosely(&self, sampling: &Sampling) -> Vec<bool> {
        let share = |share: f32| (share + 1e-4).min(1.0);
        let loose = Sampling {
            top_k: sampling.top_k,
            typical_p: share(sampling.typical_p),
            top_p: share(sampling.top_p),
            min_p: (sampling.min_p - 1e-4).max(0.0),
            ..sampling.clone()
        };
        let logits = self.changed(sampling);
        let scaled: Vec<f64> = logits.iter().map(|logit| logit / f64::from(sampling.temperature)).collect();
        keep_all(&scaled, &loose, 0.0)
            .expect("nothing is an edge")
            .iter()
            .map(|probability| *probability > 0.0)
            .collect()
    }

    /// The logits after bias, penalties, DRY and mask.
    pub fn changed(&self, sampling: &Sampling) -> Vec<f64> {
        let mut logits: Vec<f64> = self.logits.iter().copied().map(f64::from).collect();
        for (token, bias) in &sampling.logit_bias {
            logits[token.0 as usize] += f64::from(*bias);
        }
        let output = &self.history[self.prompt_tokens..];
        for (token, logit) in (0u32..).zip(&mut logits) {
            if self.history.contains(&token) {
                let penalty = f64::from(sampling.repetition_penalty);
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
            let count = output.iter().filter(|said| **said == token).count();
            *logit -= count as f64 * f64::from(sampling.frequency_penalty);
            *logit -= if count > 0 { f64::from(sampling.presence_penalty) } else { 0.0 };
        }
        for (token, cost) in sampling.dry.iter().flat_map(|dry| dry_costs(dry, &self.history)) {
            logits[token as usize] -= cost;
        }
        for (logit, allowed) in logits.iter_mut().zip(self.allowed.iter().flatten()) {
            *logit = if *allowed { *logit } else { f64::NEG_INFINITY };
        }
        logits
    }
}

/// The probabilities after top-k, typical, top-p and min-p; nothing when a decision is closer than the edge.
fn keep_all(scaled: &[f64], sampling: &Sampling, edge: f64) -> Option<Vec<f64>> {
    let mut left = softmax(scaled);
    if sampling.top_k > 0 {
        keep_first(&mut left, |token| -scaled[token], Until::Count(sampling.top_k as usize), edge)?;
    }
    if sampling.typical_p < 1.0 {
        let surprise: Vec<f64> = left.iter().map(|probability| -probability.ln()).collect();
        let entropy: f64 = left.iter().zip(&surprise).filter(|(p, _)| **p > 0.0).map(|(p, s)| p * s).sum();
        let distance = |token: usize| (surprise[token] - entropy).abs();
        keep_first(&mut left, distance, Until::Share(sampling.typical_p.into()), edge)?;
    }
    if sampling.top_p < 1.0 {
        keep_first(&mut left, |token| -scaled[token], Until::Share(sampling.top_p.into()), edge)?;
    }
    if sampling.min_p > 0.0 {
        let floor = f64::from(sampling.min_p) * left.iter().copied().fold(0.0, f64::max);
        if left.iter().any(|probability| (probability / floor - 1.0).abs() < edge) {
            return None;
        }
        left.iter_mut().filter(|probability| **probability < floor).for_each(|probability| *probability = 0.0);
        normalise(&mut left);
    }
    Some(left)
}

/// The published algorithm, which compares backwards from every earlier place of the last token.
pub fn dry_costs(dry: &Dry, history: &[u32]) -> BTreeMap<u32, f64> {
    let window = &history[history.len().saturating_sub(dry.range as usize)..];
    let breaks = |token: u32| dry.breakers.contains(&TokenId(token));
    let mut longest = BTreeMap::new();
    for end in 0..window.len().saturating_sub(1) {
        let mut length = 0;
        while length <= end {
            let (earlier, last) = (window[end - length], window[window.len() - 1 - length]);
            if earlier != last || breaks(last) {
                break;
            }
            length += 1;
        }
        let follower = window[end + 1];
        if length >= dry.allowed_length as usize && !breaks(follower) {
            let so_far = longest.entry(follower).or_insert(0);
            *so_far = length.max(*so_far);
        }
    }
    let (multiplier, base) = (f64::from(dry.multiplier), f64::from(dry.base));
    let cost = |length: usize| multiplier * base.powi((length - dry.allowed_length as usize) as i32);
    longest.into_iter().map(|(token, length)| (token, cost(length))).collect()
}

pub fn softmax(logits: &[f64]) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut probabilities = logits.iter().map(|logit| (logit - largest).exp()).collect::<Vec<_>>();
    normalise(&mut probabilities);
    probabilities
}

pub fn mask_of(allowed: &[bool]) -> TokenMask {
    let word = |bits: &[bool]| bits.iter().rev().fold(0, |word, &bit| word << 1 | u32::from(bit));
    TokenMask::new(allowed.chunks(32).map(word).collect())
}

enum Until {
    Count(usize),
    Share(f64),
}

/// Keeps the tokens of the lowest rank, among equals the lower ids; nothing when another one is as good as a kept one.
fn keep_first(left: &mut [f64], rank: impl Fn(usize) -> f64, until: Until, edge: f64) -> Option<()> {
    let mut order: Vec<usize> = (0..left.len()).filter(|&token| left[token] > 0.0).collect();
    order.sort_by(|&a, &b| rank(a).total_cmp(&rank(b)).then(a.cmp(&b)));
    let kept = match until {
        Until::Count(count) => count.min(order.len()),
        Until::Share(share) => {
            let (mut sum, mut kept) = (0.0, 0);
            for &token in &order {
                sum += left[token];
                kept += 1;
                if (sum - share).abs() < edge {
                    return None;
                }
                if sum >= share {
                    break;
                }
            }
            kept
        }
    };
    if let (Some(&last), Some(&next)) = (order.get(kept - 1), order.get(kept)) {
        let apart = rank(next) - rank(last);
        if apart != 0.0 && apart < edge {
            return None;
        }
    }
    order[kept..].iter().for_each(|&token| left[token] = 0.0);
    normalise(left);
    Some(())
}

fn normalise(left: &mut [f64]) {
    let sum: f64 = left.iter().sum();
    left.iter_mut().for_each(|probability| *probability /= sum);
}
