//! A text pack: only its one encoding is accepted, and every pack that is accepted can be worked with or says why not.

#![no_main]

use darkbloom_content::{ChatRequest, Message, Role};
use darkbloom_fuzz::memory;
use darkbloom_text::{TextModel, TextPack};
use darkbloom_types::SecretString;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let pack = memory::within((256 << 10) + 96 * bytes.len(), || TextPack::from_bytes(bytes));
    let Ok(pack) = pack else { return };
    assert_eq!(pack.to_bytes(), bytes, "a second encoding is accepted");
    let vocabulary = pack.vocabulary();
    assert!(pack.end_tokens().all(|token| (token.0 as usize) < vocabulary));
    let Ok(model) = TextModel::new(pack) else { return };
    assert_eq!(model.vocabulary(), vocabulary);
    let text = SecretString::from("The 12 violets, naïve 紫.");
    for token in model.text_tokens(text.expose()).expose() {
        assert!((token.0 as usize) < vocabulary, "a token outside the vocabulary");
    }
    if let Ok(prompt) = model.prompt_tokens(&ChatRequest::new(vec![Message::new(Role::User, text)])) {
        assert!(prompt.expose().iter().all(|token| (token.0 as usize) < vocabulary));
    }
});
