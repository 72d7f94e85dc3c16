//! Which architectures run, and which are refused by their names.

/// How an architecture's positions turn with its attention heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rotation {
    /// Whole heads: llama.cpp asserts it.
    Whole,
    /// Whole heads, or the first so many of their elements.
    Part,
}

/// The architectures that run, by llama.cpp's names: plain decoders with attention over keys and values of equal width.
pub(super) const ARCHITECTURES: [(&str, Rotation); 28] = [
    ("arcee", Rotation::Whole),
    ("cohere2", Rotation::Part),
    ("command-r", Rotation::Part),
    ("dots1", Rotation::Whole),
    ("ernie4_5", Rotation::Whole),
    ("ernie4_5-moe", Rotation::Whole),
    ("exaone", Rotation::Whole),
    ("exaone4", Rotation::Whole),
    ("gemma", Rotation::Part),
    ("gemma2", Rotation::Part),
    ("gemma3", Rotation::Part),
    ("glm4", Rotation::Part),
    ("gpt-oss", Rotation::Part),
    ("granite", Rotation::Whole),
    ("granitemoe", Rotation::Whole),
    ("internlm2", Rotation::Whole),
    ("llama", Rotation::Whole),
    ("mistral3", Rotation::Whole),
    ("olmo2", Rotation::Whole),
    ("olmoe", Rotation::Whole),
    ("phi3", Rotation::Part),
    ("qwen2", Rotation::Whole),
    ("qwen2moe", Rotation::Whole),
    ("qwen3", Rotation::Whole),
    ("qwen3moe", Rotation::Whole),
    ("seed_oss", Rotation::Whole),
    ("smollm3", Rotation::Whole),
    ("starcoder2", Rotation::Whole),
];

/// Those that mix blocks of attention with blocks that keep a recurrent state, by llama.cpp's names (`llm_arch_is_hybrid`).
/// Such a state cannot be cut back, and plans, guesses and what keeps a token company all do that.
pub(super) const HYBRIDS: [&str; 18] = [
    "bailingmoe3",
    "deepseek4",
    "falcon-h1",
    "glm5-next",
    "granitehybrid",
    "jamba",
    "kimi-k3",
    "kimi-linear",
    "lfm2",
    "lfm2moe",
    "minimax-01",
    "nemotron_h",
    "nemotron_h_moe",
    "plamo2",
    "qwen35",
    "qwen35moe",
    "qwen3next",
    "qwen4exp",
];
