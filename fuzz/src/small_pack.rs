//! A small vocabulary in a GGUF header: all bytes, two merges, four control tokens, one word that stays whole.

/// The number of `<end>`.
pub const END: u32 = 259;
/// Control tokens: `<s>`, `<end>`, `<user>`, `<model>`.
pub const CONTROL: std::ops::Range<u32> = 258..262;

/// The 256 letters of the byte alphabet, in order of the bytes.
fn letters() -> impl Iterator<Item = String> {
    let mut shifted = (0x100u32..).filter_map(char::from_u32);
    (0..=u8::MAX).map(move |byte| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte).to_string(),
        _ => shifted.next().expect("there are far more characters").to_string(),
    })
}

fn text(text: &str) -> Vec<u8> {
    [(text.len() as u64).to_le_bytes().as_slice(), text.as_bytes()].concat()
}

fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [text(key).as_slice(), &kind.to_le_bytes(), value].concat()
}

fn list(kind: u32, elements: &[Vec<u8>]) -> Vec<u8> {
    [kind.to_le_bytes().as_slice(), &(elements.len() as u64).to_le_bytes(), &elements.concat()].concat()
}

/// How many tokens there are, and so the number of the first that a model has beside them.
pub const TOKENS: u32 = 263;

/// The header of a model file with this pre-tokenizer and chat template.
#[must_use]
pub fn gguf(pre_tokenizer: &str, template: &str) -> Vec<u8> {
    gguf_with(pre_tokenizer, template, &[], 0)
}

/// The same with more tokens of this kind: 3 for control tokens, 4 for words that stay whole.
#[must_use]
pub fn gguf_with(pre_tokenizer: &str, template: &str, more: &[&str], kind_of_more: u32) -> Vec<u8> {
    let words = ["th", "the", "<s>", "<end>", "<user>", "<model>", "violet"];
    let words = words.iter().chain(more).map(|word| (*word).to_owned());
    let tokens: Vec<_> = letters().chain(words).map(|token| text(&token)).collect();
    let kind = |token: usize| match token {
        0..258 => 1u32,
        258..262 => 3,
        262 => 4,
        _ => kind_of_more,
    };
    let kinds: Vec<_> = (0..tokens.len()).map(|token| kind(token).to_le_bytes().to_vec()).collect();
    let entries = [
        entry("general.architecture", 8, &text("small")),
        entry("small.context_length", 4, &99u32.to_le_bytes()),
        entry("tokenizer.ggml.model", 8, &text("gpt2")),
        entry("tokenizer.ggml.pre", 8, &text(pre_tokenizer)),
        entry("tokenizer.ggml.tokens", 9, &list(8, &tokens)),
        entry("tokenizer.ggml.merges", 9, &list(8, &[text("t h"), text("th e")])),
        entry("tokenizer.ggml.token_type", 9, &list(5, &kinds)),
        entry("tokenizer.ggml.bos_token_id", 4, &CONTROL.start.to_le_bytes()),
        entry("tokenizer.ggml.eos_token_id", 4, &END.to_le_bytes()),
        entry("tokenizer.chat_template", 8, &text(template)),
    ];
    let count = (entries.len() as u64).to_le_bytes();
    [b"GGUF".as_slice(), &3u32.to_le_bytes(), &0u64.to_le_bytes(), &count, &entries.concat()].concat()
}

/// A template like those that models bring.
pub const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<user>{% else %}<model>{% endif %}\
     {{ m.content | trim }}<end>{% endfor %}{% if add_generation_prompt %}<model>{% endif %}";
