//! Tokens against the reference implementation, which ships in tests only.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[path = "support/gguf_writer.rs"]
mod gguf_writer;

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Instant;

use darkbloom_content::{ChatRequest, Message, Role};
use darkbloom_text::{TextModel, TextPack};
use gguf_writer::Header;
use proptest::prelude::*;
use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::{SplitDelimiterBehavior, Tokenizer};

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEMPLATE: &str = "{% for m in messages %}<user>{{ m.content }}<end>{% endfor %}<model>";

/// A vocabulary with `count` merges of random tokens, long ones and overlapping ones among them.
fn random_header(pre_tokenizer: &'static str, count: usize, alphabet: &[u8]) -> Header {
    let mut header = Header::small(TEMPLATE);
    header.pre_tokenizer = pre_tokenizer;
    let letters = gguf_writer::letters();
    let mut parts: Vec<String> = alphabet.iter().map(|&byte| letters[usize::from(byte)].clone()).collect();
    let mut known: BTreeSet<String> = header.tokens.iter().cloned().collect();
    let mut state = 42u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut merges = BTreeSet::new();
    while merges.len() < count {
        let (left, right) = (parts[random(parts.len())].clone(), parts[random(parts.len())].clone());
        let joined = format!("{left}{right}");
        if joined.chars().count() > 9 || !merges.insert((left.clone(), right.clone())) {
            continue;
        }
        header.merges.push(format!("{left} {right}"));
        if known.insert(joined.clone()) {
            header.tokens.push(joined.clone());
            header.kinds.push(1);
            parts.push(joined);
        }
    }
    header
}

fn reference(header: &Header) -> Tokenizer {
    let vocabulary: Vec<(String, u32)> = header.tokens.iter().cloned().zip(0..).collect();
    let merges = header.merges.iter().map(|merge| merge.split_once(' ').unwrap());
    let merges = merges.map(|(left, right)| (left.to_owned(), right.to_owned())).collect();
    let vocabulary: std::collections::HashMap<_, _> = vocabulary.into_iter().collect();
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary.into_iter().collect::<tokenizers::models::bpe::Vocab>(), merges)
        .ignore_merges(header.pre_tokenizer == "llama-bpe")
        .cache_capacity(0)
        .build()
        .unwrap();
    let mut tokenizer = Tokenizer::new(bpe);
    let by_expression = |expression: &str| {
        let split = Split::new(SplitPattern::Regex(expression.to_owned()), SplitDelimiterBehavior::Isolated, false);
        Sequence::new(vec![split.unwrap().into(), ByteLevel::new(false, false, false).into()])
    };
    match header.pre_tokenizer {
        "qwen2" => tokenizer.with_pre_tokenizer(Some(by_expression(QWEN2))),
        "llama-bpe" => tokenizer.with_pre_tokenizer(Some(by_expression(LLAMA3))),
        _ => tokenizer.with_pre_tokenizer(Some(ByteLevel::new(false, false, true))),
    };
    tokenizer
}

fn ours(header: &Header) -> TextModel {
    TextModel::new(TextPack::from_gguf_header(&header.bytes()).unwrap()).unwrap()
}

fn assert_same(ours: &TextModel, reference: &Tokenizer, text: &str) {
    let expected = reference.encode(text, false).unwrap();
    let found: Vec<u32> = ours.text_tokens(text).expose().iter().map(|token| token.0).collect();
    assert_eq!(found, expected.get_ids(), "{text:?}");
}

fn pairs() -> &'static [(TextModel, Tokenizer)] {
    static PAIRS: OnceLock<Vec<(TextModel, Tokenizer)>> = OnceLock::new();
    PAIRS.get_or_init(|| {
        let headers = ["gpt-2", "llama-bpe", "qwen2"].map(|rules| random_header(rules, 3_000, b"abc' \n1.\xc3\xa9"));
        headers.iter().map(|header| (ours(header), reference(header))).collect()
    })
}

#[test]
fn the_tiny_model_agrees_with_the_reference() {
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/darkbloom-tiny-q8_0.gguf")).unwrap();
    let metadata = darkbloom_text::gguf::read_metadata(file.as_slice()).unwrap();
    let mut header = Header::small(TEMPLATE);
    header.pre_tokenizer = "qwen2";
    header.tokens = metadata.texts("tokenizer.ggml.tokens").unwrap().to_vec();
    header.merges = metadata.texts("tokenizer.ggml.merges").unwrap().to_vec();
    let tiny = TextModel::new(TextPack::from_metadata(&metadata).unwrap()).unwrap();
    let reference = reference(&header);
    let texts = ["Say this phrase: all users echo", "Don't  stop\n\n at 1234!", "naïve 日本語 👍🏽 <|im_end|>", ""];
    for text in texts {
        assert_same(&tiny, &reference, text);
    }
}

#[test]
fn a_very_long_word_is_no_attack() {
    let word = "abcab".repeat(40_000);
    let start = Instant::now();
    for (ours, _) in pairs() {
        assert!(ours.text_tokens(&word).len() > 1_000);
    }
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
#[ignore = "a measurement, not a claim"]
fn speed() {
    let header = random_header("qwen2", 150_000, b"etaoinshrdlucm wypvbgkqjxz.,");
    let (ours, reference) = (ours(&header), reference(&header));
    let sentence =
        "The quick brown fox doesn't jump over 13 lazy dogs; it \"writes\" code_like(this) and naïve prose, too.\n";
    let text = sentence.repeat(10_240 / sentence.len() + 1);
    let request = ChatRequest::new(vec![Message::new(Role::User, text.as_str())]);
    let mut times: Vec<[u128; 3]> = (0..50)
        .map(|_| {
            let start = Instant::now();
            let tokens = ours.text_tokens(&text).len();
            let middle = Instant::now();
            let prompt = ours.prompt_tokens(&request).unwrap().len();
            let after = Instant::now();
            assert!(prompt > tokens && tokens == reference.encode(text.as_str(), false).unwrap().len());
            [middle - start, after - middle, after.elapsed()].map(|time| time.as_micros())
        })
        .collect();
    times.sort_unstable();
    let [text_us, prompt_us, reference_us] = times[25];
    println!("{} bytes: text {text_us} us, prompt {prompt_us} us, reference {reference_us} us", text.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]
    #[test]
    fn random_vocabularies_agree_with_the_reference(text in "[abc' \n1.é]{0,60}") {
        for (ours, reference) in pairs() {
            assert_same(ours, reference, &text);
        }
    }

    #[test]
    fn arbitrary_text_agrees_with_the_reference(text in any::<String>()) {
        for (ours, reference) in pairs() {
            assert_same(ours, reference, &text);
        }
    }
}
