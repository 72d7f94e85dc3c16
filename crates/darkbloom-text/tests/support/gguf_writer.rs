//! Writes small GGUF headers, sound ones and others.

/// A header in the making.
#[derive(Clone)]
pub struct Header {
    pub architecture: &'static str,
    pub tokenizer: &'static str,
    pub pre_tokenizer: &'static str,
    pub tokens: Vec<String>,
    pub kinds: Vec<i32>,
    pub merges: Vec<String>,
    pub template: String,
    pub begin: Option<u32>,
    pub end: u32,
    pub add_begin: Option<bool>,
}

/// The 256 letters of the byte alphabet, in order of the bytes.
pub fn letters() -> Vec<String> {
    let mut shifted = 0x100..;
    let letter = |byte: u8| match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
        _ => char::from_u32(shifted.next().unwrap()).unwrap(),
    };
    (0..=u8::MAX).map(letter).map(String::from).collect()
}

impl Header {
    /// A vocabulary of all bytes (token 0 is byte 0), two merges (`th` is 256, `the` is 257) and four control tokens:
    /// `<s>` 258, `<end>` 259, `<user>` 260, `<model>` 261.
    pub fn small(template: &str) -> Self {
        let mut tokens = letters();
        tokens.extend(["th", "the", "<s>", "<end>", "<user>", "<model>"].map(str::to_owned));
        let mut kinds = vec![1; 258];
        kinds.extend([3; 4]);
        Self {
            architecture: "small",
            tokenizer: "gpt2",
            pre_tokenizer: "gpt-2",
            tokens,
            kinds,
            merges: vec!["t h".to_owned(), "th e".to_owned()],
            template: template.to_owned(),
            begin: Some(258),
            end: 259,
            add_begin: Some(true),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut entries: Vec<Vec<u8>> = vec![
            entry("general.architecture", 8, &text(self.architecture)),
            entry(&format!("{}.context_length", self.architecture), 4, &99u32.to_le_bytes()),
            entry("tokenizer.ggml.model", 8, &text(self.tokenizer)),
            entry("tokenizer.ggml.pre", 8, &text(self.pre_tokenizer)),
            entry("tokenizer.ggml.tokens", 9, &texts(&self.tokens)),
            entry("tokenizer.ggml.merges", 9, &texts(&self.merges)),
            entry("tokenizer.ggml.eos_token_id", 4, &self.end.to_le_bytes()),
            entry("tokenizer.chat_template", 8, &text(&self.template)),
        ];
        let kinds: Vec<u8> = self.kinds.iter().flat_map(|kind| kind.to_le_bytes()).collect();
        entries.push(entry("tokenizer.ggml.token_type", 9, &array(5, self.kinds.len() as u64, &kinds)));
        entries.extend(self.begin.map(|begin| entry("tokenizer.ggml.bos_token_id", 4, &begin.to_le_bytes())));
        entries.extend(self.add_begin.map(|add| entry("tokenizer.ggml.add_bos_token", 7, &[u8::from(add)])));
        file(3, entries.len() as u64, &entries.concat())
    }
}

pub fn file(version: u32, entries: u64, body: &[u8]) -> Vec<u8> {
    [b"GGUF".as_slice(), &version.to_le_bytes(), &0u64.to_le_bytes(), &entries.to_le_bytes(), body].concat()
}

pub fn entry(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
    [text(key), kind.to_le_bytes().to_vec(), value.to_vec()].concat()
}

pub fn text(text: &str) -> Vec<u8> {
    [(text.len() as u64).to_le_bytes().as_slice(), text.as_bytes()].concat()
}

pub fn texts(texts: &[String]) -> Vec<u8> {
    let body: Vec<u8> = texts.iter().flat_map(|it| text(it)).collect();
    array(8, texts.len() as u64, &body)
}

pub fn array(kind: u32, count: u64, body: &[u8]) -> Vec<u8> {
    [kind.to_le_bytes().as_slice(), &count.to_le_bytes(), body].concat()
}
