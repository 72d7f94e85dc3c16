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

/// Starts the provider again, and waits until the coordinator has accepted it and the other key is destroyed.
fn accepted(network: &mut Network, data: &Path) {
    network.providers[0] = Provider::start(&network.coordinator, data, None, &network.model);
    network.coordinator.eligible(1);
    until("the rotation is settled", || (shown(data)["other_key"].is_null()).then_some(()));
    let status = run(command(&["status", "--json", "--data"]).arg(data));
    let status: Value = serde_json::from_str(&status.stdout).unwrap();
    assert_eq!(status["key_unsettled"], false, "{status}");
}

/// What `darkbloom key show` says.
fn shown(data: &Path) -> Value {
    let ended = run(command(&["key", "show", "--json", "--data"]).arg(data).args(SOFTWARE));
    assert!(ended.status.success(), "{ended:?}");
    serde_json::from_str(&ended.stdout).unwrap()
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
    rotate(&data, &SOFTWARE)
        .failed_saying(&["an earlier rotation is not settled", "hint: run `darkbloom start` until"]);
    accepted(&mut network, &data);
    assert_eq!((&network.providers[0].id, data.join("identity.old.key").exists()), (&second, false));
    assert!(network.providers[0].process.stop().success());
    let (before, third) = rotated(&data, &SOFTWARE);
    assert_eq!(before, second);
    accepted(&mut network, &data);
    assert_eq!(network.providers[0].id, third);
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
fn a_key_stays_until_the_coordinator_has_accepted_the_next_one() {
    let mut network = Network::start();
    let (data, first) = (network.providers[0].data.clone(), network.providers[0].id.clone());
    assert!(network.providers[0].process.stop().success());
    let (_, second) = rotated(&data, &SOFTWARE);
    assert_eq!(
        (shown(&data)["provider"].as_str(), shown(&data)["other_key"].as_str()),
        (Some(&*second), Some("older"))
    );
    // A coordinator that is away says neither yes nor no.
    let nobody = "http://127.0.0.1:1";
    let mut start = Provider::command(nobody, &network.coordinator.pin, &data, &network.model);
    let (mut away, _) = Process::role(&mut start).unwrap();
    away.logged("not connected");
    let status = run(command(&["status", "--data"]).arg(&data));
    assert!(status.stdout.contains("rotation     not accepted by the coordinator yet"), "{status:?}");
    assert!(away.stop().success());
    let back = ["--back", SOFTWARE[0], SOFTWARE[1]];
    assert_eq!(rotated(&data, &back), (second.clone(), first.clone()));
    assert_eq!((shown(&data)["provider"].as_str(), shown(&data)["other_key"].as_str()), (Some(&*first), Some("newer")));
    rotate(&data, &back).failed_saying(&["there is no older key", "hint: rotate again"]);
    assert_eq!(rotated(&data, &SOFTWARE), (first, second.clone()), "the same new key as before");
    accepted(&mut network, &data);
    assert_eq!(network.providers[0].id, second);
    assert_eq!(network.chat(&ask("What is 17 + 25?")).answer(), "42");

    // Gone back to for good: the coordinator takes the older one, and the newer is gone.
    assert!(network.providers[0].process.stop().success());
    let (_, third) = rotated(&data, &SOFTWARE);
    assert_eq!(rotated(&data, &back), (third.clone(), second.clone()));
    accepted(&mut network, &data);
    assert_eq!((&network.providers[0].id, data.join("identity.next.key").exists()), (&second, false));
    assert!(network.providers[0].process.stop().success());
    let (_, fourth) = rotated(&data, &SOFTWARE);
    assert_ne!(fourth, third);
}

#[test]
fn a_refused_succession_leaves_the_older_key() {
    let mut network = Network::start();
    let (data, first) = (network.providers[0].data.clone(), network.providers[0].id.clone());
    let copy = copied(&network, &data, "copy");
    // Two processes with one key: which of them could sign for an heir?
    let thief = Provider::start(&network.coordinator, &copy, None, &network.model);
    network.coordinator.process.logged("two running processes use the provider's identity key");
    drop(thief);
    assert!(network.providers[0].process.stop().success());
    let (_, second) = rotated(&data, &SOFTWARE);
    drop(refused(&network, &data, "two running processes use the key that it takes over from", None));
    assert_eq!(
        (shown(&data)["provider"].as_str(), shown(&data)["other_key"].as_str()),
        (Some(&*second), Some("older"))
    );
    let status = run(command(&["status", "--data"]).arg(&data));
    assert!(status.stdout.contains("`darkbloom key rotate --back`"), "{status:?}");
    assert_eq!(rotated(&data, &["--back", SOFTWARE[0], SOFTWARE[1]]), (second, first.clone()));
    // The operator trusts the older key again, and its owner has it.
    network.coordinator.admin("PUT", &format!("/admin/v1/standings/{first}"), &json!({"standing": "clean"}));
    accepted(&mut network, &data);
    assert_eq!(network.providers[0].id, first);
    assert!(network.providers[0].process.stop().success());

    // Somebody else was faster: nothing brings the identity back, and nothing is lost but that.
    let (_, heir) = rotated(&data, &SOFTWARE);
    accepted(&mut network, &data);
    assert_eq!(network.providers[0].id, heir);
    rotated(&copy, &SOFTWARE);
    drop(refused(&network, &copy, "another identity took over already", Some(&network.coordinator.key("join", None))));
    assert_eq!(shown(&copy)["other_key"], "older");
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

    // Within it, by a provider that is confined: the older key goes from the TPM once the newer one is accepted.
    assert!(network.providers[0].process.stop().success());
    let within = ["--tpm", path.to_str().unwrap(), "--key-home", "tpm"];
    let (before, newer) = rotated(&data, &within);
    assert_eq!(before, in_tpm);
    let handles = || {
        let (worked, said) = tpm.tpm2("getcap", &["handles-persistent"]);
        assert!(worked, "{said}");
        said.to_lowercase().matches("0x8102").count()
    };
    assert_eq!(handles(), 4);
    network.providers[0] = Provider::start_with(&network.coordinator, &data, None, &network.model, &|command| {
        command.args(within);
    });
    assert_eq!(network.providers[0].id, newer);
    until("the older key is destroyed", || (handles() == 2).then_some(()));
}
