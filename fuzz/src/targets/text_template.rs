//! Chat templates, which come out of model files, with conversations: bounded work, and no control token out of a
//! message.

#![no_main]

use std::sync::LazyLock;

use darkbloom_content::{ChatRequest, Message, Role};
use darkbloom_fuzz::{Input, memory, small_pack, text};
use darkbloom_text::{PreTokenizer, TextModel, TextPack};
use libfuzzer_sys::fuzz_target;

/// What the templates of these targets may take: one rendering's limit on work lets a text of several MiB come about,
/// and there are copies of it.
const BYTES_MAX: usize = 512 << 20;

fn model(template: &str) -> Option<TextModel> {
    let header = small_pack::gguf(PreTokenizer::Gpt2.name(), template);
    TextModel::new(TextPack::from_gguf_header(&header).ok()?).ok()
}

static USUAL: LazyLock<TextModel> = LazyLock::new(|| model(small_pack::TEMPLATE).expect("this template works"));

fn conversation(mut input: Input<'_>) -> ChatRequest {
    let mut messages = Vec::new();
    while !input.is_empty() && messages.len() < 8 {
        // No tools: the usual template takes none.
        let roles = [Role::System, Role::User, Role::Assistant];
        let role = roles[usize::from(input.byte()) % roles.len()];
        let length = input.short() % 1_024;
        messages.push(Message::new(role, text(input.take(length)).as_ref()));
    }
    ChatRequest::new(messages)
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let length = input.short() % 4_096;
    let template = text(input.take(length)).into_owned();
    let request = conversation(input);
    memory::within(BYTES_MAX, || {
        // Whatever stands in a template, it is refused or renders.
        if let Some(model) = model(&template) {
            let _ = model.prompt_tokens(&request);
        }
    });
    let prompt = USUAL.prompt_tokens(&request).expect("this template takes every conversation");
    let controls = prompt.expose().iter().filter(|token| small_pack::CONTROL.contains(&token.0)).count();
    // The first, the last, and two a message.
    assert_eq!(controls, 2 + 2 * request.messages.len(), "a message's text became a control token");
});
