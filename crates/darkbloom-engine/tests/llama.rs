//! Claims about the executor over llama.cpp, on the small model that ships with the repository.

#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails, also in its own functions")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use darkbloom_batch::{
    Decisions, EndReason, Limits, MemoryOp, Priority, RowEvent, RowId, RowRequest, RowWork, SampleAt, Sampling,
    SavedId, Scheduler, Scope, Slot, StepPlan,
};
use darkbloom_engine::{ExecuteError, Executor, GgufError, LlamaExecutor, LlamaSettings, LoadModelError, PlanFault};
use darkbloom_types::{Millis, MonoMillis, SecretTokens, TokenCount, TokenId};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf")
}

/// Another model for the exactness claims, to measure more than the one that ships.
fn exactness_model() -> PathBuf {
    std::env::var_os("DARKBLOOM_EXACTNESS_MODEL").map_or_else(model, PathBuf::from)
}

fn load(rows_max: usize, row_tokens_max: usize, step_tokens_max: usize, threads: usize) -> LlamaExecutor {
    let settings = LlamaSettings { step_tokens_max, threads, ..LlamaSettings::new(rows_max, row_tokens_max) };
    LlamaExecutor::load(&exactness_model(), &settings).unwrap()
}

/// Lengths on both sides of every boundary at which kernels change: 64 query tokens, 256 and 512 cells.
const PROMPT_LENGTHS: [usize; 12] = [5, 637, 64, 129, 17, 690, 33, 200, 63, 513, 48, 256];
const OUTPUT: u32 = 24;
const NOW: MonoMillis = MonoMillis(0);
const CONTEXT: usize = 1_024;

fn request(nth: usize, vocabulary: usize) -> RowRequest {
    let mut state = (nth as u64 + 100).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let prompt = (0..PROMPT_LENGTHS[nth])
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
struct Said {
    tokens: Vec<TokenId>,
    logits: Vec<Vec<u32>>,
}

/// Runs the rows through a scheduler, letting one in every `stagger` steps; most rows in one step beside what was said.
fn run(
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

fn limits(rows_max: usize, step_tokens_max: usize) -> Limits {
    Limits {
        rows_max,
        row_tokens_max: CONTEXT,
        step_tokens_max,
        waiting_max: 16,
        saved_tokens_max: 0,
        prefix_keep: Millis(0),
        trims: true,
    }
}

/// What each row says when it is alone and its prompt is fed as a whole, without a guess.
fn said_alone(threads: usize, rows: &[RowRequest]) -> BTreeMap<RowId, Said> {
    let mut alone = load(1, CONTEXT, 1_024, threads);
    let mut said = BTreeMap::new();
    for row in rows {
        // A fresh scheduler forgets nothing: the executor is told to forget the row before.
        let forget = MemoryOp::Forget { slot: Slot(0), from: 0 };
        alone.step(&StepPlan { memory: vec![forget], rows: Vec::new() }).unwrap();
        let limits = Limits { trims: false, ..limits(1, 1_024) };
        said.append(&mut run(&mut alone, limits, std::slice::from_ref(row), 0).0);
    }
    said
}

/// Rows, tokens a step, and after how many steps the next row comes in (0: all at once).
type Mix = (usize, usize, usize);

fn assert_rows_do_not_depend_on_neighbours(threads: usize, nths: &[usize], mixes: &[Mix]) {
    let vocabulary = load(1, 256, 64, 1).vocabulary();
    let rows: Vec<_> = nths.iter().map(|&nth| request(nth, vocabulary)).collect();
    let expected = said_alone(threads, &rows);
    for &(rows_max, step_tokens_max, stagger) in mixes {
        let mut shared = load(rows_max, CONTEXT, step_tokens_max, threads);
        let (said, widest, _) = run(&mut shared, limits(rows_max, step_tokens_max), &rows, stagger);
        assert!(widest >= rows_max.min(3), "the rows never shared a step");
        for (id, said) in said {
            let expected = &expected[&id];
            let same = said.logits.iter().zip(&expected.logits).take_while(|(a, b)| a == b).count();
            assert!(
                said == *expected,
                "row {} of {rows_max} rows, {step_tokens_max} tokens a step: logits differ from output {same} on",
                id.0
            );
        }
    }
}

#[test]
fn a_row_says_the_same_bit_for_bit_alone_and_among_ragged_neighbours() {
    let all: Vec<_> = (0..PROMPT_LENGTHS.len()).collect();
    let mixes = [(8, 1_024, 0), (8, 24, 3), (4, 100, 2), (2, 3, 5), (12, 512, 1)];
    assert_rows_do_not_depend_on_neighbours(1, &all, &mixes);
}

#[test]
fn a_row_says_the_same_bit_for_bit_with_two_threads() {
    // Threads that wait for each other are slow on busy cores, so these are few rows, all near or over 512 cells.
    assert_rows_do_not_depend_on_neighbours(2, &[1, 3, 9], &[(3, 1_024, 1)]);
}

fn refusal(path: &Path) -> LoadModelError {
    LlamaExecutor::load(path, &LlamaSettings::new(2, 256)).err().expect("the file was loaded")
}

fn changed_model(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = std::fs::read(model()).unwrap();
    change(&mut bytes);
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.gguf", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_missing_file_and_a_folder_are_refused() {
    assert!(matches!(refusal(Path::new("no/such/model.gguf")), LoadModelError::Missing));
    assert!(matches!(refusal(Path::new(env!("CARGO_MANIFEST_DIR"))), LoadModelError::Unreadable(_)));
}

#[test]
fn a_truncated_file_is_refused_wherever_it_was_cut() {
    let whole = std::fs::metadata(model()).unwrap().len() as usize;
    for keep in [0, 3, 4, 20, 24, 100, 1_000, 5_000, whole / 2, whole - 4_096, whole - 1] {
        let path = changed_model(&format!("cut-{keep}"), |bytes| bytes.truncate(keep));
        let refusal = refusal(&path);
        std::fs::remove_file(path).unwrap();
        assert!(matches!(refusal, LoadModelError::Damaged(GgufError::Truncated)), "cut at {keep}: {refusal}");
    }
}

#[test]
fn a_corrupted_file_is_refused() {
    let with = |name: &str, at: usize, new: &[u8]| {
        let path = changed_model(name, |bytes| bytes[at..at + new.len()].copy_from_slice(new));
        let refusal = refusal(&path);
        std::fs::remove_file(path).unwrap();
        refusal
    };
    assert!(matches!(with("magic", 0, b"GGML"), LoadModelError::Damaged(GgufError::Magic)));
    assert!(matches!(with("version", 4, &[9]), LoadModelError::Damaged(GgufError::Version(9))));
    let many = u64::MAX.to_le_bytes();
    assert!(matches!(with("tensors", 8, &many), LoadModelError::Damaged(GgufError::BeyondLimit(_))));
    assert!(matches!(with("keys", 16, &many), LoadModelError::Damaged(GgufError::BeyondLimit(_))));
    assert!(matches!(with("key", 24, &many), LoadModelError::Damaged(GgufError::BeyondLimit(_))));
    let no_keys = with("no-keys", 16, &0u64.to_le_bytes());
    assert!(matches!(no_keys, LoadModelError::Damaged(GgufError::Missing(_))), "{no_keys}");
}

/// The place right after a key, where its value's type stands.
fn after_key(bytes: &[u8], key: &str) -> usize {
    bytes.windows(key.len()).position(|window| window == key.as_bytes()).unwrap() + key.len()
}

#[test]
fn files_that_llama_would_abort_over_are_refused() {
    let twice = changed_model("twice", |bytes| {
        // Type, type of elements, their number; then each token's length and bytes.
        let mut at = after_key(bytes, "tokenizer.ggml.tokens") + 16;
        let mut seen: BTreeMap<usize, usize> = BTreeMap::new();
        loop {
            let length = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize;
            if let Some(earlier) = seen.insert(length, at) {
                bytes.copy_within(earlier..earlier + 8 + length, at);
                return;
            }
            at += 8 + length;
        }
    });
    assert!(matches!(refusal(&twice), LoadModelError::Damaged(GgufError::Malformed("the vocabulary"))));
    let negative = changed_model("negative", |bytes| {
        let at = after_key(bytes, "layer_norm_rms_epsilon") + 4;
        bytes[at + 3] |= 0x80;
    });
    assert!(matches!(refusal(&negative), LoadModelError::Damaged(GgufError::Malformed("a number"))));
    for path in [twice, negative] {
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn weights_that_are_not_numbers_are_refused() {
    // The last tensors' bytes: quantised blocks whose scales become not a number.
    let path = changed_model("weights", |bytes| {
        let end = bytes.len();
        bytes[end / 2..end - 4_096].fill(0xff);
    });
    let refusal = refusal(&path);
    std::fs::remove_file(path).unwrap();
    assert!(matches!(refusal, LoadModelError::Refused), "{refusal}");
}

#[test]
fn settings_out_of_range_are_refused() {
    let refused = |settings| LlamaExecutor::load(&model(), &settings).err().expect("the settings were taken");
    let good = LlamaSettings::new(2, 256);
    for settings in [
        LlamaSettings { rows_max: 0, ..good },
        LlamaSettings { rows_max: 257, step_tokens_max: 512, ..good },
        LlamaSettings { row_tokens_max: 0, ..good },
        LlamaSettings { step_tokens_max: 1, ..good },
        LlamaSettings { step_tokens_max: usize::MAX, ..good },
        LlamaSettings { threads: 0, ..good },
    ] {
        assert!(matches!(refused(settings), LoadModelError::Setting(_)), "{settings:?}");
    }
    let long = LlamaSettings { row_tokens_max: 1 << 19, ..good };
    assert!(matches!(refused(long), LoadModelError::ContextTooLong { .. }));
}

#[test]
fn plans_that_llama_would_abort_over_are_errors_and_the_executor_goes_on() {
    let settings = LlamaSettings { step_tokens_max: 8, ..LlamaSettings::new(2, 256) };
    let mut executor = LlamaExecutor::load(&model(), &settings).unwrap();
    let row = |slot, start, tokens: Vec<u32>| RowWork {
        slot: Slot(slot),
        id: RowId(1),
        start,
        tokens: SecretTokens::new(tokens.into_iter().map(TokenId).collect()),
        guesses: 0,
        sample: None,
    };
    let faults = [
        (vec![row(2, 0, vec![1])], PlanFault::UnknownSlot(Slot(2))),
        (vec![row(0, 0, vec![1]), row(0, 0, vec![1])], PlanFault::SlotTwice(Slot(0))),
        (vec![row(0, 1, vec![1])], PlanFault::WrongStart(Slot(0))),
        (vec![row(1, 0, vec![])], PlanFault::NoTokens(Slot(1))),
        (vec![row(1, 0, vec![1; 257])], PlanFault::RowTooLong(Slot(1))),
        (vec![row(1, 0, vec![1; 9])], PlanFault::StepTooLong),
        (vec![row(1, 0, vec![u32::MAX])], PlanFault::UnknownToken(Slot(1))),
    ];
    for (rows, fault) in faults {
        assert_eq!(executor.step(&StepPlan { memory: vec![], rows }), Err(ExecuteError::Plan(fault)));
    }
    assert!(executor.step(&StepPlan { memory: vec![], rows: vec![row(0, 0, vec![1, 2, 3])] }).is_ok());
}

#[test]
fn changes_to_the_memory_that_cannot_be_are_errors_and_the_executor_goes_on() {
    let settings = LlamaSettings { step_tokens_max: 8, ..LlamaSettings::new(2, 256) };
    let mut executor = LlamaExecutor::load(&model(), &settings).unwrap();
    let tokens = SecretTokens::new((1..5).map(TokenId).collect());
    let row = RowWork { slot: Slot(0), id: RowId(1), start: 0, tokens, guesses: 0, sample: None };
    executor.step(&StepPlan { memory: vec![], rows: vec![row.clone()] }).unwrap();
    let (slot, saved) = (Slot(0), SavedId(1));
    let faults = [
        (vec![MemoryOp::Forget { slot: Slot(2), from: 0 }], PlanFault::UnknownSlot(Slot(2))),
        (vec![MemoryOp::Forget { slot, from: 5 }], PlanFault::WrongKeep(slot)),
        (vec![MemoryOp::Restore { slot: Slot(1), saved, keep: 0 }], PlanFault::UnknownSaved(saved)),
        (vec![MemoryOp::Drop { saved }], PlanFault::UnknownSaved(saved)),
        (vec![MemoryOp::Save { slot, saved }, MemoryOp::Save { slot, saved }], PlanFault::SavedTwice(saved)),
        (vec![MemoryOp::Restore { slot, saved, keep: 4 }], PlanFault::NotEmpty(slot)),
        (vec![MemoryOp::Restore { slot: Slot(1), saved, keep: 5 }], PlanFault::WrongKeep(Slot(1))),
        (vec![MemoryOp::Copy { from: slot, to: slot, keep: 4 }], PlanFault::NotEmpty(slot)),
        (vec![MemoryOp::Copy { from: slot, to: Slot(1), keep: 5 }], PlanFault::WrongKeep(Slot(1))),
    ];
    for (memory, fault) in faults {
        assert_eq!(executor.step(&StepPlan { memory, rows: vec![] }), Err(ExecuteError::Plan(fault)));
    }
    let sample = Some(SampleAt::new(Arc::new(Sampling::greedy()), 0));
    let guess = RowWork { start: 4, guesses: 1, ..row };
    for (row, fault) in [
        (RowWork { guesses: 4, sample, ..guess.clone() }, PlanFault::NoTokens(slot)),
        (guess, PlanFault::Guesses(slot)),
    ] {
        assert_eq!(executor.step(&StepPlan { memory: vec![], rows: vec![row] }), Err(ExecuteError::Plan(fault)));
    }
}

/// A row whose prompt repeats itself, so that guesses are made.
fn repeating(vocabulary: usize) -> RowRequest {
    let piece = request(4, vocabulary).prompt;
    let prompt = piece.expose().iter().cycle().take(120).copied().collect();
    RowRequest { max_output: TokenCount(200), ..RowRequest::new(RowId(50), SecretTokens::new(prompt), TokenCount(1)) }
}

#[test]
fn a_row_says_the_same_bit_for_bit_with_and_without_guesses() {
    let mut executor = load(2, CONTEXT, 256, 1);
    let row = repeating(executor.vocabulary());
    let expected = said_alone(1, std::slice::from_ref(&row));
    let (said, _, decisions) = run(&mut executor, limits(2, 256), &[row], 0);
    assert!(decisions.guessed_tokens > 0 && decisions.right_guesses > 0, "{decisions:?}");
    assert!(said == expected, "logits differ: {decisions:?}");
}

#[test]
fn a_row_says_the_same_bit_for_bit_after_it_gave_way_and_came_back() {
    for saved_tokens_max in [0, 4_096] {
        let mut executor = load(2, CONTEXT, 256, 1);
        let vocabulary = executor.vocabulary();
        let mut rows: Vec<_> = [3, 7, 9, 2].into_iter().map(|nth| request(nth, vocabulary)).collect();
        rows[0].priority = Priority::Low;
        rows[1].priority = Priority::Low;
        rows[2].priority = Priority::High;
        let expected = said_alone(1, &rows);
        let (said, _, decisions) = run(&mut executor, Limits { saved_tokens_max, ..limits(2, 256) }, &rows, 3);
        let gave_way = if saved_tokens_max > 0 { decisions.saved_rows } else { decisions.refed_rows };
        assert!(gave_way > 0, "{decisions:?}");
        assert!(said == expected, "logits differ with {saved_tokens_max} tokens saved");
    }
}

#[test]
fn a_row_says_the_same_bit_for_bit_from_a_prefix_that_was_left_copied_or_saved() {
    let mut executor = load(2, CONTEXT, 256, 1);
    let vocabulary = executor.vocabulary();
    let common = request(9, vocabulary).prompt;
    let mut rows: Vec<_> = [0, 2, 4, 6, 10].into_iter().map(|nth| request(nth, vocabulary)).collect();
    for (nth, row) in rows.iter_mut().enumerate() {
        // Rows of two scopes, all of which begin alike.
        row.scope = Some(Scope::new([nth as u8 % 2; 32]));
        let own = row.prompt.expose().iter().take(40);
        row.prompt = SecretTokens::new(common.expose().iter().chain(own).copied().collect());
    }
    let expected = said_alone(1, &rows);
    let limits = Limits { saved_tokens_max: 4_096, prefix_keep: Millis(1_000), ..limits(2, 256) };
    let (said, _, decisions) = run(&mut executor, limits, &rows, 4);
    assert!(decisions.reused_tokens >= 2 * 513, "{decisions:?}");
    assert!(said == expected, "logits differ");
}
