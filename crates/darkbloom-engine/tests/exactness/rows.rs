//! Rows that go through a scheduler and an executor, and the bits of every logit on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use darkbloom_batch::{
    Decisions, EndReason, Limits, MemoryOp, RowEvent, RowId, RowRequest, RowWork, Sampling, Scheduler, Slot, StepPlan,
};
use darkbloom_engine::{Executor, LlamaExecutor, LlamaSettings};
use darkbloom_types::{Millis, MonoMillis, SecretTokens, TokenCount, TokenId};

/// Of each row, in tokens: most prompts, several times a window's length and beyond 512 cells.
pub const CONTEXT: usize = 1_024;
const OUTPUT: u32 = 24;
const NOW: MonoMillis = MonoMillis(0);

pub fn settings(rows_max: usize, step_tokens_max: usize, threads: usize) -> LlamaSettings {
    LlamaSettings { step_tokens_max, threads, ..LlamaSettings::new(rows_max, CONTEXT) }
}

pub fn load(path: &Path, rows_max: usize, step_tokens_max: usize, threads: usize) -> LlamaExecutor {
    LlamaExecutor::load(path, &settings(rows_max, step_tokens_max, threads)).unwrap()
}

/// Rows with prompts of these lengths.
pub fn requests(lengths: &[usize], vocabulary: usize) -> Vec<RowRequest> {
    lengths.iter().enumerate().map(|(nth, &tokens)| request(nth, tokens, vocabulary)).collect()
}

pub fn request(nth: usize, prompt_tokens: usize, vocabulary: usize) -> RowRequest {
    let mut state = (nth as u64 + 100).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let prompt = (0..prompt_tokens)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            TokenId((state % (vocabulary as u64 - 16)) as u32)
        })
        .collect();
    // Half of the rows are greedy, half are drawn.
    let sampling = if nth.is_multiple_of(2) {
        Sampling::greedy()
    } else {
        Sampling { temperature: 0.9, top_p: 0.95, seed: nth as u64, ..Sampling::greedy() }
    };
    let max_output = TokenCount(OUTPUT - (nth as u32 % 4) * 5);
    RowRequest {
        sampling: Arc::new(sampling),
        ..RowRequest::new(RowId(nth as u64), SecretTokens::new(prompt), max_output)
    }
}

/// What rows say and the bits of every logit on the way.
#[derive(Default, PartialEq)]
pub struct Said {
    pub tokens: Vec<TokenId>,
    pub logits: Vec<Vec<u32>>,
}

/// Runs the rows through a scheduler, letting one in every `stagger` steps; most rows in one step beside what was said.
pub fn run(
    executor: &mut LlamaExecutor,
    limits: Limits,
    rows: &[RowRequest],
    stagger: usize,
) -> (BTreeMap<RowId, Said>, usize, Decisions) {
    let mut scheduler = Scheduler::new(limits).unwrap();
    let mut said: BTreeMap<RowId, Said> = BTreeMap::new();
    let (mut coming, mut step, mut widest) = (rows.iter(), 0, 0);
    let mut ended = 0;
    while ended < rows.len() {
        if step % stagger.max(1) == 0 {
            let so_many = if stagger == 0 { rows.len() } else { 1 };
            for row in coming.by_ref().take(so_many) {
                scheduler.submit(row.clone(), NOW).unwrap();
            }
        }
        step += 1;
        let Some(plan) = scheduler.plan(NOW) else { continue };
        widest = widest.max(plan.rows.len());
        let keep = |work: &RowWork, logits: &[f32]| {
            said.entry(work.id).or_default().logits.push(logits.iter().map(|logit| logit.to_bits()).collect());
        };
        let output = executor.step_observed(&plan, keep).unwrap();
        let took_us = 1_000 + 10 * plan.token_count() as u64;
        for event in scheduler.update(output, took_us, NOW) {
            match event {
                RowEvent::Started { .. } => {}
                RowEvent::Token { id, token, .. } => said.entry(id).or_default().tokens.push(token),
                RowEvent::Ended { reason, .. } => {
                    assert_eq!(reason, EndReason::Length);
                    ended += 1;
                }
            }
        }
    }
    (said, widest, scheduler.decisions())
}

/// What a scheduler may do with an executor, without keeping anything for later.
pub fn limits(executor: &LlamaExecutor) -> Limits {
    Limits { saved_tokens_max: 0, prefix_keep: Millis(0), ..executor.capacity().limits(16) }
}

/// What each row says when it is alone and its prompt is fed as a whole, without a guess.
pub fn said_alone(alone: &mut LlamaExecutor, rows: &[RowRequest]) -> BTreeMap<RowId, Said> {
    let mut said = BTreeMap::new();
    for row in rows {
        // A fresh scheduler forgets nothing: the executor is told to forget the row before.
        let forget = MemoryOp::Forget { slot: Slot(0), from: 0 };
        alone.step(&StepPlan { memory: vec![forget], rows: Vec::new() }).unwrap();
        let limits = Limits { trims: false, ..limits(alone) };
        said.append(&mut run(alone, limits, std::slice::from_ref(row), 0).0);
    }
    said
}

/// Fails unless all rows said what was expected of them, to the last bit.
pub fn assert_same(said: &BTreeMap<RowId, Said>, expected: &BTreeMap<RowId, Said>, when: &str) {
    assert_eq!(said.len(), expected.len(), "{when}: rows are missing");
    for (id, said) in said {
        let expected = &expected[id];
        let same = said.logits.iter().zip(&expected.logits).take_while(|(a, b)| a == b).count();
        assert!(said == expected, "{when}: row {}'s logits differ from output {same} on", id.0);
    }
}
