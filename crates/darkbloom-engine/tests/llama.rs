//! Claims about the executor over llama.cpp, on the small model that ships with the repository.

#![allow(clippy::unwrap_used, reason = "an unwrap is how a test fails, also in its own functions")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use darkbloom_batch::{MemoryOp, RowId, RowWork, SampleAt, Sampling, SavedId, Slot, StepPlan};
use darkbloom_engine::{ExecuteError, Executor, GgufError, LlamaExecutor, LlamaSettings, LoadModelError, PlanFault};
use darkbloom_types::{SecretTokens, TokenId};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf")
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

#[test]
fn loading_is_heard_from_nothing_to_all_and_ends_when_whoever_hears_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::copy(model(), &path).unwrap();
    let (whole, broken_off) = (std::fs::File::open(&path).unwrap(), std::fs::File::open(&path).unwrap());
    // What is open is loaded, whatever becomes of its path.
    std::fs::remove_file(&path).unwrap();
    let settings = LlamaSettings { threads: 1, ..LlamaSettings::new(1, 64) };
    let mut heard = Vec::new();
    let loaded = LlamaExecutor::load_open(whole, Vec::new(), &settings, &mut |done| {
        heard.push(done);
        true
    });
    assert!(loaded.is_ok());
    assert!(
        heard.len() > 2 && heard.is_sorted() && heard.first() < Some(&0.5) && heard.last() == Some(&1.0),
        "{heard:?}"
    );
    let ended = LlamaExecutor::load_open(broken_off, Vec::new(), &settings, &mut |done| done < 0.5);
    assert!(matches!(ended, Err(LoadModelError::Ended)));
}

#[test]
fn a_step_that_is_interrupted_between_two_forwards_leaves_every_slot_empty_and_usable() {
    let settings = LlamaSettings { threads: 1, ..LlamaSettings::new(3, 256) };
    let mut executor = LlamaExecutor::load(&model(), &settings).unwrap();
    let work = |slot: u32, start: u32, tokens: std::ops::Range<u32>, draws: bool| RowWork {
        slot: Slot(slot),
        id: RowId(slot.into()),
        start,
        tokens: SecretTokens::new(tokens.map(TokenId).collect()),
        guesses: 0,
        sample: draws.then(|| SampleAt::new(Arc::new(Sampling::greedy()), 0)),
    };
    let plan = |rows: Vec<RowWork>| StepPlan { memory: vec![], rows };
    let whole = plan(vec![work(0, 0, 1..41, true)]);
    let first = executor.step(&whole).unwrap();

    let interrupt = executor.interrupt().unwrap();
    // The row that decodes has drawn when the prompt's piece is computed.
    let mixed = plan(vec![work(0, 40, 41..42, true), work(1, 0, 1..200, false)]);
    let mut drawn = 0;
    let outcome = executor.step_observed(&mixed, |_, _| {
        drawn += 1;
        interrupt.store(true, Ordering::Relaxed);
    });
    assert_eq!((outcome, drawn), (Err(ExecuteError::Interrupted), 1));
    interrupt.store(false, Ordering::Relaxed);
    assert_eq!(executor.step(&whole).unwrap(), first);
    executor.step(&plan(vec![work(1, 0, 1..200, false)])).unwrap();
    let again = MemoryOp::Forget { slot: Slot(0), from: 40 };
    assert_eq!(
        executor.step(&StepPlan { memory: vec![again], rows: vec![work(0, 40, 41..42, true)] }).unwrap().sampled.len(),
        1
    );
}
