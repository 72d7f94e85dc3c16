//! Golden files: compared byte for byte, rewritten only when asked.

use std::path::Path;

use serde_json::{Value, json};

/// Compares a value with its file in `docs/vectors`, or writes the file when `DARKBLOOM_WRITE_VECTORS` is 1.
pub fn check(name: &str, value: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors").join(name);
    let text = serde_json::to_string_pretty(value).unwrap() + "\n";
    if std::env::var_os("DARKBLOOM_WRITE_VECTORS").is_some_and(|asked| asked == "1") {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    let line = golden.lines().zip(text.lines()).position(|(old, new)| old != new);
    assert!(
        golden == text,
        "docs/vectors/{name} differs from what the code makes (line {:?}); the encoding changed, which breaks every peer. \
         Where that is meant, run the tests with DARKBLOOM_WRITE_VECTORS=1",
        line.map(|index| index + 1)
    );
}

/// A CBOR item as JSON: `{"bytes": hex}`, `{"int": decimal}`, `{"text": …}`, `{"bool": …}`, arrays, `{"map": …}`.
#[allow(clippy::wildcard_enum_match_arm, reason = "types that no record uses are one case, and it fails")]
fn described(item: &mut minicbor::Decoder<'_>) -> Value {
    use minicbor::data::Type;
    match item.datatype().unwrap() {
        Type::Bytes => json!({ "bytes": hex::encode(item.bytes().unwrap()) }),
        Type::String => json!({ "text": item.str().unwrap() }),
        Type::Bool => json!({ "bool": item.bool().unwrap() }),
        Type::Array => (0..item.array().unwrap().unwrap()).map(|_| described(item)).collect(),
        Type::Map => {
            let pairs = item.map().unwrap().unwrap();
            let pairs = (0..pairs).map(|_| (item.i64().unwrap().to_string(), described(item)));
            json!({ "map": pairs.collect::<serde_json::Map<_, _>>() })
        }
        Type::U8 | Type::U16 | Type::U32 | Type::U64 | Type::I8 | Type::I16 | Type::I32 | Type::I64 | Type::Int => {
            json!({ "int": item.int().unwrap().to_string() })
        }
        other => panic!("no record has a field of type {other}"),
    }
}

/// A record's fields by name, from its bytes.
pub fn fields(bytes: &[u8], names: &[(i64, &'static str)]) -> Value {
    let mut item = minicbor::Decoder::new(bytes);
    let pairs = item.map().unwrap().unwrap();
    let fields = (0..pairs).map(|_| {
        let key = item.i64().unwrap();
        let name = names.iter().find(|(known, _)| *known == key).map_or("kind", |(_, name)| name);
        let value = described(&mut item);
        (name.to_owned(), json!({ "key": key, "value": value }))
    });
    Value::Object(fields.collect())
}
