//! A provider's key is rotated: the network knows the new one by the word of the old one, and the old one no more.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::network::{CREDIT, Network, Provider, ask};
use crate::support::process::{Ended, Process, command, run};
use crate::support::until;
use crate::swtpm::Swtpm;

/// `darkbloom key rotate` in a folder.
fn rotate(data: &Path, more: &[&str]) -> Ended {
    run(command(&["key", "rotate", "--json"]).arg("--data").arg(data).args(more))
}

#[track_caller]
fn rotated(data: &Path, more: &[&str]) -> (String, String) {
    let ended = rotate(data, more);
    assert!(ended.status.success(), "{ended:?}");
    let said: Value = serde_json::from_str(&ended.stdout).unwrap();
    (said["before"].as_str().unwrap().to_owned(), said["provider"].as_str().unwrap().to_owned())
}

const SOFTWARE: [&str; 2] = ["--key-home", "software"];

/// A copy of a provider's folder, as a thief or a backup has it.
fn copied(network: &Network, data: &Path, name: &str) -> PathBuf {
    let copy = network.folder.path().join(name);
    std::fs::create_dir(&copy).unwrap();
    for file in ["identity.key", "successions"] {
        if data.join(file).exists() {
            std::fs::copy(data.join(file), copy.join(file)).unwrap();
        }
    }
    copy
}

/// Starts a provider that the coordinator refuses, and returns it once it was told why.
fn refused(network: &Network, data: &Path, reason: &str, token: Option<&str>) -> Process {
    let coordinator = &network.coordinator;
    let mut command = Provider::command(&coordinator.url, &coordinator.pin, data, &network.model);
    if let Some(token) = token {
        command.env("DARKBLOOM_JOIN_TOKEN", token);
    }
    let (process, _) = Process::role(&mut command).unwrap();
    process.logged(reason);
    process
}

#[test]
fn a_rotated_key_needs_no_join_token_keeps_its_pins_and_shuts_the_old_one_out() {
    let mut network = Network::start();
    let (data, first) = (network.providers[0].data.clone(), network.providers[0].id.clone());
    rotate(&data, &SOFTWARE).failed_saying(&["another process", "hint: another provider uses this folder; stop it"]);
    let copy = copied(&network, &data, "copy");
    assert!(network.providers[0].process.stop().success());
    let (before, second) = rotated(&data, &SOFTWARE);
    assert_eq!(before, first);
    // Twice, and the coordinator hears of both at once.
    let (before, third) = rotated(&data, &SOFTWARE);
    assert_eq!(before, second);

    network.providers[0] = Provider::start(&network.coordinator, &data, None, &network.model);
    assert_eq!(network.providers[0].id, third);
    network.coordinator.eligible(1);
    // The gateway has pinned the first one.
    assert_eq!(network.chat(&ask("What is 17 + 25?")).answer(), "42");

    let old = refused(&network, &copy, "its owner rotated the key", Some(&network.coordinator.key("join", None)));
    drop(old);
    // A word of the old key for another heir comes too late.
    let (before, heir) = rotated(&copy, &SOFTWARE);
    assert_eq!(before, first);
    let thief =
        refused(&network, &copy, "another identity took over already", Some(&network.coordinator.key("join", None)));
    drop(thief);
    let connected: Vec<_> = network.coordinator.providers();
    assert!(connected.iter().all(|row| row["provider"] != heir.as_str()), "{connected:?}");

    // Whichever identity is revoked, the provider is.
    let revoke = json!({"standing": "revoked"});
    let answer = network.coordinator.admin("PUT", &format!("/admin/v1/standings/{first}"), &revoke);
    assert_eq!(answer["providers"].as_array().unwrap().len(), 3);
    until("the provider is sent away", || network.coordinator.providers().is_empty().then_some(()));
    assert!(network.providers[0].process.stop().success());
    rotated(&data, &SOFTWARE);
    refused(
        &network,
        &data,
        "the identity that it takes over from is revoked",
        Some(&network.coordinator.key("join", None)),
    );
    network.coordinator.books_close(&network.key, CREDIT);
}

#[test]
fn a_key_moves_into_a_tpm_and_its_statement_says_so() {
    let mut network = Network::start();
    let tpm = Swtpm::start("a");
    let path = tpm.path();
    let data = network.providers[0].data.clone();
    assert!(network.providers[0].process.stop().success());
    let place = ["--tpm", path.to_str().unwrap(), "--to", "tpm"];
    let (_, in_tpm) = rotated(&data, &place);
    network.providers[0] = Provider::start_with(&network.coordinator, &data, None, &network.model, &|command| {
        command.args(["--key-home", "tpm", "--tpm", path.to_str().unwrap()]);
    });
    assert_eq!(network.providers[0].id, in_tpm);
    network.coordinator.eligible(1);
    assert_eq!(network.chat(&ask("What is 17 + 25?")).answer(), "42");
    let mut verify = command(&["verify", "provider", &in_tpm, "--json", "--coordinator", &network.coordinator.url]);
    let said = run(verify.args(["--coordinator-key", &network.coordinator.pin, "--tier-min", "none"]));
    let claims: Value = serde_json::from_str(&said.stdout).unwrap();
    assert!(said.stdout.contains("key_home"), "{claims}");
    assert!(said.stdout.contains("took_over"), "{claims}");
}
