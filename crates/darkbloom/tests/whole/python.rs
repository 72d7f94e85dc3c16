//! The official OpenAI client for Python, unmodified.
//!
//! Needs an interpreter that has the package `openai`; `DARKBLOOM_PYTHON` names it. Without it these checks are left
//! out, and say so.

use std::process::Command;

use crate::support::network::Network;

pub fn interpreter() -> Option<std::ffi::OsString> {
    let found = std::env::var_os("DARKBLOOM_PYTHON").filter(|path| !path.is_empty());
    if found.is_none() {
        eprintln!(
            "SKIPPED: the official OpenAI client is not tested; set DARKBLOOM_PYTHON to an interpreter with `openai`"
        );
    }
    found
}

/// Runs an example as it stands in the output of `darkbloom dev`.
pub fn example(script: &str) {
    let Some(python) = interpreter() else { return };
    let output = Command::new(python).args(["-c", script]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "42");
}

#[test]
fn the_official_python_client_passes_unmodified() {
    let Some(python) = interpreter() else { return };
    let network = Network::start();
    let poor = network.coordinator.account("poor", 1);
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/openai_client.py");
    let output = Command::new(python)
        .arg(script)
        .env("BASE_URL", format!("http://{}/v1", network.gateway.address))
        .env("API_KEY", &network.key)
        .env("POOR_KEY", poor)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.trim_end().ends_with("all passed"), "{said}");
    network.books_close();
}
