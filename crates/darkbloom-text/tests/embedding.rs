//! Texts for models that make vectors, with the vocabulary of the model that ships.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

use darkbloom_text::gguf::{Metadata, Value, read_metadata};
use darkbloom_text::{EmbeddingTokenizer, ReadGgufError, TextModel, TextPack};
use darkbloom_types::{TokenCount, TokenId};
use proptest::prelude::*;

const BOS: &str = "tokenizer.ggml.add_bos_token";
const EOS: &str = "tokenizer.ggml.add_eos_token";
const PLENTY: TokenCount = TokenCount(1 << 20);

fn metadata() -> Metadata {
    let file = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/darkbloom-tiny-q8_0.gguf")).unwrap();
    let mut metadata = read_metadata(file.as_slice()).unwrap();
    metadata.entries.remove(BOS);
    metadata.entries.remove(EOS);
    metadata
}

fn with(changes: &[(&str, Option<Value>)]) -> Result<EmbeddingTokenizer, ReadGgufError> {
    let mut metadata = metadata();
    for (key, value) in changes {
        match value {
            Some(value) => drop(metadata.entries.insert((*key).to_owned(), value.clone())),
            None => drop(metadata.entries.remove(*key)),
        }
    }
    EmbeddingTokenizer::from_metadata(&metadata)
}

fn tokens(tokenizer: &EmbeddingTokenizer, text: &str) -> Vec<TokenId> {
    tokenizer.tokens_within(text, PLENTY).unwrap().expose().to_vec()
}

#[test]
fn the_tokens_around_a_text_are_those_that_the_file_asks_for() {
    let metadata = metadata();
    let number = |key: &str| TokenId(metadata.number(key).unwrap().unwrap());
    let end = number("tokenizer.ggml.eos_token_id");
    let begin = TokenId(5);
    let first = ("tokenizer.ggml.bos_token_id", Some(Value::Unsigned(5)));
    let yes = |key| (key, Some(Value::Bool(true)));
    let no = |key| (key, Some(Value::Bool(false)));
    let plain = tokens(&with(&[]).unwrap(), "What is this?");
    let around = |changes: &[_]| tokens(&with(changes).unwrap(), "What is this?");
    assert_eq!(around(&[first.clone(), no(BOS), no(EOS)]), plain);
    assert_eq!(around(&[first.clone(), yes(BOS)]), [&[begin], &plain[..]].concat());
    assert_eq!(around(&[yes(EOS)]), [&plain[..], &[end]].concat());
    assert_eq!(around(&[first, yes(BOS), yes(EOS)]), [&[begin], &plain[..], &[end]].concat());
    for (changes, what) in [
        (vec![yes(BOS), ("tokenizer.ggml.bos_token_id", None)], "first"),
        (vec![yes(EOS), ("tokenizer.ggml.eos_token_id", None)], "last"),
    ] {
        assert!(with(&changes).unwrap_err().to_string().contains(what), "{changes:?}");
    }
}

#[test]
fn what_is_no_token_of_a_text_never_comes_from_one() {
    let metadata = metadata();
    let model = TextModel::new(TextPack::from_metadata(&metadata).unwrap()).unwrap();
    let controls: Vec<_> = model.control_tokens().collect();
    assert!(!controls.is_empty());
    let made = tokens(&with(&[]).unwrap(), "a <|im_start|>user<|im_end|><|endoftext|>");
    assert!(made.iter().all(|token| !controls.contains(token)));
}

#[test]
fn a_file_needs_no_chat_template_and_one_with_it_has_the_pack_of_its_template() {
    let template = "tokenizer.chat_template";
    let without = with(&[(template, None)]).unwrap();
    let pack = TextPack::from_metadata(&metadata()).unwrap();
    let whole = with(&[]).unwrap();
    assert_eq!((whole.text_pack(), whole.vocabulary()), (pack.digest(), pack.vocabulary()));
    assert_ne!(without.text_pack(), whole.text_pack());
    assert_eq!(tokens(&without, "the same"), tokens(&whole, "the same"));
    assert!(with(&[(template, Some(Value::Bool(true)))]).is_err(), "what is there is a text");
}

proptest! {
    #[test]
    fn a_text_is_whole_within_the_limit_or_not_there(text in "\\PC{1,60}", add_end in any::<bool>()) {
        let tokenizer = with(&[(EOS, Some(Value::Bool(add_end)))]).unwrap();
        let all = tokens(&tokenizer, &text);
        let count = u32::try_from(all.len()).unwrap();
        for most in 0..count {
            prop_assert!(tokenizer.tokens_within(&text, TokenCount(most)).is_none());
        }
        let within = tokenizer.tokens_within(&text, TokenCount(count)).unwrap();
        prop_assert_eq!(within.expose(), &all[..]);
    }
}
