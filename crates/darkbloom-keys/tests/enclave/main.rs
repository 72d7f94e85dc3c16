//! Keys in the Secure Enclave of a simulated Mac.
#![allow(clippy::unwrap_used, reason = "tests, also in what their cases share")]

mod availability;
mod homes;
mod rotation;
#[path = "../../../darkbloom-enclave/tests/machine/simulator.rs"]
#[allow(dead_code, reason = "what only its own tests ask it")]
mod simulator;
#[path = "../shared/steps.rs"]
mod steps;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use darkbloom_keys::{AccessGroup, Enclave, KeyConfig};
use simulator::{Mac, Process};

/// What a provider that is this program decides about keys, on a machine without a TPM.
fn config(process: Process) -> KeyConfig {
    let enclave = Enclave::reached_by(Arc::new(process), AccessGroup::Release);
    KeyConfig { tpm: "/nonexistent/tpm".into(), enclave, ..KeyConfig::default() }
}

fn released(mac: &Mac) -> KeyConfig {
    config(mac.released())
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}
