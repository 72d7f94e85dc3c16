//! What keeps a row's numbers from depending on its neighbours.
//!
//! llama.cpp picks a kernel by how many tokens there are to multiply, and two kernels add in two orders. So all tokens have
//! to meet one kernel, alone or among others:
//!
//! - **Attention** over keys and values of one floating-point type is tiled from 64 tokens on, and split among threads for
//!   one token over 512 cells. With keys of another type than values it is neither (`ggml-cpu/ops.cpp`,
//!   `ggml_compute_forward_flash_attn_ext_f16`).
//! - **K-quants and IQ types** are multiplied in tiles from 8 tokens on, except weights that some other part of ggml has
//!   put its own things beside (`ggml-cpu/tiled/tiled.cpp`, `ggml_tiled_supported`).
//! - **Q4_K** that was repacked while it was loaded is multiplied in another way from 4 tokens on (`ggml-cpu/repack.cpp`).
//! - **Floats** are multiplied in another way from 2 tokens on (`ggml-cpu/llamafile/sgemm.cpp`). Nothing turns that off, but
//!   a token need not be alone.
//!
//! The matrices of an adapter are multiplied like any other, so a model needs what they need too.
//!
//! What was read in the source is proven by `tests/exactness`, on x86-64 with AVX2. Other processors have other kernels.

use std::ops::Range;

use crate::gguf::TensorTypes;

/// F32, F16 and BF16.
const FLOATS: [u32; 3] = [0, 1, 30];
/// Q2_K to Q6_K and the IQ types but IQ4_NL.
const TILED: [u32; 13] = [10, 11, 12, 13, 14, 16, 17, 18, 19, 21, 22, 23, 29];
/// Q4_K.
const REPACKED_INEXACTLY: [u32; 1] = [12];

/// What a model needs, by how its matrices are stored, so that its rows do not depend on each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Needs {
    /// No token may be computed alone.
    pub(super) company: bool,
    /// Its weights must not be multiplied in tiles.
    pub(super) no_tiles: bool,
    /// Its weights must not be repacked.
    pub(super) as_stored: bool,
}

impl Needs {
    pub(super) fn of(types: TensorTypes) -> Self {
        Self {
            company: types.any_of(&FLOATS),
            no_tiles: types.any_of(&TILED),
            as_stored: types.any_of(&REPACKED_INEXACTLY),
        }
    }
}

/// Whether weights of this type would be multiplied in tiles.
pub(super) fn is_tiled(of: u32) -> bool {
    TILED.contains(&of)
}

/// The tokens of a batch that llama.cpp would compute alone, by their places. Where it would draw from one token of several,
/// logits are asked for of a second, which nobody reads.
///
/// It cuts a batch: it takes as many tokens from each of neighbouring sequences as all of them have, and goes on with what is
/// left (`llama_batch_allocr::split_equal`). The batch is in the order of its sequences. A token more of the same sequence
/// gives each of those that are found company and changes no other cut.
pub(super) fn find_lonely(sequences: &[i32], outputs: &mut [i8]) -> Vec<usize> {
    let mut left: Vec<(i32, Range<usize>)> = Vec::new();
    for (place, &sequence) in sequences.iter().enumerate() {
        match left.last_mut() {
            Some((last, places)) if *last == sequence => places.end = place + 1,
            _ => left.push((sequence, place..place + 1)),
        }
    }
    let mut lonely = Vec::new();
    let mut first = 0;
    while let Some(skipped) = left[first..].iter().position(|(_, places)| !places.is_empty()) {
        first += skipped;
        let follows = |pair: &[(i32, Range<usize>)]| pair[1].0 == pair[0].0 + 1 && !pair[1].1.is_empty();
        let more = left[first..].windows(2).take_while(|pair| follows(pair)).count();
        let group = &mut left[first..=first + more];
        let each = group.iter().map(|(_, places)| places.len()).min().unwrap_or(0);
        let together = group.iter().flat_map(|(_, places)| places.clone().take(each));
        let (mut drawn, mut spare) = (0, None);
        for place in together {
            if outputs[place] == 0 { spare = Some(place) } else { drawn += 1 }
        }
        if group.len() * each == 1 {
            lonely.push(group[0].1.start);
        } else if let (1, Some(spare)) = (drawn, spare) {
            outputs[spare] = 1;
        }
        for (_, places) in group {
            places.start += each;
        }
    }
    lonely
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// llama.cpp's way to cut a batch, token by token as its source has it: the places of each cut.
    fn cuts(sequences: &[i32]) -> Vec<Vec<usize>> {
        let mut used = vec![false; sequences.len()];
        let mut cuts = Vec::new();
        loop {
            let mut group: Vec<i32> = Vec::new();
            for (place, &sequence) in sequences.iter().enumerate() {
                if !used[place] && !group.contains(&sequence) && group.last().is_none_or(|&last| sequence == last + 1) {
                    group.push(sequence);
                }
            }
            if group.is_empty() {
                return cuts;
            }
            let mut cut = Vec::new();
            loop {
                let next = |of: i32| (0..sequences.len()).find(|&place| !used[place] && sequences[place] == of);
                let Some(places) = group.iter().map(|&of| next(of)).collect::<Option<Vec<_>>>() else { break };
                for place in places {
                    used[place] = true;
                    cut.push(place);
                }
            }
            cuts.push(cut);
        }
    }

    proptest! {
        #[test]
        fn no_token_is_computed_or_drawn_from_alone(
            rows in prop::collection::btree_map(0_i32..12, (1_usize..6, any::<bool>()), 1..8),
        ) {
            let mut sequences = Vec::new();
            let mut outputs = Vec::new();
            for (sequence, (tokens, draws)) in rows {
                sequences.extend(std::iter::repeat_n(sequence, tokens));
                outputs.extend(std::iter::repeat_n(0, tokens - 1).chain([i8::from(draws)]));
            }
            let before = outputs.clone();
            for place in find_lonely(&sequences, &mut outputs) {
                sequences.push(sequences[place]);
                outputs.push(outputs[place]);
            }
            for cut in cuts(&sequences) {
                prop_assert!(cut.len() > 1, "{:?} alone in {:?}", cut, sequences);
                let drawn = cut.iter().filter(|&&place| outputs[place] == 1).count();
                prop_assert!(drawn != 1, "one drawn of {:?} in {:?}", cut, sequences);
            }
            prop_assert!(before.iter().zip(&outputs).all(|(before, after)| before <= after), "a draw was lost");
            prop_assert!(outputs.iter().map(|&output| usize::from(output == 1)).sum::<usize>() <= 2 * before.len());
        }
    }
}
