//! Vectors of texts by `start --local`, over real sockets: the engine's own bits, whoever else asks, and every refusal.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use darkbloom_engine::{LlamaEmbedder, LlamaSettings};
use darkbloom_text::EmbeddingTokenizer;
use darkbloom_text::gguf::read_metadata;
use darkbloom_types::{TokenCount, TokenId};
use serde_json::{Value, json};

use crate::file::{BOOL, Parts};
use crate::support::http::{self, Response, bearer};
use crate::support::network::{ask_with, model_file};
use crate::support::process::{Process, command, run};

/// llama.cpp's number for the mean of all tokens.
const MEAN: u32 = 1;
/// Tokens of a row, as the server is told.
const ROW_TOKENS: usize = 256;
const CHAT: &str = "darkbloom-tiny-q8_0";
const VECTORS: &str = "vectors";

/// The model that ships as one that makes vectors: without a chat template, and with a token at the end of each text.
pub fn vectors_model(folder: &Path) -> PathBuf {
    let mut parts = Parts::read(&std::fs::read(model_file()).unwrap());
    parts.set_number("qwen3.pooling_type", MEAN);
    parts.set("tokenizer.ggml.add_eos_token", BOOL, [1]);
    parts.keys.retain(|key| key.name != "tokenizer.chat_template");
    let path = folder.join(VECTORS).with_extension("gguf");
    std::fs::write(&path, parts.write()).unwrap();
    path
}

pub struct Local {
    pub address: String,
    pub key: String,
    model: PathBuf,
    _process: Process,
    /// Last, so that the process ends before its data.
    folder: tempfile::TempDir,
}

/// Serves the model that ships, and the one that makes vectors, which is loaded when it is asked for.
pub fn start() -> Local {
    let folder = tempfile::tempdir().unwrap();
    let model = vectors_model(folder.path());
    let mut command = command(&["start", "--foreground", "--local", "--port", "0", "--threads", "1", "--rows", "4"]);
    command.args(["--context", &ROW_TOKENS.to_string()]).arg("--data").arg(folder.path().join("data"));
    let (process, ready) = Process::role(command.arg("--model").arg(model_file()).arg("--model").arg(&model)).unwrap();
    assert_eq!(ready["models"], json!([CHAT, VECTORS]));
    let text = |name: &str| ready[name].as_str().unwrap().to_owned();
    Local { address: text("address"), key: text("key"), model, _process: process, folder }
}

impl Local {
    fn post(&self, path: &str, key: &str, body: &[u8]) -> Response {
        let headers = [("authorization", &*bearer(key)), ("content-type", "application/json")];
        http::request(&self.address, "POST", path, &headers, body)
    }

    fn embed(&self, input: &Value, more: Value) -> Response {
        let mut body = json!({"model": VECTORS, "input": input});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.post("/v1/embeddings", &self.key, body.to_string().as_bytes())
    }

    /// The bits of the vectors of these texts.
    #[track_caller]
    fn bits(&self, input: &Value) -> Vec<Vec<u32>> {
        let response = self.embed(input, json!({}));
        assert_eq!(response.status, 200, "{}", response.text());
        let vectors = response.json()["data"].as_array().unwrap().clone();
        let bits = |vector: &Value| {
            let numbers = vector["embedding"].as_array().unwrap();
            numbers.iter().map(|number| (number.as_f64().unwrap() as f32).to_bits()).collect()
        };
        vectors.iter().map(bits).collect()
    }

    #[track_caller]
    fn refused(&self, input: Value, more: Value, status: u16, code: &str, words: &[&str]) -> Value {
        refused(&self.embed(&input, more), status, code, words)
    }
}

#[track_caller]
fn refused(response: &Response, status: u16, code: &str, words: &[&str]) -> Value {
    let error = response.json()["error"].clone();
    assert_eq!((response.status, &error["code"]), (status, &code.into()), "{error}");
    let message = error["message"].as_str().unwrap();
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
    error
}

const TEXTS: [&str; 8] = [
    "a",
    "What is 17 + 25?",
    "The quick brown fox jumps over the lazy dog, twice.",
    " ",
    "\u{1f338} a flower, and <|im_end|> in letters",
    "one two three four five six seven eight nine ten eleven twelve",
    "What is 17 + 25?",
    "z",
];

/// What the engine makes of each text alone.
fn expected(model: &Path) -> (Vec<Vec<TokenId>>, Vec<Vec<u32>>) {
    let metadata = read_metadata(BufReader::new(File::open(model).unwrap())).unwrap();
    let tokenizer = EmbeddingTokenizer::from_metadata(&metadata).unwrap();
    let tokens = TEXTS.map(|text| tokenizer.tokens_within(text, TokenCount(1_000)).unwrap().expose().to_vec());
    let settings = LlamaSettings { threads: 1, ..LlamaSettings::new(1, ROW_TOKENS) };
    let mut engine =
        LlamaEmbedder::load_open(File::open(model).unwrap(), Vec::new(), &settings, &mut |_| true).unwrap();
    let bits = tokens.iter().map(|text| {
        let vector = engine.embed(&[text], &|| true).unwrap().remove(0);
        vector.expose().iter().map(|number| number.to_bits()).collect()
    });
    let bits = bits.collect();
    (tokens.to_vec(), bits)
}

#[test]
fn vectors_have_the_engines_own_bits_alone_and_with_eight_clients_at_the_same_time() {
    let local = start();
    let (tokens, bits) = expected(&local.model);
    for (text, bits) in TEXTS.iter().zip(&bits) {
        assert_eq!(local.bits(&json!(text)), std::slice::from_ref(bits), "{text}");
    }
    assert_eq!(local.bits(&json!(TEXTS)), bits, "as one list");
    let numbers: Vec<Vec<u32>> = tokens.iter().map(|text| text.iter().map(|token| token.0).collect()).collect();
    assert_eq!(local.bits(&json!(numbers)), bits, "as tokens");
    assert_eq!(local.bits(&json!(numbers[1])), bits[1..2], "as one text's tokens");
    std::thread::scope(|scope| {
        for client in 0..8 {
            let (local, bits) = (&local, &bits);
            scope.spawn(move || {
                for round in 0..6 {
                    let picked: Vec<_> =
                        (0..=(client + round) % 7).map(|nth| (client * 3 + nth * 5 + round) % 8).collect();
                    let texts: Vec<_> = picked.iter().map(|at| TEXTS[*at]).collect();
                    let expected: Vec<_> = picked.iter().map(|at| bits[*at].clone()).collect();
                    assert_eq!(local.bits(&json!(texts)), expected, "client {client}, round {round}");
                }
            });
        }
        // The other model answers meanwhile.
        let chat = local.post("/v1/chat/completions", &local.key, ask("What is 17 + 25?").as_bytes());
        assert!(chat.answer().contains("42"));
    });
}

fn ask(prompt: &str) -> String {
    ask_with(prompt, json!({"model": CHAT})).to_string()
}

#[test]
fn an_answer_has_openais_shape_and_base64_says_the_same_as_numbers() {
    let local = start();
    let (tokens, bits) = expected(&local.model);
    let response = local.embed(&json!([TEXTS[0], TEXTS[1]]), json!({"encoding_format": "base64", "user": "me"}));
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("x-darkbloom-hints"), Some("user"));
    assert!(response.header("x-request-id").unwrap().starts_with("req_"));
    let answer = response.json();
    let count = tokens[0].len() + tokens[1].len();
    assert_eq!(answer["usage"], json!({"prompt_tokens": count, "total_tokens": count}));
    assert_eq!((&answer["object"], &answer["model"]), (&"list".into(), &VECTORS.into()));
    for (at, item) in answer["data"].as_array().unwrap().iter().enumerate() {
        assert_eq!((&item["object"], &item["index"]), (&"embedding".into(), &at.into()));
        let bytes = from_base64(item["embedding"].as_str().unwrap());
        let found: Vec<_> = bytes.chunks(4).map(|four| u32::from_le_bytes(four.try_into().unwrap())).collect();
        assert_eq!(found, bits[at]);
    }
    let width = bits[0].len();
    assert_eq!(local.embed(&json!("a"), json!({"dimensions": width})).status, 200);
    let listed = http::request(&local.address, "GET", "/v1/models", &[("authorization", &*bearer(&local.key))], b"");
    assert_eq!(listed.json()["data"][1]["id"], VECTORS);
    // The longest text that there is room for, and as many texts as there may be.
    let tokens = |count: usize| json!(vec![7; count]);
    let most = (1..=ROW_TOKENS).rev().find(|count| local.embed(&tokens(*count), json!({})).status == 200).unwrap();
    assert!(ROW_TOKENS - most <= 1, "{most}");
    let many = local.embed(&json!(vec!["a"; 2_048]), json!({"encoding_format": "base64"})).json();
    let vectors: Vec<_> = many["data"].as_array().unwrap().iter().map(|item| &item["embedding"]).collect();
    assert_eq!(vectors.len(), 2_048);
    assert!(vectors.iter().all(|vector| *vector == vectors[0]));
}

/// RFC 4648 section 4.
fn from_base64(text: &str) -> Vec<u8> {
    const SIGNS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let number = |sign: u8| SIGNS.iter().position(|known| *known == sign).unwrap() as u32;
    let signs = text.trim_end_matches('=').as_bytes();
    let three = |four: &[u8]| {
        let joined = four.iter().fold(0, |joined, sign| joined << 6 | number(*sign)) << (6 * (4 - four.len()));
        joined.to_be_bytes()[1..four.len()].to_vec()
    };
    signs.chunks(4).flat_map(three).collect()
}

#[test]
fn what_makes_no_vectors_is_refused_with_what_to_do_and_the_next_request_is_answered() {
    let local = start();
    let chat = json!({"model": CHAT});
    local.refused(json!("a"), chat, 400, "invalid_request", &["makes no vectors", "`POST /v1/chat/completions`"]);
    let body = ask_with("hi", json!({"model": VECTORS})).to_string();
    let sent = local.post("/v1/chat/completions", &local.key, body.as_bytes());
    refused(&sent, 400, "invalid_request", &["makes vectors", "`POST /v1/embeddings`"]);
    let unknown = local.refused(json!("a"), json!({"model": "another"}), 404, "model_not_found", &[]);
    assert_eq!(unknown["param"], "model");
    let long = "word ".repeat(ROW_TOKENS);
    let error =
        local.refused(json!(["a", long, "b"]), json!({}), 400, "context_length_exceeded", &["`input[1]` has more"]);
    assert_eq!(error["param"], "input");
    assert!(!error.to_string().contains("word"), "it quotes a text");
    local.refused(json!(long), json!({}), 400, "context_length_exceeded", &["`input` has more"]);
    local.refused(json!([[1], vec![1; 257]]), json!({}), 400, "context_length_exceeded", &["`input[1]`"]);
    local.refused(json!([[1], [4_000_000]]), json!({}), 400, "invalid_request", &["`input[1]`", "does not know"]);
    let much = json!(vec![vec![1; 200]; 1_501]);
    local.refused(much, json!({}), 413, "request_too_large", &["300000 tokens"]);
    local.refused(json!("a"), json!({"dimensions": 3}), 400, "invalid_request", &["`dimensions`", "leave it out"]);
    local.refused(json!(""), json!({}), 400, "invalid_value", &["`input`"]);
    local.refused(json!([]), json!({}), 400, "invalid_value", &["`input`"]);
    local.refused(json!(vec!["a"; 2_049]), json!({}), 400, "invalid_value", &["2048"]);
    local.refused(json!("a"), json!({"encoding_format": "int8"}), 400, "invalid_value", &["base64"]);
    local.refused(json!("a"), json!({"inputs": 1}), 400, "unknown_parameter", &["did you mean `input`?"]);
    refused(&local.post("/v1/embeddings", &local.key, b"{"), 400, "invalid_json", &[]);
    let large = json!({"model": VECTORS, "input": "a".repeat(4 << 20)}).to_string();
    refused(&local.post("/v1/embeddings", &local.key, large.as_bytes()), 413, "request_too_large", &[]);
    let body = json!({"model": VECTORS, "input": "a"}).to_string();
    refused(&local.post("/v1/embeddings", "dbl-", body.as_bytes()), 401, "invalid_api_key", &[]);
    let page = [("authorization", &*bearer(&local.key)), ("origin", "https://example.org")];
    assert_eq!(http::request(&local.address, "POST", "/v1/embeddings", &page, body.as_bytes()).status, 403);
    assert_eq!(local.embed(&json!("a"), json!({})).status, 200);
}

#[test]
fn a_network_takes_no_model_that_makes_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let model = vectors_model(folder.path());
    let mut start =
        command(&["start", "--foreground", "--key-home", "software", "--coordinator", "http://127.0.0.1:1"]);
    start.arg("--data").arg(folder.path().join("data")).arg("--model").arg(model_file()).arg("--model").arg(&model);
    let ended = run(&mut start);
    ended.failed_saying(&["vectors.gguf makes vectors of texts", "a network sells answers alone", "--local"]);
    let mut add = command(&["catalogue", "add"]);
    add.arg(&model).args(["--name", "v", "--quantisation", "Q8_0", "--input-price", "1", "--output-price", "1"]);
    add.args(["--coordinator", "http://127.0.0.1:1"]).env("DARKBLOOM_ADMIN_KEY", "db-admin-x");
    run(&mut add).failed_saying(&["a network sells answers alone"]);
}

#[test]
fn the_official_python_client_gets_vectors_unmodified() {
    let Some(python) = crate::python::interpreter() else { return };
    let local = start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/openai_embeddings.py");
    let output = std::process::Command::new(python)
        .arg(script)
        .env("BASE_URL", format!("http://{}/v1", local.address))
        .env("API_KEY", &local.key)
        .env("MODEL", VECTORS)
        .env("CHAT_MODEL", CHAT)
        .current_dir(local.folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.trim_end().ends_with("all passed"), "{said}");
}
