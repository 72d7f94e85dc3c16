//! What stays in memory, seen by reading all of this process's memory.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use darkbloom_batch::{RowId, SampleAt, Sampling, Slot};
use darkbloom_types::SecretTokens;
use zeroize::Zeroize as _;

use super::*;

/// Longer than any accidental repetition of 16-bit floats.
const PIECE: usize = 48;
/// The piece that is looked for is kept changed by this, so that it does not find itself.
const MASK: u8 = 0xa5;

fn shipped_model() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf")
}

/// How often a piece stands in writable memory.
fn found(masked: &[u8; PIECE]) -> usize {
    let (maps, memory) = (std::fs::read_to_string("/proc/self/maps").unwrap(), File::open("/proc/self/mem").unwrap());
    let mut block = vec![0; 1 << 20];
    let mut count = 0;
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        if !rights.starts_with("rw") || line.ends_with("[vvar]") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let (mut at, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        while at + PIECE as u64 <= end {
            let length = usize::try_from(end - at).unwrap().min(block.len());
            // A stack's guard page or a mapping that has gone meanwhile.
            let Ok(read) = memory.read_at(&mut block[..length], at) else { break };
            let is_it = |window: &&[u8]| window.iter().zip(masked).all(|(byte, masked)| byte ^ MASK == *masked);
            count += block[..read].windows(PIECE).filter(is_it).count();
            if read < PIECE || at + read as u64 >= end {
                break;
            }
            at += (read - PIECE + 1) as u64;
        }
    }
    block.zeroize();
    count
}

#[test]
fn an_erased_row_leaves_no_keys_and_values_in_memory() {
    let mut executor =
        LlamaExecutor::load(&shipped_model(), &LlamaSettings { threads: 1, ..LlamaSettings::new(2, 256) }).unwrap();
    let tokens: Vec<_> = (0..150u32).map(|at| TokenId((at * 37 + 5) % 400)).collect();
    let work = |start| RowWork {
        slot: Slot(1),
        id: RowId(1),
        start,
        tokens: SecretTokens::new(tokens.clone()),
        guesses: 0,
        sample: Some(SampleAt::new(Arc::new(Sampling::greedy()), 0)),
    };
    let first = executor.step(&StepPlan { memory: vec![], rows: vec![work(0)] }).unwrap();

    let mut state = executor.context.state(1);
    assert!(state.len() > 100 * PIECE, "{} bytes of state", state.len());
    let masked = |at: usize| -> [u8; PIECE] { std::array::from_fn(|byte| state[at + byte] ^ MASK) };
    let pieces: Vec<_> = (1..9).map(|tenth| masked(state.len() / 10 * tenth)).collect();
    state.zeroize();
    drop(state);
    let there: Vec<_> = pieces.iter().filter(|piece| found(piece) > 0).collect();
    assert!(there.len() >= 4, "keys and values are in memory as llama.cpp saves them");

    executor.context.forget(1, 0);
    assert!(there.iter().all(|piece| found(piece) > 0), "forgetting leaves them: else erasing would not be needed");
    executor.erase();
    assert!(there.iter().all(|piece| found(piece) == 0), "they are still in memory");
    assert_eq!(executor.step(&StepPlan { memory: vec![], rows: vec![work(0)] }).unwrap(), first, "the slot works on");
}

#[test]
fn a_saved_state_that_was_damaged_is_not_brought_back_and_costs_only_time() {
    let mut executor =
        LlamaExecutor::load(&shipped_model(), &LlamaSettings { threads: 1, ..LlamaSettings::new(2, 256) }).unwrap();
    let work = |slot, start, tokens: std::ops::Range<u32>| RowWork {
        slot: Slot(slot),
        id: RowId(1),
        start,
        tokens: SecretTokens::new(tokens.map(TokenId).collect()),
        guesses: 0,
        sample: Some(SampleAt::new(Arc::new(Sampling::greedy()), 0)),
    };
    let save = MemoryOp::Save { slot: Slot(0), saved: SavedId(1) };
    let restore = |slot| MemoryOp::Restore { slot: Slot(slot), saved: SavedId(1), keep: 30 };
    executor.step(&StepPlan { memory: vec![], rows: vec![work(0, 0, 1..41)] }).unwrap();
    let output = executor.step(&StepPlan { memory: vec![save, restore(1)], rows: vec![work(1, 30, 31..60)] }).unwrap();
    assert_eq!((output.sampled.len(), output.lost.len()), (1, 0), "the undamaged state comes back");

    executor.saved.get_mut(&SavedId(1)).unwrap().damage();
    let forget = MemoryOp::Forget { slot: Slot(1), from: 0 };
    let output =
        executor.step(&StepPlan { memory: vec![forget, restore(1)], rows: vec![work(1, 30, 31..60)] }).unwrap();
    assert_eq!((output.sampled, output.lost), (vec![], vec![Slot(1)]));
    let copied = [forget, restore(1), MemoryOp::Copy { from: Slot(1), to: Slot(0), keep: 30 }];
    let empty = MemoryOp::Forget { slot: Slot(0), from: 0 };
    let memory = [&[empty][..], &copied].concat();
    let output = executor.step(&StepPlan { memory, rows: vec![work(0, 30, 31..60)] }).unwrap();
    assert_eq!((output.sampled, output.lost), (vec![], vec![Slot(1), Slot(0)]), "nor a copy of it");
    let again = executor.step(&StepPlan { memory: vec![], rows: vec![work(1, 0, 1..60)] }).unwrap();
    assert_eq!(again.sampled.len(), 1, "the row feeds everything again");
}

#[test]
fn long_rows_with_a_power_of_two_of_tokens_get_a_block_more() {
    let mut header = check_model_file(&shipped_model()).unwrap();
    for (tokens, cells) in
        [(1, 256), (1_024, 1_024), (1_793, 2_304), (2_048, 2_304), (2_304, 2_304), (2_560, 2_560), (4_000, 4_352)]
    {
        assert_eq!(row_cells(&header, tokens), cells, "for {tokens}");
    }
    // How long a row could be would change what the model computes.
    header.counts_long_rows_otherwise = true;
    assert_eq!(row_cells(&header, 4_096), 4_096);
}
