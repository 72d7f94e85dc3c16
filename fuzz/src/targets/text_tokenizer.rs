//! Tokenizers on any text: the tokens are the text, and none of them is a control token.

#![no_main]

use std::sync::LazyLock;

use darkbloom_content::{AnswerParts, ChatRequest};
use darkbloom_fuzz::{Input, memory, small_pack, text};
use darkbloom_text::{AnswerAssembler, Opening, PreTokenizer, TextModel, TextPack};
use libfuzzer_sys::fuzz_target;

/// The shipped model's header; the file has its weights behind it, which nobody reads.
static SHIPPED: &[u8] = include_bytes!("../../../models/darkbloom-tiny-q8_0.gguf");

static MODELS: LazyLock<Vec<TextModel>> = LazyLock::new(|| {
    let small = PreTokenizer::ALL.map(|rules| small_pack::gguf(rules.name(), small_pack::TEMPLATE));
    let headers = small.iter().map(Vec::as_slice).chain([SHIPPED]);
    headers
        .map(|header| TextModel::new(TextPack::from_gguf_header(header).expect("it is sound")).expect("it works"))
        .collect()
});

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let models = &*MODELS;
    let model = &models[usize::from(input.byte()) % models.len()];
    let text = text(input.rest());
    // Four bytes a token, and merging takes 16 bytes a byte in one list and 16 in a heap that doubles.
    let tokens = memory::within((4 << 10) + 96 * text.len(), || model.text_tokens(&text));
    let ends = model.end_tokens();
    assert!(tokens.expose().iter().all(|token| !ends.contains(token)), "a text became a control token");
    let whole: Vec<u8> =
        tokens.expose().iter().flat_map(|token| model.token_bytes(*token).unwrap_or(&[])).copied().collect();
    assert_eq!(whole, text.as_bytes(), "the tokens are not the text");
    let mut assembler = AnswerAssembler::new(model, &ChatRequest::new(Vec::new()), Opening::Free);
    let mut parts = AnswerParts::default();
    for token in tokens.expose() {
        parts.append(&assembler.push(*token).0);
    }
    parts.append(&assembler.finish().parts);
    let shown: String = parts.iter().map(|part| part.text.expose()).collect();
    assert_eq!(shown, text, "the decoder shows another text");
});
