//! Golden files: compared byte for byte, rewritten only when asked.

use std::path::Path;

use serde_json::Value;

/// Compares a value with its file in `docs/vectors`, or writes the file when `DARKBLOOM_WRITE_VECTORS` is 1.
pub fn check(name: &str, value: &Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vectors").join(name);
    let text = serde_json::to_string_pretty(value).unwrap() + "\n";
    if std::env::var_os("DARKBLOOM_WRITE_VECTORS").is_some_and(|asked| asked == "1") {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let golden = std::fs::read_to_string(&path).unwrap_or_default();
    // The order of members depends on what else is built.
    let same = serde_json::from_str::<Value>(&golden).is_ok_and(|golden| golden == *value);
    let line = golden.lines().zip(text.lines()).position(|(old, new)| old != new);
    assert!(
        same,
        "docs/vectors/{name} differs from what the code makes (line {:?}); the encoding changed, which breaks every peer. \
         Where that is meant, run the tests with DARKBLOOM_WRITE_VECTORS=1",
        line.map(|index| index + 1)
    );
}
