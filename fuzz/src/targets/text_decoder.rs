//! Any tokens in any order: the decoder shows what reading all bytes at once would show.

#![no_main]

use std::sync::LazyLock;

use darkbloom_content::{AnswerParts, ChatRequest};
use darkbloom_fuzz::{Input, memory, small_pack};
use darkbloom_text::{AnswerAssembler, Opening, TextModel, TextPack};
use darkbloom_types::TokenId;
use libfuzzer_sys::fuzz_target;

static MODEL: LazyLock<TextModel> = LazyLock::new(|| {
    let pack = TextPack::from_gguf_header(&small_pack::gguf("gpt-2", small_pack::TEMPLATE)).expect("it is sound");
    TextModel::new(pack).expect("it works")
});

fuzz_target!(|bytes: &[u8]| {
    let model = &*MODEL;
    let mut input = Input::new(bytes);
    let mut tokens = Vec::new();
    while !input.is_empty() {
        let byte = input.byte();
        // Mostly bytes; words, control tokens and numbers beyond the vocabulary as well.
        tokens.push(TokenId(if byte == 0xff { 250 + u32::from(input.byte()) } else { u32::from(byte) }));
    }
    memory::within((4 << 10) + 32 * bytes.len(), || {
        let mut assembler = AnswerAssembler::new(model, &ChatRequest::new(Vec::new()), Opening::Free);
        let (mut parts, mut whole) = (AnswerParts::default(), Vec::new());
        for token in &tokens {
            let (more, stopped) = assembler.push(*token);
            assert!(!stopped);
            parts.append(&more);
            whole.extend_from_slice(model.token_bytes(*token).unwrap_or_default());
        }
        parts.append(&assembler.finish().parts);
        let shown: String = parts.iter().map(|part| part.text.expose()).collect();
        assert_eq!(shown, String::from_utf8_lossy(&whole));
    });
});
