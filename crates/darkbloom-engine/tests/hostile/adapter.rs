//! Adapters with random numbers, for any model.

use crate::file::{Parts, TEXT, Tensor, text};

/// An adapter of this rank that changes every matrix of the model's blocks and of its output. `row` makes one row of so many
/// numbers of a tensor with this name, stored as type `kind`.
pub fn adapter(base: &Parts, rank: u64, kind: u32, mut row: impl FnMut(&str, u64) -> Vec<u8>) -> Parts {
    let architecture = base.value("general.architecture").to_vec();
    let mut adapter = Parts { keys: Vec::new(), tensors: Vec::new() };
    adapter.set("general.type", TEXT, text(b"adapter"));
    adapter.set("general.architecture", TEXT, architecture);
    adapter.set("adapter.type", TEXT, text(b"lora"));
    // As much as its rank: the products are added as they are.
    adapter.set("adapter.lora.alpha", 6, (rank as f32).to_le_bytes());
    for tensor in &base.tensors {
        let name = String::from_utf8(tensor.name.clone()).unwrap();
        let changed = (name.starts_with("blk.") && name.ends_with(".weight")) || name == "output.weight";
        if !changed || tensor.sizes.len() < 2 {
            continue;
        }
        for (half, mut sizes) in [("lora_a", [tensor.sizes[0], rank]), ("lora_b", [rank, tensor.sizes[1]])]
            .map(|(half, sizes)| (half, sizes.to_vec()))
        {
            sizes.extend(&tensor.sizes[2..]);
            let name = format!("{name}.{half}");
            let rows = sizes[1..].iter().product::<u64>();
            let data = (0..rows).flat_map(|_| row(&name, sizes[0])).collect();
            adapter.tensors.push(Tensor { name: name.into_bytes(), sizes, kind, data });
        }
    }
    adapter
}

/// The same in single precision, from SplitMix64 (Steele, Lea, Flood 2014): products about as large as the weights are.
pub fn random_adapter(base: &Parts, rank: u64) -> Parts {
    let mut state = 7_u64;
    adapter(base, rank, 0, |_, elements| {
        let largest = 1.0 / (elements as f32).sqrt();
        let mut number = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ (mixed >> 31)) >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
        };
        (0..elements).flat_map(|_| (number() * largest).to_le_bytes()).collect()
    })
}
