//! A provider of ours and a client in JavaScript, line by line over standard input and output.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use darkbloom_seal::{Acceptance, AnswerSealer, seal_refusal};
use darkbloom_types::{AttemptNumber, TokenCount};
use darkbloom_wire::{SealedHeader, Wrap};
use serde_json::{Value, json};

use crate::parties::{Provider, header};

const PLAINTEXT: &str = "Grüße, 世界";
const PIECES: [(&str, usize, u32, bool); 3] = [("one", 64, 1, false), (" two three", 256, 5, false), ("", 64, 5, true)];
const WORDS: &str = "a refusal's words";

/// What came of it.
pub enum Outcome {
    /// Both directions agree.
    Agreed(String),
    /// There is nothing to run, and why.
    Skipped(String),
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../interop")
}

fn node(script: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(script).current_dir(folder());
    command
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap()
}

/// The header's first fourteen fields, as the other side is told them.
fn fields(header: &SealedHeader) -> Value {
    let bytes = |bytes: &[u8]| json!({ "bytes": hex::encode(bytes) });
    let int = |number: i64| json!({ "int": number.to_string() });
    json!([
        bytes(&header.network.0),
        int(1),
        bytes(&header.request.0),
        bytes(&header.operation.0),
        bytes(&header.model.0),
        int(1),
        { "bool": header.stream },
        int(header.input_ceiling.0.into()),
        int(header.output_ceiling.0.into()),
        int(header.price_version.into()),
        int(header.price_max.0),
        int(header.tier_min.code().into()),
        bytes(&header.affinity),
        int(header.sealed_at.0),
    ])
}

/// Opens the golden vectors in JavaScript, then opens and answers a request that was sealed there.
///
/// # Panics
/// When the two do not agree.
pub fn run() -> Outcome {
    if !folder().join("node_modules/@hpke/core").exists() {
        return Outcome::Skipped("interop/node_modules is missing; interop/run.sh installs it".to_owned());
    }
    let vectors = match node("vectors.mjs").output() {
        Ok(output) => output,
        Err(error) => return Outcome::Skipped(format!("node does not start: {error}")),
    };
    assert!(vectors.status.success(), "vectors.mjs: {}", String::from_utf8_lossy(&vectors.stderr));
    let frames = talk();
    Outcome::Agreed(format!(
        "vectors: {}; a request sealed in JavaScript opened here, and its answer of {frames} frames there",
        String::from_utf8_lossy(&vectors.stdout).trim()
    ))
}

fn talk() -> usize {
    let mut client = node("client.mjs").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut to_client = client.stdin.take().unwrap();
    let mut from_client = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut send = |value: &Value| writeln!(to_client, "{value}").unwrap();
    let mut receive = || -> Value {
        let line = from_client.next().expect("the client speaks until it is done").unwrap();
        serde_json::from_str(&line).unwrap()
    };

    let mut providers = ["javascript 1", "javascript 2"].map(Provider::new);
    let recipients: Vec<_> = providers
        .iter()
        .map(|provider| {
            let sealing_key = hex::encode(provider.sealing_key(&provider.current()));
            json!({ "provider": provider.id, "epoch": provider.current(), "sealing_key": sealing_key })
        })
        .collect();
    send(&json!({ "recipients": recipients, "fields": fields(&header()), "plaintext": hex::encode(PLAINTEXT) }));
    let request = receive();

    let (header_bytes, body) = (bytes(&request["header"]), bytes(&request["body"]));
    let mut last = None;
    for (index, provider) in providers.iter_mut().enumerate() {
        let wrap = &request["wraps"][index];
        let wrap = Wrap {
            provider: provider.id,
            epoch: provider.current(),
            encapsulation: bytes(&wrap["encapsulation"]),
            ciphertext: bytes(&wrap["ciphertext"]),
        };
        let (sealed_header, opened) = provider.ring.open(&header_bytes, &body, &wrap, header().sealed_at).unwrap();
        let SealedHeader { recipients, key_commitment, .. } = sealed_header;
        assert_eq!(sealed_header, SealedHeader { recipients, key_commitment, ..header() });
        assert_eq!(opened.plaintext.expose(), PLAINTEXT.as_bytes());
        last = Some((opened, provider.id, provider.current()));
    }
    let (opened, provider, epoch) = last.unwrap();

    let acceptance = Acceptance {
        request_digest: opened.request_digest,
        provider,
        epoch,
        attempt: AttemptNumber(2),
        salt: [0x42; 32],
    };
    let mut sealer = AnswerSealer::new(&opened.response_secret, &acceptance);
    let frames: Vec<_> = PIECES
        .iter()
        .map(|(content, size, tokens, end)| {
            let frame = sealer.seal(content.as_bytes(), *size, TokenCount(*tokens), *end).unwrap();
            json!({
                "sequence": frame.sequence, "tokens": tokens, "end": end, "ciphertext": hex::encode(frame.ciphertext)
            })
        })
        .collect();
    let refusal = seal_refusal(&opened.response_secret, &opened.request_digest, &[0x43; 32], WORDS.as_bytes()).unwrap();
    send(&json!({
        "acceptance": {
            "provider": provider, "epoch": epoch, "attempt": 2, "salt": hex::encode(acceptance.salt)
        },
        "frames": frames,
        "refusal": hex::encode(refusal),
    }));
    let read = receive();
    let contents: Vec<_> = PIECES.iter().map(|(content, ..)| hex::encode(content)).collect();
    assert_eq!(read["contents"], json!(contents));
    assert_eq!(read["ended"], json!(true));
    assert_eq!(text(&read["transcript"]), sealer.transcript().to_string());
    assert_eq!(bytes(&read["refusal"]), WORDS.as_bytes());
    assert!(client.wait().unwrap().success());
    frames.len()
}
