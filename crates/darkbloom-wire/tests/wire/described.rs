//! CBOR as JSON that says every item's type, for golden files.

use serde_json::{Value, json};

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
