//! Small models with random weights: every family of shapes, with weights stored in every way that people use.
//!
//! Vocabulary and tokenizer are those of the model that ships. Names of keys and tensors are llama.cpp's
//! (`gguf-py/gguf/constants.py`), layouts of quantised blocks ggml's (`ggml/src/ggml-common.h`). What the models say is
//! noise; what the rows compute is as real as anybody's.

#![allow(clippy::wildcard_enum_match_arm, reason = "nothing is decided by the kinds that are not named")]

use std::path::Path;

use crate::file::{Parts, Tensor};

/// What a model is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Plain attention and one feed-forward network: `qwen3`.
    Dense,
    /// Some of many experts for each token: `qwen3moe`.
    Experts,
    /// Every other block sees the last few tokens only: `gemma3`.
    Window,
    /// Both, with attention sinks and biases: `gpt-oss`.
    ExpertsAndWindow,
    /// Every other block has a recurrent state instead of keys and values: `lfm2`.
    Hybrid,
}

/// How the large weights are stored; norms and the experts' router are always in single precision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All in one way.
    All(Stored),
    /// Most in Q4_K, the values' and the last feed-forward weights in Q6_K, as llama.cpp's mixture of that name.
    Q4KM,
    /// Experts in four-bit floats with a shared exponent, the rest in Q8_0.
    Mxfp4Experts,
}

/// A multiple of 256, the length of the longest quantised blocks.
const WIDTH: u64 = 256;
const HEADS: u64 = 4;
const KEY_HEADS: u64 = 2;
const HEAD_SIZE: u64 = 64;
const BLOCKS: u64 = 2;
const FEED_FORWARD: u64 = 512;
const EXPERTS: u64 = 8;
const EXPERTS_USED: u64 = 2;
const EXPERT_FEED_FORWARD: u64 = 256;
/// Several times shorter than the rows, so that they leave it.
pub const WINDOW: u64 = 100;
pub const CONTEXT: u64 = 2_048;
/// Tokens that a recurrent block looks at, its own included.
const CONVOLUTION: u64 = 3;

impl Shape {
    fn architecture(self) -> &'static str {
        match self {
            Self::Dense => "qwen3",
            Self::Experts => "qwen3moe",
            Self::Window => "gemma3",
            Self::ExpertsAndWindow => "gpt-oss",
            Self::Hybrid => "lfm2",
        }
    }

    fn has_experts(self) -> bool {
        matches!(self, Self::Experts | Self::ExpertsAndWindow)
    }

    fn has_window(self) -> bool {
        matches!(self, Self::Window | Self::ExpertsAndWindow)
    }
}

/// Writes a model file.
pub fn write(shape: Shape, kind: Kind, path: &Path) {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/darkbloom-tiny-q8_0.gguf");
    let mut parts = Parts::read(&std::fs::read(shipped).unwrap());
    let vocabulary = parts.tensor("token_embd.weight").sizes[1];
    parts.keys.retain(|key| key.name.starts_with("general.") || key.name.starts_with("tokenizer."));
    set_keys(&mut parts, shape);
    parts.tensors.clear();
    add_tensors(&mut parts, shape, kind, vocabulary);
    std::fs::write(path, parts.write()).unwrap();
}

fn set_keys(parts: &mut Parts, shape: Shape) {
    const F32: u32 = 6;
    let architecture = shape.architecture();
    parts.set_text("general.architecture", architecture);
    let mut number = |name: &str, value: u64| {
        parts.set_number(&format!("{architecture}.{name}"), u32::try_from(value).unwrap());
    };
    number("block_count", BLOCKS);
    number("context_length", CONTEXT);
    number("embedding_length", WIDTH);
    number("feed_forward_length", FEED_FORWARD);
    number("attention.head_count", HEADS);
    number("attention.head_count_kv", KEY_HEADS);
    number("attention.key_length", HEAD_SIZE);
    number("attention.value_length", HEAD_SIZE);
    if shape.has_experts() {
        number("expert_count", EXPERTS);
        number("expert_used_count", EXPERTS_USED);
        number("expert_feed_forward_length", EXPERT_FEED_FORWARD);
    }
    if shape.has_window() {
        number("attention.sliding_window", WINDOW);
        number("attention.sliding_window_pattern", 2);
    }
    if shape == Shape::Hybrid {
        number("shortconv.l_cache", CONVOLUTION);
        // None in the blocks without attention.
        let heads = [0_u32, KEY_HEADS as u32].map(u32::to_le_bytes).concat();
        let list = [&crate::file::U32.to_le_bytes()[..], &BLOCKS.to_le_bytes(), &heads].concat();
        parts.set("lfm2.attention.head_count_kv", crate::file::LIST, list);
    }
    parts.set(&format!("{architecture}.rope.freq_base"), F32, 10_000_f32.to_le_bytes());
    parts.set(&format!("{architecture}.attention.layer_norm_rms_epsilon"), F32, 1e-6_f32.to_le_bytes());
}

fn add_tensors(parts: &mut Parts, shape: Shape, kind: Kind, vocabulary: u64) {
    let mut add = |name: &str, sizes: &[u64], stored: Stored| {
        let mut chance = Chance::named(name);
        let rows = sizes.iter().skip(1).product::<u64>();
        let data = (0..rows).flat_map(|_| stored.row(sizes[0], &mut chance)).collect();
        let name = name.as_bytes().to_vec();
        parts.tensors.push(Tensor { name, sizes: sizes.to_vec(), kind: stored.number(), data });
    };
    let (queries, keys) = (HEADS * HEAD_SIZE, KEY_HEADS * HEAD_SIZE);
    let (most, finer, experts) = kind.stored();
    add("token_embd.weight", &[WIDTH, vocabulary], finer);
    if shape == Shape::ExpertsAndWindow {
        add("output.weight", &[WIDTH, vocabulary], finer);
    }
    for block in 0..BLOCKS {
        let name = |rest: &str| format!("blk.{block}.{rest}");
        let mut norm = |rest: &str, size| add(&name(rest), &[size], Stored::Norm);
        norm("attn_norm.weight", WIDTH);
        let recurrent = shape == Shape::Hybrid && block == 0;
        if shape != Shape::ExpertsAndWindow && !recurrent {
            norm("attn_q_norm.weight", HEAD_SIZE);
            norm("attn_k_norm.weight", HEAD_SIZE);
        }
        match shape {
            Shape::Window => {
                norm("post_attention_norm.weight", WIDTH);
                norm("ffn_norm.weight", WIDTH);
                norm("post_ffw_norm.weight", WIDTH);
            }
            Shape::ExpertsAndWindow => {
                norm("post_attention_norm.weight", WIDTH);
                norm("attn_sinks.weight", HEADS);
            }
            Shape::Dense | Shape::Experts | Shape::Hybrid => norm("ffn_norm.weight", WIDTH),
        }
        if recurrent {
            add(&name("shortconv.conv.weight"), &[CONVOLUTION, WIDTH], Stored::F32);
            add(&name("shortconv.in_proj.weight"), &[WIDTH, 3 * WIDTH], most);
            add(&name("shortconv.out_proj.weight"), &[WIDTH, WIDTH], most);
        } else {
            add(&name("attn_q.weight"), &[WIDTH, queries], most);
            add(&name("attn_k.weight"), &[WIDTH, keys], most);
            add(&name("attn_v.weight"), &[WIDTH, keys], finer);
            add(&name("attn_output.weight"), &[queries, WIDTH], most);
        }
        if shape == Shape::ExpertsAndWindow {
            for (rest, size) in [("attn_q", queries), ("attn_k", keys), ("attn_v", keys), ("attn_output", WIDTH)] {
                add(&name(&format!("{rest}.bias")), &[size], Stored::F32);
            }
            add(&name("ffn_gate_inp.bias"), &[EXPERTS], Stored::F32);
            add(&name("ffn_gate_exps.bias"), &[EXPERT_FEED_FORWARD, EXPERTS], Stored::F32);
            add(&name("ffn_up_exps.bias"), &[EXPERT_FEED_FORWARD, EXPERTS], Stored::F32);
            add(&name("ffn_down_exps.bias"), &[WIDTH, EXPERTS], Stored::F32);
        }
        if shape.has_experts() {
            add(&name("ffn_gate_inp.weight"), &[WIDTH, EXPERTS], Stored::F32);
            add(&name("ffn_gate_exps.weight"), &[WIDTH, EXPERT_FEED_FORWARD, EXPERTS], experts);
            add(&name("ffn_up_exps.weight"), &[WIDTH, EXPERT_FEED_FORWARD, EXPERTS], experts);
            add(&name("ffn_down_exps.weight"), &[EXPERT_FEED_FORWARD, WIDTH, EXPERTS], experts);
        } else {
            add(&name("ffn_gate.weight"), &[WIDTH, FEED_FORWARD], most);
            add(&name("ffn_up.weight"), &[WIDTH, FEED_FORWARD], most);
            add(&name("ffn_down.weight"), &[FEED_FORWARD, WIDTH], finer);
        }
    }
    let last = if shape == Shape::Hybrid { "token_embd_norm.weight" } else { "output_norm.weight" };
    add(last, &[WIDTH], Stored::Norm);
}

impl Kind {
    /// How most weights are stored, those that are kept finer, and the experts'.
    fn stored(self) -> (Stored, Stored, Stored) {
        match self {
            Self::All(stored) => (stored, stored, stored),
            Self::Q4KM => (Stored::Q4K, Stored::Q6K, Stored::Q4K),
            Self::Mxfp4Experts => (Stored::Q8_0, Stored::Q8_0, Stored::Mxfp4),
        }
    }
}

/// How one tensor is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Near one, in single precision.
    Norm,
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq1S,
    Iq1M,
    Iq2Xxs,
    Iq2Xs,
    Iq2S,
    Iq3Xxs,
    Iq3S,
    Iq4Nl,
    Iq4Xs,
    Tq1_0,
    Tq2_0,
    Mxfp4,
}

/// A quantised block: elements, bytes, and where its half-precision factors stand, each with what it multiplies at most,
/// about. All other bytes may have any value.
type Block = (u64, usize, &'static [(usize, f32)]);

impl Stored {
    /// ggml's number of the type.
    pub fn number(self) -> u32 {
        match self {
            Self::Norm | Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2K => 10,
            Self::Q3K => 11,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::Iq2Xxs => 16,
            Self::Iq2Xs => 17,
            Self::Iq3Xxs => 18,
            Self::Iq1S => 19,
            Self::Iq4Nl => 20,
            Self::Iq3S => 21,
            Self::Iq2S => 22,
            Self::Iq4Xs => 23,
            Self::Iq1M => 29,
            Self::Bf16 => 30,
            Self::Tq1_0 => 34,
            Self::Tq2_0 => 35,
            Self::Mxfp4 => 39,
        }
    }

    fn block(self) -> Block {
        match self {
            Self::Norm | Self::F32 | Self::F16 | Self::Bf16 => (1, 0, &[]),
            Self::Q4_0 => (32, 18, &[(0, 8.0)]),
            // What is multiplied, then what is added.
            Self::Q4_1 => (32, 20, &[(0, 7.5), (2, -1.0)]),
            Self::Q5_0 => (32, 22, &[(0, 16.0)]),
            Self::Q5_1 => (32, 24, &[(0, 15.5), (2, -1.0)]),
            Self::Q8_0 => (32, 34, &[(0, 127.0)]),
            // The factor of the scales, then of what is taken off.
            Self::Q2K => (256, 84, &[(80, 45.0), (82, 30.0)]),
            Self::Q3K => (256, 110, &[(108, 128.0)]),
            Self::Q4K => (256, 144, &[(0, 945.0), (2, 126.0)]),
            Self::Q5K => (256, 176, &[(0, 1_953.0), (2, 126.0)]),
            Self::Q6K => (256, 210, &[(208, 4_064.0)]),
            Self::Iq1S => (256, 50, &[(0, 15.0)]),
            // Its factor is in the upper halves of its scales' bytes.
            Self::Iq1M => (256, 56, &[]),
            Self::Iq2Xxs => (256, 66, &[(0, 166.0)]),
            Self::Iq2Xs => (256, 74, &[(0, 166.0)]),
            Self::Iq2S => (256, 82, &[(0, 166.0)]),
            Self::Iq3Xxs => (256, 98, &[(0, 480.0)]),
            Self::Iq3S => (256, 110, &[(0, 465.0)]),
            Self::Iq4Nl => (32, 18, &[(0, 127.0)]),
            Self::Iq4Xs => (256, 136, &[(0, 4_064.0)]),
            Self::Tq1_0 => (256, 54, &[(52, 1.0)]),
            Self::Tq2_0 => (256, 66, &[(64, 1.0)]),
            // Its factor is a power of two.
            Self::Mxfp4 => (32, 17, &[]),
        }
    }

    /// One row of so many weights, the largest of which are some times one over the root of their number.
    pub fn row(self, elements: u64, chance: &mut Chance) -> Vec<u8> {
        let largest = 2.0 / (elements as f32).sqrt();
        let weights = (0..elements).map(|_| chance.even() * largest);
        match self {
            Self::Norm => (0..elements).flat_map(|_| (1.0 + 0.1 * chance.even()).to_le_bytes()).collect(),
            Self::F32 => weights.flat_map(f32::to_le_bytes).collect(),
            Self::F16 => weights.flat_map(|weight| half(weight).to_le_bytes()).collect(),
            Self::Bf16 => weights.flat_map(|weight| ((weight.to_bits() >> 16) as u16).to_le_bytes()).collect(),
            quantised => {
                let (in_block, bytes, factors) = quantised.block();
                assert!(elements.is_multiple_of(in_block), "a row ends with a block");
                let block = |_| {
                    let mut block: Vec<u8> = (0..bytes).map(|_| chance.next() as u8).collect();
                    for &(at, of) in factors {
                        block[at..at + 2].copy_from_slice(&half(largest / of).to_le_bytes());
                    }
                    match quantised {
                        // 2 to the power of this less 128, for numbers up to 12.
                        Self::Mxfp4 => block[0] = 121,
                        // Sign and upper exponent: between 2 to the power of -11 and of -7, for numbers up to 15.
                        Self::Iq1M => block[55] = block[55] & 0x0f | 0x10,
                        _ => {}
                    }
                    block
                };
                (0..elements / in_block).flat_map(block).collect()
            }
        }
    }
}

/// The nearest number below it in half precision; positive or negative, neither tiny nor huge.
fn half(number: f32) -> u16 {
    let bits = number.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let exponent = ((bits >> 23) & 0xff) as i32 - 127 + 15;
    match exponent {
        // Too small for a leading one: shifted, down to nothing.
        ..=0 => {
            sign | u16::try_from(((bits & 0x7f_ffff) | 0x80_0000).checked_shr((14 - exponent) as u32).unwrap_or(0))
                .unwrap()
        }
        1..=30 => sign | (exponent as u16) << 10 | ((bits >> 13) & 0x3ff) as u16,
        _ => panic!("{number} is beyond half precision"),
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014), from a tensor's name: weights do not depend on the order of tensors.
pub struct Chance(u64);

impl Chance {
    pub fn named(name: &str) -> Self {
        Self(name.bytes().fold(7, |state: u64, byte| (state ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Evenly from −1 to 1.
    fn even(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u64 << 23) as f32 - 1.0
    }
}
