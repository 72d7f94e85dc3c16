//! The attacks, by what they are made on.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and the processes that they look at")]

mod apple;
mod chains;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../../../darkbloom-attest/tests/shared/chip.rs"]
mod chip;
mod confidential;
mod evidence;
mod forge;
mod hostile;
mod intel;
mod keys;
#[cfg(target_os = "linux")]
mod memory;
mod network;
mod objects;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../../../darkbloom-attest/tests/shared/apple.rs"]
mod other_apple;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../../../darkbloom-attest/tests/shared/platform.rs"]
mod platform;
#[cfg(target_os = "linux")]
mod process;
mod sealing;
mod settling;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../../../darkbloom-enclave/tests/machine/simulator.rs"]
mod simulator;
mod sockets;
mod statements;
mod support;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../../../darkbloom-keys/tests/tpm/swtpm.rs"]
mod swtpm;
mod weights;

/// A test of the program that ships looks for these words in it.
#[cfg(feature = "weakened")]
#[test]
fn the_second_build_can_be_told_by_its_words() {
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let words = b"is not in the list of checks";
    assert!(program.windows(words.len()).any(|window| window == words));
}

/// Every switch belongs to an attack: one that none is against would show nothing.
#[cfg(feature = "weakened")]
#[test]
fn every_switch_is_used_by_an_attack() {
    let mut used: std::collections::BTreeSet<_> = [
        apple::CHECKS,
        chains::CHECKS,
        confidential::CHECKS,
        evidence::CHECKS,
        intel::CHECKS,
        keys::CHECKS,
        memory::CHECKS,
        network::CHECKS,
        objects::CHECKS,
        process::CHECKS,
        sealing::CHECKS,
        settling::CHECKS,
        sockets::CHECKS,
        statements::CHECKS,
        weights::CHECKS,
    ]
    .concat()
    .into_iter()
    .collect();
    for check in darkbloom_types::weakened::CHECKS {
        assert!(used.remove(check), "no attack is against `{check}`");
    }
    assert!(used.is_empty(), "{used:?}");
}
