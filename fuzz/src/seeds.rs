//! Writes the first inputs of every target: golden vectors, the shipped model's header, and a few of our own.
//!
//! `seeds REPOSITORY FOLDER` makes `FOLDER/TARGET/NAME`.

use std::fs;
use std::path::{Path, PathBuf};

use darkbloom_content::{AnswerEvent, AnswerParts, ChatRequest, FinishReason, Message, PartKind, Role, Tool, ToolCall};
use darkbloom_fuzz::{parties, small_pack};
use darkbloom_text::{PreTokenizer, TextPack, gguf};
use darkbloom_types::{CatalogueDigest, RefusalCode, SecretString, TokenCount, TokenId};
use darkbloom_wire::{
    AnswerProof, AppleAppAttestEvidence, CandidateNow, CandidateUpdate, ClientFrame, CoordinatorProof, Domain,
    Evidence, LengthPrefixed, PublicKey, Relayed, RelayedFinal, SnpEvidence, Statement, TdxEvidence,
    coordinator_proof_digest, limits, open_signed,
};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Where inputs go.
struct Seeds {
    vectors: PathBuf,
    folder: PathBuf,
}

impl Seeds {
    fn put(&self, target: &str, name: impl AsRef<Path>, parts: &[&[u8]]) -> Outcome<()> {
        let folder = self.folder.join(target);
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join(name), parts.concat())?)
    }

    fn vector(&self, file: &str) -> Outcome<Value> {
        Ok(serde_json::from_slice(&fs::read(self.vectors.join(file))?)?)
    }
}

fn bytes(value: &Value) -> Outcome<Vec<u8>> {
    Ok(hex::decode(value.as_str().ok_or("a vector misses its bytes")?)?)
}

fn wire(seeds: &Seeds) -> Outcome<()> {
    let mut stream = Vec::new();
    for frame in seeds.vector("frames.json")?.as_array().ok_or("frames.json is no list")? {
        let (name, encoded) = (frame["name"].as_str().unwrap_or_default(), bytes(&frame["bytes"])?);
        let family = match frame["direction"].as_str() {
            Some("coordinator to provider") => 0,
            Some("provider to coordinator") => 1,
            Some("client to coordinator") => 2,
            _ => 3,
        };
        seeds.put("wire_frames", name, &[&[family], &encoded])?;
        stream.extend(LengthPrefixed::wrap(&encoded));
    }
    let now = CandidateNow {
        provider: parties::provider(),
        epoch: parties::epoch().id(),
        rows_free: 3,
        waiting: 0,
        row_tokens: TokenCount(1_024),
        statement: None,
    };
    let price = darkbloom_types::Price { version: 1, input_nano_per_token: 50, output_nano_per_token: 200 };
    let update = CandidateUpdate { time: parties::NOW, price, candidates: vec![now].into() };
    let end = Relayed::from(RelayedFinal { receipt: vec![1], bill: vec![2], update: Some(update) }).encode();
    seeds.put("wire_frames", "RelayedFinal-with-update", &[&[3], &end])?;
    for step in [1u16, 7, 4_096] {
        seeds.put("wire_prefixed", step.to_string(), &[&step.to_be_bytes(), &stream])?;
    }
    seeds.put("wire_prefixed", "too-long", &[&[0, 9], &u32::MAX.to_be_bytes()])?;
    seeds.put("wire_header", "vector", &[&bytes(&seeds.vector("sealed-header.json")?["bytes"])?])?;
    seeds.put("wire_header", "sensible", &[&parties::sealed().submit.header])?;
    for (number, domain) in (0..).zip(Domain::ALL) {
        let file = match domain {
            Domain::Statement => "statement.json",
            Domain::Challenge => "challenge-proof.json",
            Domain::Coordinator => "coordinator-proof.json",
            Domain::Bill => "bill.json",
            Domain::CatalogueEntry => "catalogue-entry.json",
            Domain::CandidateList => "candidate-list.json",
            Domain::Receipt => "receipt.json",
            Domain::Activation => "activation.json",
            Domain::ProviderList => "provider-list.json",
            Domain::Succession => "succession.json",
        };
        let vector = seeds.vector(file)?;
        seeds.put("wire_signed", format!("{file}-envelope"), &[&[0, number], &bytes(&vector["signed"])?])?;
        seeds.put("wire_signed", format!("{file}-payload"), &[&[1, number], &bytes(&vector["payload"])?])?;
        if domain == Domain::Statement {
            seeds.put("attest_statement", "vector", &[&[1, 0, 128, 1], &bytes(&vector["payload"])?])?;
            seeds.put("attest_statement", "envelope", &[&[1, 0, 128, 0], &bytes(&vector["signed"])?])?;
        }
        if domain == Domain::Challenge {
            seeds.put("attest_statement", "challenge", &[&[0], &bytes(&vector["payload"])?])?;
        }
    }
    Ok(())
}

fn seal(seeds: &Seeds) -> Outcome<()> {
    let sealed = parties::sealed();
    seeds.put("seal_request", "genuine", &[&[0], &ClientFrame::from(sealed.submit.clone()).encode()])?;
    seeds.put("seal_request", "vector", &[&[0], &bytes(&seeds.vector("sealed-request.json")?["submit_frame"])?])?;
    for part in 0..6u8 {
        seeds.put("seal_request", format!("changed-{part}"), &[&[1, part, 0, 3, 1, b'x', 1]])?;
    }
    seeds.put("seal_answer", "all", &[&[1, 0, 7, 1, 7, 2, 7, 3, 7]])?;
    for change in 0..7u8 {
        seeds.put("seal_answer", format!("changed-{change}"), &[&[1, 0, 7, 1, change, 0, 1, 0, 2, 7]])?;
    }
    seeds.put("seal_answer", "refusal", &[&[0, 1]])?;
    seeds.put("seal_answer", "refusal-changed", &[&[0, 1, 0, 40, 1]])?;
    let vector = seeds.vector("answer.json")?;
    seeds.put("seal_answer", "refusal-vector", &[&[0, 0], &bytes(&vector["refusal"]["sealed"])?])?;
    seeds.put("seal_padding", "padded", &[&darkbloom_seal::pad(b"violet", 64)?])?;
    seeds.put("seal_padding", "empty", &[])?;
    // A statement that says something about everything.
    let evidence = Evidence { format: "tpm2".to_owned(), bytes: vec![1, 2, 3] };
    let statement = parties::epoch().statement(parties::NETWORK, vec![CatalogueDigest([4; 32])], vec![evidence], "1.2");
    let signed = statement.sign(&parties::p256())?;
    let key = PublicKey::P256(parties::identity());
    let payload = open_signed(Domain::Statement, &key, &signed, 1 << 20)?;
    seeds.put("attest_statement", "sensible", &[&[1, 0, 128, 1], payload])?;
    seeds.put("attest_statement", "pinned", &[&[1, 1, 140, 0], &signed])?;
    Ok(())
}

fn tpm(seeds: &Seeds) -> Outcome<()> {
    let vector = seeds.vector("tpm-evidence.json")?;
    seeds.put("attest_tpm", "evidence", &[&[0], &bytes(&vector["evidence"])?])?;
    seeds.put("attest_tpm", "request", &[&[1], &bytes(&vector["activation_request"])?])?;
    let pem = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    seeds.put("attest_tpm", "pem", &[&[2], pem.as_bytes()])
}

fn snp(seeds: &Seeds) -> Outcome<()> {
    for (number, real) in (0u8..).zip(seeds.vector("snp-reports.json")?["real"].as_array().into_iter().flatten()) {
        seeds.put("attest_snp", format!("changed-{number}"), &[&[0, number, 0x90, 0, 1]])?;
        let intermediates = vec![bytes(&real["intermediate"])?].into();
        let evidence = SnpEvidence { report: bytes(&real["report"])?, chip: bytes(&real["chip"])?, intermediates };
        seeds.put("attest_snp", format!("evidence-{number}"), &[&[1], &evidence.encode()])?;
    }
    let accepted = format!(
        "[[accepted]]\nrelease = \"r\"\ntpm = {{ firmware = [\"{0}\"], secure_boot = true, booted = [\"{0}\"], registers = {{ \"12\" = \"{0}\", \"13\" = \"{0}\" }} }}\n\
         tdx = {{ measurement = \"{1}\", registers = {{ 0 = \"{1}\", 1 = \"{1}\", 2 = \"{1}\" }}, evaluation = 17 }}\n\
         snp = {{ product = \"genoa\", measurement = \"{1}\", host_data = \"{0}\", minimum = {{ bootloader = 1, tee = 2, snp = 3, microcode = 4 }} }}\n",
        "11".repeat(32),
        "22".repeat(48)
    );
    seeds.put("attest_snp", "accepted", &[&[2], accepted.as_bytes()])?;
    let specification = [&b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02"[..], &[1, 0, 0, 0, 0x0b, 0, 32, 0, 0]].concat();
    let first = [&[0; 4][..], &[3, 0, 0, 0], &[0; 20], &[specification.len() as u8, 0, 0, 0], &specification].concat();
    let entry = [&[4, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0x0b, 0][..], &[7; 32], &[4, 0, 0, 0, 0, 0, 0, 0]].concat();
    seeds.put("attest_snp", "log", &[&[3], &first, &entry])
}

fn tdx(seeds: &Seeds) -> Outcome<()> {
    let vector = seeds.vector("tdx-quotes.json")?;
    let real = &vector["real"][0];
    let signature = |name: &str| -> Outcome<[u8; 64]> {
        Ok(bytes(&real[name])?.try_into().map_err(|_| "a signature has 64 bytes")?)
    };
    let evidence = TdxEvidence {
        quote: bytes(&real["quote"])?,
        tcb_info: bytes(&real["tcb_info"])?,
        tcb_info_signature: signature("tcb_info_signature")?,
        qe_identity: bytes(&real["qe_identity"])?,
        qe_identity_signature: signature("qe_identity_signature")?,
        signer: bytes(&real["signer"])?,
        platform_crl: bytes(&real["platform_crl"])?,
        root_crl: bytes(&real["root_crl"])?,
    };
    seeds.put("attest_tdx", "changed", &[&[0, 0x90, 0, 1]])?;
    seeds.put("attest_tdx", "evidence", &[&[1], &evidence.encode()])?;
    seeds.put("attest_tdx", "list", &[&[2], &evidence.platform_crl])?;
    seeds.put("attest_tdx", "quote", &[&[3], &evidence.quote])
}

fn apple(seeds: &Seeds) -> Outcome<()> {
    let vector = seeds.vector("apple-evidence.json")?;
    let app_attest = AppleAppAttestEvidence::decode(&bytes(&vector["app_attest"])?)?;
    seeds.put("attest_apple", "mda", &[&[0], &bytes(&vector["mda"])?])?;
    seeds.put("attest_apple", "app-attest", &[&[1], &bytes(&vector["app_attest"])?])?;
    seeds.put("attest_apple", "attestation", &[&[2], &app_attest.attestation])?;
    seeds.put("attest_apple", "assertion", &[&[3], &app_attest.assertion])
}

fn content(seeds: &Seeds) -> Outcome<()> {
    let message = |role, content: &str| Message::new(role, content);
    let mut request = ChatRequest::new(vec![message(Role::System, "Be brief."), message(Role::User, "One 紫?")]);
    seeds.put("content_request", "plain", &[request.to_cbor().expose()])?;
    (request.temperature, request.top_p, request.seed) = (0.5, 0.9, Some(u64::MAX));
    request.stop = vec![SecretString::from("\n\n"), SecretString::from("END")];
    seeds.put("content_request", "everything", &[request.to_cbor().expose()])?;
    let call = ToolCall { id: "call1".into(), name: "look".into(), arguments: "{\"a\": 1}".into() };
    request.messages.push(Message { reasoning: "Hm.".into(), calls: vec![call], ..message(Role::Assistant, "") });
    request.messages.push(Message::of_tool("call1", "seen"));
    request.tools = vec![Tool { name: "look".into(), description: "Looks.".into(), parameters: "{}".into() }];
    seeds.put("content_request", "tools", &[request.to_cbor().expose()])?;
    let text = SecretString::from("violet");
    let mut parts = AnswerParts::from("Look.");
    for (kind, text) in [(PartKind::Reasoning, "Hm."), (PartKind::CallName, "look"), (PartKind::CallArguments, "{}")] {
        parts.push(kind, text);
    }
    let (input_tokens, output_tokens) = (TokenCount(300), TokenCount(70_000));
    let events = [
        AnswerEvent::Delta { tokens: vec![TokenId(3), TokenId(300), TokenId(70_000)], parts: text.clone().into() },
        AnswerEvent::Finish { reason: FinishReason::Length, input_tokens, output_tokens },
        AnswerEvent::Failure { code: RefusalCode::Internal, detail: text },
        AnswerEvent::Delta { tokens: vec![TokenId(3)], parts },
    ];
    for (number, event) in events.iter().enumerate() {
        seeds.put("content_event", number.to_string(), &[event.to_cbor().expose()])?;
    }
    let bodies = [
        r#"{"model":"m","messages":[{"role":"user","content":"One?"}]}"#,
        r#"{"model":"m","stream":true,"stream_options":{"include_usage":true},"temperature":0.5,"top_p":1,"seed":-1,
            "stop":["a","b"],"max_tokens":5,"max_completion_tokens":5,"n":1,"user":"u","store":false,
            "messages":[{"role":"developer","content":[{"type":"text","text":"a"},{"type":"text","text":"\ud83c\udf38"}]},
            {"role":"assistant","content":""}]}"#,
        r#"{"model":"m","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}],"tools":[]}"#,
        r#"{"model":"m","tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],
            "messages":[{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":
            {"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"c","content":"x"}]}"#,
        r#"{"a":{"b":[{"":0},{"":0},[[[]]],1e308,-0.0,18446744073709551615,null,true]}}"#,
    ];
    // Many small values, which take more memory than they take bytes.
    for (name, unit) in [("objects", r#"{"":0},"#), ("arrays", "[0],"), ("numbers", "0,"), ("texts", r#""a","#)] {
        seeds.put("dialect_openai", name, &[b"[", unit.repeat(4_000).as_bytes(), b"0]"])?;
    }
    for (number, body) in bodies.iter().enumerate() {
        seeds.put("dialect_openai", number.to_string(), &[body.as_bytes()])?;
    }
    let inputs = [r#""one""#, r#"["one","two"]"#, "[1,2,3]", "[[1],[2,3]]", "[1.5,null]"];
    for (number, input) in inputs.iter().enumerate() {
        let body = format!(r#"{{"model":"m","input":{input},"encoding_format":"base64","dimensions":8,"user":"u"}}"#);
        seeds.put("dialect_embeddings", number.to_string(), &[body.as_bytes()])?;
    }
    for (name, unit) in [("lists", "[0],"), ("numbers", "0,")] {
        let body = format!(r#"{{"model":"m","input":[{}{}]}}"#, unit.repeat(2_000), unit.trim_end_matches(','));
        seeds.put("dialect_embeddings", name, &[body.as_bytes()])?;
    }
    Ok(())
}

fn text(seeds: &Seeds, repository: &Path) -> Outcome<()> {
    let file = fs::read(repository.join("models/darkbloom-tiny-q8_0.gguf"))?;
    let metadata = gguf::read_metadata(file.as_slice())?;
    let header = &file[..usize::try_from(metadata.bytes)?];
    // A tensor's description takes some 60 bytes; the check reads them all.
    let tensors = &file[..header.len() + 100 * usize::try_from(metadata.tensors)?];
    seeds.put("text_gguf", "shipped", &[header])?;
    seeds.put("engine_gguf", "shipped", &[tensors])?;
    seeds.put("text_pack", "shipped", &[&TextPack::from_gguf_header(header)?.to_bytes()])?;
    for rules in PreTokenizer::ALL {
        let small = small_pack::gguf(rules.name(), small_pack::TEMPLATE);
        seeds.put("text_gguf", rules.name(), &[&small])?;
        seeds.put("engine_gguf", rules.name(), &[&small])?;
        seeds.put("text_pack", rules.name(), &[&TextPack::from_gguf_header(&small)?.to_bytes()])?;
    }
    let shipped = metadata.text("tokenizer.chat_template")?;
    let templates = [
        small_pack::TEMPLATE,
        shipped,
        "{% macro turn(m) %}<user>{{ m.content[1:] | upper }}{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}",
        "{% set n = namespace(i=0) %}{% for m in messages[::-1] %}{% set n.i = n.i + 1 %}{{ m.content.split('a')[-1].strip() \
         }}{% if loop.index0 % 2 %}{{ raise_exception('no') }}{% endif %}{% endfor %}<model>",
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ b }}{% endfor %}{% endfor %}",
        "{{ messages[0].content * 99999999 }}{{ 'x' * 999999999 }}",
    ];
    let turns: &[u8] = b"\x01\x00\x07<end>\xef\xb7\x90\x02\x00\x03abc";
    for (number, template) in templates.iter().enumerate() {
        let length = u16::try_from(template.len())?.to_be_bytes();
        seeds.put("text_template", number.to_string(), &[&length, template.as_bytes(), turns])?;
    }
    // Each format in each way: its markers among calls and words, with and without stop strings.
    for model in 0..18u8 {
        for (number, flags) in (0..).zip([0u8, 1, 4]) {
            let answers: [&[u8]; 4] = [
                &[2, 0xc2, b'h', b'm', 3, 0x9e, 0, 0x80, 1, 0x9d, 0, 0x82, 1],
                &[0x80, 0x9b, 0x81, 0x9d, 0x95, 0x81, 0x97],
                &[3, 0xc2, b's', b'o', 4, 0, 0x8c, 1, 0x8d, 0, 0x88, 0x89, 0x9f],
                &[1, 0x90, 3, 0x9e, 4, 0, 0x92, 0x93, 1, 0x94, 2, 0xc4, b'j', b's', b'o', b'n', 3, 0x8d, 5],
            ];
            for (answer, pieces) in answers.iter().enumerate() {
                seeds.put("text_answer", format!("{model}-{number}-{answer}"), &[&[model, flags], pieces])?;
            }
        }
    }
    let texts = ["The 12345 violets aren't naïve: 紫の花\r\n\t  <end><|im_end|> violet", "\u{301}\u{200d}🏳️\u{fdd0}"];
    for (number, text) in texts.iter().enumerate() {
        for model in 0..5u8 {
            seeds.put("text_tokenizer", format!("{number}-{model}"), &[&[model], text.as_bytes()])?;
        }
        seeds.put("text_decoder", number.to_string(), &[text.as_bytes(), &[0xff, 9, 0xff, 6, 0xff, 200]])?;
        seeds.put("text_stop", number.to_string(), &[&[2, 2, b't', b'h', 1, b'e', 3], text.as_bytes()])?;
    }
    seeds.put("text_stop", "overlapping", &[b"\x03\x03aab\x02ab\x04aaba\x01aaaabaab"])?;
    Ok(())
}

fn names(seeds: &Seeds) -> Outcome<()> {
    let file = "[coordinator]\nlisten = \"127.0.0.1:7701\"\ntier_min = \"none\"\n[gateway]\npin_providers = [\"ab\"]\n\
                [proxy]\ncoordinator = 'https://x'\n[provider]\nrows = 4\nlisen = 1\n";
    seeds.put("settings_toml", "all", &[file.as_bytes()])?;
    let page = fs::read_to_string(seeds.vectors.join("../policy.md"))?;
    let policy = page.split("```").nth(1).and_then(|block| block.strip_prefix("toml\n")).unwrap_or_default();
    seeds.put("attest_policy", "all", &[policy.as_bytes()])?;
    let digest = "0123456789abcdef".repeat(4);
    let file = |name: &str| json!({"rfilename": name, "size": 9, "blobId": "0", "lfs": {"sha256": digest, "size": 9}});
    for (name, files) in
        [("one", vec!["model.gguf"]), ("several", vec!["a.gguf", "q8/b.gguf", "c-00001-of-00002.gguf"])]
    {
        let siblings: Vec<_> = files.into_iter().map(file).collect();
        let listing = json!({"id": "lab/model", "sha": &digest[..40], "siblings": siblings}).to_string();
        seeds.put("hub_listing", name, &[&[0], listing.as_bytes()])?;
    }
    for (kind, name) in
        [(1, "q8/model-00001-of-00002.gguf"), (1, "../nul.gguf"), (2, "Lab/model-1.0-GGUF"), (3, "refs/pr/1")]
    {
        seeds.put("hub_listing", name.replace('/', "-"), &[&[kind], name.as_bytes()])?;
    }
    seeds.put("types_ids", "digest", &["aB".repeat(32).as_bytes()])?;
    seeds.put("types_ids", "epoch", &["09".repeat(16).as_bytes()])?;
    seeds.put("types_ids", "tier", &[b"self_signed"])?;
    Ok(())
}

fn json(seeds: &Seeds) -> Outcome<()> {
    let key = parties::p256();
    let digest = coordinator_proof_digest(&parties::own_network(), &parties::NONCE, None);
    let proof = hex::encode(CoordinatorProof { digest }.sign(&key)?);
    let point = hex::encode(parties::identity());
    for (name, body) in [
        ("proven", json!({"coordinator_key": point, "proof": proof})),
        ("unproven", json!({"coordinator_key": point, "proof": null, "time": 1})),
    ] {
        seeds.put("client_answers", name, &[&[0], body.to_string().as_bytes()])?;
    }
    let price = json!({"version": 1, "input_nano_per_token": 50, "output_nano_per_token": 200});
    let item = json!({"entry": hex::encode(parties::entry().sign(&key)?), "price": price});
    let catalogue = json!({"models": [item, item]});
    seeds.put("client_answers", "catalogue", &[&[1], catalogue.to_string().as_bytes()])?;
    seeds.put("client_answers", "refusal", &[&[2], br#"{"error":{"code":"no_eligible_provider","message":"x"}}"#])?;
    let model = json!({
        "name": "m", "weights": "ab".repeat(32), "text_pack": "cd".repeat(32), "context": 1024, "quantisation": "Q8_0",
        "price_version": 1, "input_nano_per_token": 50, "output_nano_per_token": 200,
    });
    for (which, body) in [
        (0, json!({"name": "me"})),
        (1, json!({"kind": "consumer", "account": "me", "name": "laptop"})),
        (1, json!({"kind": "join", "name": "machine"})),
        (2, json!({"account": "me", "amount_nano_usd": 5, "reference": "first"})),
        (3, model),
    ] {
        let name = format!("{which}-{}", body.as_object().map_or(0, serde_json::Map::len));
        seeds.put("coordinator_admin", name, &[&[which], body.to_string().as_bytes()])?;
    }
    let line = format!("darkbloom-p256-v1 {}\n", "07".repeat(32));
    seeds.put("key_file", "good", &[line.as_bytes()])?;
    seeds.put("key_file", "zero", &[line.replace("07", "00").as_bytes()])?;
    seeds.put("key_file", "unended", &[line.trim_end().as_bytes()])
}

fn proofs(seeds: &Seeds) -> Outcome<()> {
    let vector = seeds.vector("answer-proof.json")?;
    let proof = AnswerProof::decode(&bytes(&vector["proof"])?)?;
    seeds.put("client_proof", "golden", &[&[0], &proof.encode()])?;
    for (number, other) in vector["does_not_hold"].as_array().ok_or("no list")?.iter().enumerate() {
        seeds.put("client_proof", format!("other-{number}"), &[&[0], &bytes(&other["proof"])?])?;
    }
    let coordinator = PublicKey::P256(proof.coordinator);
    let receipt_key = PublicKey::Ed25519(Statement::open_self_signed(&proof.statement)?.receipt_key);
    let parts = [
        (1, Domain::Bill, &proof.bill, &coordinator),
        (2, Domain::CandidateList, &proof.list, &coordinator),
        (3, Domain::Receipt, &proof.receipt, &receipt_key),
    ];
    for (kind, domain, signed, key) in parts {
        let payload = open_signed(domain, key, signed, limits::FRAME_BYTES_MAX)?;
        seeds.put("client_proof", format!("signed-{kind}"), &[&[kind], payload])?;
    }
    Ok(())
}

fn records(seeds: &Seeds) -> Outcome<()> {
    let key = |name: &str, byte: &str| format!("{name} 8102000{byte} {} {}\n", byte.repeat(64), byte.repeat(130));
    let tpm = format!("darkbloom-tpm-v1\n{}{}", key("identity", "1"), key("attestation", "2"));
    seeds.put("key_records", "tpm", &[tpm.as_bytes(), b"policy none\n"])?;
    seeds.put("key_records", "tpm-policy", &[tpm.as_bytes(), b"policy 0,7 ", "09".repeat(32).as_bytes(), b"\n"])?;
    let label = format!("net.darkbloom.identity.v2.{}", "01".repeat(16));
    let enclave = format!("darkbloom-enclave-v1\nlabel {label}\ngroup {}\n", darkbloom_keys::ACCESS_GROUP);
    seeds.put("key_records", "enclave", &[enclave.as_bytes(), b"key none\n"])?;
    seeds.put("key_records", "enclave-key", &[enclave.as_bytes(), b"key ", "04".repeat(65).as_bytes(), b"\n"])
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(repository), Some(folder)) = (arguments.next(), arguments.next()) else {
        return Err("usage: seeds REPOSITORY FOLDER".into());
    };
    let seeds = Seeds { vectors: repository.join("docs/vectors"), folder };
    wire(&seeds)?;
    seal(&seeds)?;
    tpm(&seeds)?;
    snp(&seeds)?;
    tdx(&seeds)?;
    apple(&seeds)?;
    content(&seeds)?;
    text(&seeds, &repository)?;
    names(&seeds)?;
    proofs(&seeds)?;
    records(&seeds)?;
    json(&seeds)
}
