//! The tables of frames and signed objects in `docs/protocol.md`, made from the declarations in `darkbloom-wire`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use darkbloom_wire::limits;

use crate::{check_part, read};

/// One declared record.
struct Record {
    name: String,
    kind: Option<String>,
    doc: String,
    fields: Vec<Field>,
}

struct Field {
    key: String,
    name: String,
    of: String,
    limits: Vec<String>,
    doc: String,
}

/// Limits by name: those of the crate's public list, and the constants of the file itself.
fn limit_values(source: &str) -> BTreeMap<String, usize> {
    let mut values = BTreeMap::from(
        [
            ("BODY_BYTES_MAX", limits::BODY_BYTES_MAX),
            ("HEADER_BYTES_MAX", limits::HEADER_BYTES_MAX),
            ("ANSWER_FRAME_BYTES_MAX", limits::ANSWER_FRAME_BYTES_MAX),
            ("WRAPS_MAX", limits::WRAPS_MAX),
            ("CANDIDATES_MAX", limits::CANDIDATES_MAX),
            ("MODELS_PER_PROVIDER_MAX", limits::MODELS_PER_PROVIDER_MAX),
            ("ATTEMPTS_MAX as usize", limits::ATTEMPTS_MAX as usize),
            ("STATEMENT_BYTES_MAX", limits::STATEMENT_BYTES_MAX),
            ("CATALOGUE_ENTRY_BYTES_MAX", limits::CATALOGUE_ENTRY_BYTES_MAX),
            ("SUCCESSIONS_MAX", limits::SUCCESSIONS_MAX),
            ("EVIDENCE_MAX", limits::EVIDENCE_MAX),
            ("SUCCESSION_BYTES_MAX", limits::SUCCESSION_BYTES_MAX),
            ("RECEIPT_BYTES_MAX", limits::RECEIPT_BYTES_MAX),
            ("RECEIPTS_PER_FRAME_MAX", limits::RECEIPTS_PER_FRAME_MAX),
            ("TEXT_BYTES_MAX", limits::TEXT_BYTES_MAX),
            ("FRAME_BYTES_MAX", limits::FRAME_BYTES_MAX),
            ("CERTIFICATE_BYTES_MAX", limits::CERTIFICATE_BYTES_MAX),
            ("CERTIFICATES_MAX", limits::CERTIFICATES_MAX),
        ]
        .map(|(name, value)| (name.to_owned(), value)),
    );
    for line in source.lines() {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        let Some((name, value)) = line.strip_prefix("const ").and_then(|rest| rest.split_once(": usize = ")) else {
            continue;
        };
        if let Ok(value) = value.trim_end_matches(';').replace('_', "").parse() {
            values.insert(name.to_owned(), value);
        }
    }
    values
}

fn records(source: &str) -> Vec<Record> {
    let values = limit_values(source);
    let blocks = source.split("\nrecord! {\n").skip(1);
    blocks.map(|block| record(block.split("\n}\n").next().expect("a block ends"), &values)).collect()
}

fn record(block: &str, values: &BTreeMap<String, usize>) -> Record {
    let mut doc = String::new();
    let mut record: Option<Record> = None;
    for line in block.lines().map(str::trim) {
        if let Some(more) = line.strip_prefix("///") {
            write!(doc, "{}{}", if doc.is_empty() { "" } else { " " }, more.trim()).unwrap();
        } else if let Some(record) = &mut record {
            if line.starts_with(|first: char| first.is_ascii_digit()) {
                record.fields.push(field(line, std::mem::take(&mut doc), values));
            }
        } else {
            let head = line.split('{').next().unwrap_or_default();
            let mut words = head.split_whitespace();
            let name = words.next().expect("a record has a name").to_owned();
            let kind = words.nth(1).map(str::to_owned);
            record = Some(Record { name, kind, doc: std::mem::take(&mut doc), fields: Vec::new() });
        }
    }
    record.expect("a block declares a record")
}

fn field(line: &str, doc: String, values: &BTreeMap<String, usize>) -> Field {
    let (key, rest) = line.split_once(' ').expect("a field begins with its key");
    let (name, rest) = rest.split_once(": ").expect("a field has a type");
    let rest = rest.trim_end_matches(',');
    // A limit stands behind a space; the brackets of an array type do not.
    let (of, limits) = rest.split_once(" [").unwrap_or((rest, ""));
    let limits = limits.trim_end_matches(']').split(", ").filter(|limit| !limit.is_empty());
    let limits = limits.map(|limit| {
        let value = limit.parse().ok().or_else(|| values.get(limit).copied());
        grouped(value.unwrap_or_else(|| panic!("the limit `{limit}` of `{name}` is not known here")))
    });
    Field { key: key.to_owned(), name: name.to_owned(), of: of.to_owned(), limits: limits.collect(), doc }
}

/// 16400 as 16,400.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A Rust type in words of CBOR.
fn in_cbor(of: &str, limits: &[String]) -> String {
    let own = limits.first().map_or("?", String::as_str);
    if let Some(inner) = of.strip_prefix("Option<").and_then(|rest| rest.strip_suffix('>')) {
        return format!("{}; may be absent", in_cbor(inner, limits));
    }
    if let Some(inner) = of.strip_prefix("List<").and_then(|rest| rest.strip_suffix('>')) {
        return format!("array of at most {own}: {}", in_cbor(inner, limits.get(1..).unwrap_or_default()));
    }
    if let Some(length) = of.strip_prefix("[u8; ").and_then(|rest| rest.strip_suffix(']')) {
        return format!("byte string of {length}");
    }
    match of.rsplit("::").next().unwrap_or(of) {
        "Digest" | "NetworkId" | "ProviderId" | "CatalogueDigest" | "ReceiptId" => "byte string of 32".to_owned(),
        "EpochId" | "RequestId" | "OperationId" | "ConnectionId" => "byte string of 16".to_owned(),
        "String" | "SecretString" => format!("text of at most {own} bytes"),
        "Vec<u8>" => format!("byte string of at most {own}"),
        "bool" => "boolean".to_owned(),
        "u16" => "unsigned, 16 bits".to_owned(),
        "u32" | "TokenCount" | "AttemptNumber" => "unsigned, 32 bits".to_owned(),
        "u64" | "StreamId" | "Micros" | "Millis" => "unsigned, 64 bits".to_owned(),
        "UnixMillis" => "integer, milliseconds since 1970 UTC".to_owned(),
        "NanoDollars" => "integer, nano-dollars".to_owned(),
        "Price" => {
            "price: array of version, nano-dollars for an input token, for an output token; each unsigned, 32 bits"
                .to_owned()
        }
        "Tier" => "tier: 0 `none`, 1 `self_signed`, 2 `hardware`, 3 `measured`, 4 `confidential`".to_owned(),
        "Suite" => "suite: 1".to_owned(),
        "Residence" => "where it is: 2 stored, 3 loading; left out for loaded".to_owned(),
        "LoadOutcome" => {
            "outcome: 1 started, 2 succeeded, 3 too large, 4 busy, 5 unusable, 6 declined, 7 waiting".to_owned()
        }
        "RequestKind" => "kind of request: 1, chat".to_owned(),
        record @ ("Wrap" | "ModelLoad" | "ModelPace" | "MachineLoad" | "AttemptRecord" | "CoordinatorTiming"
        | "Evidence" | "Candidate" | "CandidateNow" | "CandidateUpdate" | "Pcr" | "BootEvent" | "Program"
        | "ListedProvider" | "ActivationAnswer") => {
            format!("[{record}](#{})", record.to_lowercase())
        }
        other => panic!("say in this test what a `{other}` is in CBOR"),
    }
}

fn table(record: &Record) -> String {
    let kind = record.kind.as_ref().map(|kind| format!("Kind {kind}. ")).unwrap_or_default();
    let mut out = format!("#### {}\n\n{kind}{}\n\n", record.name, links_removed(&record.doc));
    if record.fields.is_empty() {
        out.push_str("No fields.\n\n");
        return out;
    }
    out.push_str("| Key | Field | Type and limit | Meaning |\n|---|---|---|---|\n");
    for Field { key, name, of, limits, doc } in &record.fields {
        let doc = links_removed(doc);
        writeln!(out, "| {key} | `{name}` | {} | {doc} |", in_cbor(of, limits)).unwrap();
    }
    out.push('\n');
    out
}

/// A doc comment's links to items of the code, as plain code.
fn links_removed(doc: &str) -> String {
    doc.replace("[`crate::", "`").replace("[`", "`").replace("`]", "`")
}

fn tables(file: &str, keep: impl Fn(&Record) -> bool) -> String {
    let source = read(format!("crates/darkbloom-wire/src/{file}.rs"));
    let records = records(&source);
    assert!(!records.is_empty(), "no records were found in {file}.rs");
    records.iter().filter(|record| keep(record)).map(table).collect()
}

/// Keeps frames whose kinds are in this range.
fn kinds(range: RangeInclusive<u32>) -> impl Fn(&Record) -> bool {
    move |record| record.kind.as_ref().is_some_and(|kind| range.contains(&kind.parse().expect("a kind is a number")))
}

// One test for the whole page: it is written part by part.
#[test]
fn the_tables_of_the_protocol_are_current() {
    let parts = [
        ("the header", tables("header", |_| true)),
        ("signed objects", tables("signed", |_| true)),
        ("evidence of a TPM", tables("tpm", |_| true)),
        ("evidence of SEV-SNP", tables("snp", |_| true)),
        ("evidence of Intel TDX", tables("tdx", |_| true)),
        ("evidence of Apple", tables("apple", |_| true)),
        ("frames from coordinator to provider", tables("frame", kinds(32..=63))),
        ("frames from provider to coordinator", tables("frame", kinds(1..=31))),
        ("frames from client to coordinator", tables("frame", kinds(64..=95))),
        ("frames from coordinator to client", tables("frame", kinds(96..=127))),
        ("records inside frames", tables("frame", |record| record.kind.is_none())),
    ];
    for (part, tables) in parts {
        check_part("docs/protocol.md", part, &tables);
    }
}

#[test]
fn a_declaration_is_read_in_full() {
    let source = "const A_MAX: usize = 1_000;\n\nrecord! {\n    /// What\n    /// it is.\n    Thing kind 7 {\n        /// One.\n        1 one: [u8; 32],\n        /// Two.\n        2 two: Option<List<Vec<u8>>> [A_MAX, TEXT_BYTES_MAX],\n    }\n}\n";
    let record = &records(source)[0];
    assert_eq!(
        (record.name.as_str(), record.kind.as_deref(), record.doc.as_str()),
        ("Thing", Some("7"), "What it is.")
    );
    assert_eq!(in_cbor(&record.fields[0].of, &record.fields[0].limits), "byte string of 32");
    let two = &record.fields[1];
    assert_eq!(in_cbor(&two.of, &two.limits), "array of at most 1,000: byte string of at most 512; may be absent");
}
