//! What an owner does with a provider's identity key, and what keeps others from it.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::network::{Network, Provider, ask};
use crate::support::process::{Ended, Process, command, run};
use crate::swtpm::Swtpm;

/// `darkbloom key ACTION` in a folder.
fn key(action: &str, data: &Path, more: &[&str]) -> Ended {
    run(command(&["key", action]).arg("--data").arg(data).args(more))
}

#[track_caller]
fn json(ended: &Ended) -> Value {
    assert!(ended.status.success(), "{ended:?}");
    serde_json::from_str(&ended.stdout).unwrap()
}

#[test]
fn a_software_key_is_shown_tested_and_deleted() {
    let mut network = Network::start();
    let provider = &mut network.providers[0];
    let data = provider.data.clone();
    let software = ["--key-home", "software"];
    let shown = json(&key("show", &data, &["--json", "--key-home", "software"]));
    assert_eq!((shown["provider"].as_str(), shown["home"].as_str()), (Some(&*provider.id), Some("software_file")));
    let words = key("show", &data, &software);
    assert!(words.stdout.contains(&format!("provider    {}", provider.id)), "{words:?}");
    assert!(words.stdout.contains("whoever can read the file can copy it"), "{words:?}");
    let secret = fs::read_to_string(data.join("identity.key")).unwrap();
    assert!(!words.said().contains(secret.split_whitespace().nth(1).unwrap()), "the key is shown");
    assert!(key("test", &data, &software).stdout.contains("its signature verifies"));

    key("delete", &data, &software).failed_saying(&["this ends the identity", "hint: say so with `--yes`"]);
    assert!(provider.process.stop().success());
    for _ in 0..2 {
        let gone = key("delete", &data, &["--yes", "--key-home", "software"]);
        assert!(gone.status.success(), "{gone:?}");
        assert!(!data.join("identity.key").exists());
    }
    key("show", &data, &software).failed_saying(&["there is no identity in", "hint: `darkbloom start` makes one"]);
}

#[test]
fn a_key_file_is_encrypted_when_its_owner_says_so_and_useless_without_the_secret() {
    let mut network = Network::start();
    let (data, id) = (network.providers[0].data.clone(), network.providers[0].id.clone());
    let file = data.join("identity.key");
    assert!(network.providers[0].process.stop().success());
    // Outside of its folder, as a system hands it to a service.
    let secret = network.folder.path().join("secret");
    fs::write(&secret, [9; 32]).unwrap();
    let secret = secret.to_str().unwrap();
    let start = |network: &mut Network, more: &[&str]| {
        network.providers[0] = Provider::start_with(&network.coordinator, &data, None, &network.model, &|command| {
            command.args(more);
        });
        network.coordinator.eligible(1);
    };
    let software = ["--key-home", "software"];
    let sealed = ["--key-home", "software", "--key-secret", secret];
    let mut plain = Provider::command(&network.coordinator.url, &network.coordinator.pin, &data, &network.model);
    run(plain.args(sealed))
        .failed_saying(&["lies in the open, though a secret is named", "hint: if it is this machine's own"]);
    key("seal", &data, &software).failed_saying(&["nothing to encrypt keys under", "hint: name a file with a secret"]);
    assert_eq!(json(&key("seal", &data, &[&sealed[..], &["--json"]].concat()))["sealed"].as_array().unwrap().len(), 1);
    assert!(key("seal", &data, &sealed).stdout.contains("no key lies in the open"));
    start(&mut network, &["--key-secret", secret]);
    assert_eq!(network.providers[0].id, id);
    assert!(fs::read_to_string(&file).unwrap().starts_with("darkbloom-p256-sealed-v1 "));
    assert_eq!(network.chat(&ask("What is 17 + 25?")).answer(), "42");
    let status = run(command(&["status", "--json", "--data"]).arg(&data));
    assert_eq!(json(&status)["key_home"], "software_file_sealed");
    let mut verify = command(&["verify", "provider", &id, "--json", "--coordinator", &network.coordinator.url]);
    let said = run(verify.args(["--coordinator-key", &network.coordinator.pin, "--tier-min", "none"]));
    assert!(said.stdout.contains("software_file_sealed"), "{said:?}");
    assert!(network.providers[0].process.stop().success());

    let kept = fs::read(&file).unwrap();
    assert_eq!(json(&key("show", &data, &[&sealed[..], &["--json"]].concat()))["home"], "software_file_sealed");
    assert!(key("test", &data, &sealed).stdout.contains("software key in an encrypted file"));
    let doctor = |more: &[&str]| json(&run(command(&["doctor", "keys", "--json", "--data"]).arg(&data).args(more)));
    let usable = |found: &Value| found["key_homes"][2]["key_usable"].clone();
    assert!(usable(&doctor(&sealed))["what"].as_str().unwrap().contains("it is encrypted"));
    let other = network.folder.path().join("other");
    fs::write(&other, [8; 32]).unwrap();
    let other = ["--key-home", "software", "--key-secret", other.to_str().unwrap()];
    let absent = ["--key-home", "software", "--key-secret", "/nowhere/secret"];
    let cases: [(&[&str], &str, &str); 3] = [
        (&software, "is encrypted, and no secret is named", "hint: name the file with its secret"),
        (&other, "the secret does not open the key file", "hint: name the secret that it was encrypted under"),
        (&absent, "cannot read the key file's secret", "hint: check that the file named by `key_secret` is there"),
    ];
    for (place, why, hint) in cases {
        key("show", &data, place).failed_saying(&[why, hint]);
        let mut start = Provider::command(&network.coordinator.url, &network.coordinator.pin, &data, &network.model);
        run(start.args(place)).failed_saying(&[why, hint]);
        assert_eq!(usable(&doctor(place))["is"], false);
        assert_eq!(fs::read(&file).unwrap(), kept, "no other identity is made");
    }

    let rotated = json(&key("rotate", &data, &[&sealed[..], &["--json"]].concat()));
    assert_eq!((rotated["before"].as_str(), rotated["home"].as_str()), (Some(&*id), Some("software_file_sealed")));
    start(&mut network, &["--key-secret", secret]);
    assert_eq!(network.providers[0].id, rotated["provider"].as_str().unwrap());
    assert!(network.providers[0].process.stop().success());
    assert!(
        key("delete", &data, &["--yes", "--key-home", "software"]).status.success(),
        "no secret is needed for that"
    );
    assert!(!file.exists());
}

#[test]
fn keys_of_coordinators_and_activators_are_encrypted_too() {
    let folder = tempfile::tempdir().unwrap();
    let (data, secret, roots) =
        (folder.path().join("data"), folder.path().join("secret"), folder.path().join("roots.pem"));
    fs::write(&secret, [9; 32]).unwrap();
    fs::write(&roots, Swtpm::authority("a").0).unwrap();
    let role = |role: &str, more: &[&str]| {
        let mut command = command(&[role, "--listen", "127.0.0.1:0", "--tpm-roots", roots.to_str().unwrap()]);
        command.arg("--data").arg(data.join(role)).args(more);
        command
    };
    for (name, files) in [("coordinator", &["coordinator.key", "activator.key"][..]), ("activator", &["activator.key"])]
    {
        let sealed = ["--key-secret", secret.to_str().unwrap()];
        let (mut open, before) = Process::role(&mut role(name, &[])).unwrap();
        assert!(open.stop().success());
        run(&mut role(name, &sealed)).failed_saying(&["lies in the open", "hint: if it is this machine's own"]);
        let done = key("seal", &data.join(name), &sealed);
        assert!(done.stdout.contains("encrypted   "), "{done:?}");
        let (mut process, after) = Process::role(&mut role(name, &sealed)).unwrap();
        assert!(process.stop().success());
        assert_eq!((&after["network"], &after["activator"]), (&before["network"], &before["activator"]));
        for file in files {
            let kept = fs::read_to_string(data.join(name).join(file)).unwrap();
            assert!(kept.starts_with("darkbloom-p256-sealed-v1 "), "{file}");
        }
        let why = ["is encrypted, and no secret is named", "hint: name the file with its secret"];
        run(&mut role(name, &[])).failed_saying(&why);
    }
}

#[test]
fn a_key_in_a_tpm_is_shown_tested_and_deleted() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let path = tpm.path();
    let place = ["--tpm", path.to_str().unwrap(), "--key-home", "tpm"];
    let made = darkbloom_keys::TpmKey::load_or_create(&path, &folder.path().join("identity.tpm"), &[16]);
    drop(made.unwrap());
    let with = |more: &'static str| [&place[..], &[more]].concat();
    let shown = json(&key("show", folder.path(), &with("--json")));
    assert_eq!((shown["home"].as_str(), &shown["key_pcrs"]), (Some("tpm"), &serde_json::json!([16])));
    assert!(key("show", folder.path(), &place).stdout.contains("registers   signs only while 16 have the values"));
    assert!(key("test", folder.path(), &place).stdout.contains("key in the machine's TPM"));
    assert!(tpm.tpm2("pcrextend", &[&format!("16:sha256={}", "11".repeat(32))]).0);
    key("test", folder.path(), &place).failed_saying(&["the TPM refused", "hint: "]);
    for _ in 0..2 {
        let gone = key("delete", folder.path(), &with("--yes"));
        assert!(gone.status.success(), "{gone:?}");
    }
    let (worked, left) = tpm.tpm2("getcap", &["handles-persistent"]);
    assert!(worked && !left.to_lowercase().contains("0x8102"), "an orphan: {left}");
}

#[test]
fn doctor_tells_apart_what_can_be_wrong_with_a_key() {
    let (tpm, folder) = (Swtpm::start("a"), tempfile::tempdir().unwrap());
    let doctor = |tpm: &Path| {
        let ended = run(command(&["doctor", "keys", "--json", "--data"]).arg(folder.path()).arg("--tpm").arg(tpm));
        json(&ended)["key_homes"].as_array().unwrap().clone()
    };
    let homes = doctor(&tpm.path());
    let names: Vec<_> = homes.iter().map(|home| home["home"].as_str().unwrap()).collect();
    assert_eq!(names, ["secure_enclave", "tpm", "software"]);
    assert_eq!(homes[0]["hardware_present"]["reason"], "this machine has no Secure Enclave");
    assert_eq!((&homes[0]["program_entitled"], &homes[0]["key_usable"]), (&Value::Null, &Value::Null));
    let homes = &homes[1..];
    for home in homes {
        for check in ["hardware_present", "program_entitled", "key_usable"] {
            assert_eq!(home[check]["is"], true, "{check} of {home}");
        }
    }
    assert!(homes[0]["hardware_present"]["what"].as_str().unwrap().contains("made by IBM"), "{}", homes[0]);
    let absent = doctor(&folder.path().join("no-tpm"));
    assert_eq!(absent[1]["hardware_present"]["is"], false);
    assert_eq!((&absent[1]["program_entitled"], &absent[1]["key_usable"]), (&Value::Null, &Value::Null));
    assert!(absent[1]["hardware_present"]["next_step"].as_str().unwrap().contains("firmware"));
    assert!(tpm.tpm2("changeauth", &["-c", "o", "secret"]).0);
    let locked = doctor(&tpm.path());
    assert_eq!(
        (&locked[1]["program_entitled"]["is"], &locked[1]["key_usable"]["is"]),
        (&Value::Bool(true), &Value::Bool(false))
    );
    assert!(locked[1]["key_usable"]["next_step"].as_str().unwrap().contains("password"), "{}", locked[1]);
    let words = run(command(&["doctor", "keys", "--data"]).arg(folder.path()).arg("--tpm").arg(tpm.path()));
    assert!(words.stdout.contains("key home     tpm\n  hardware present  yes: "), "{words:?}");
    assert!(words.stdout.contains("  key usable        no: the TPM refused TPM2_CreatePrimary"), "{words:?}");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "looking makes nothing");
}

#[test]
fn a_provider_is_closed_to_others_and_confined() {
    let network = Network::start();
    let status = |pid: u32| fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let says = |status: &str, name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    };
    let provider = status(network.providers[0].process.pid());
    assert_eq!((says(&provider, "NoNewPrivs:").as_str(), says(&provider, "Seccomp:").as_str()), ("1", "2"));
    for other in [network.coordinator.process.pid(), network.gateway.process.pid()] {
        assert_eq!(says(&status(other), "NoNewPrivs:"), "1");
    }
    let missing = "a measure against other processes does not hold";
    assert!(!network.providers[0].process.log().contains(missing), "{}", network.providers[0].process.log());
}
