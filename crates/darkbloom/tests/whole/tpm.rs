//! A provider whose identity is in a TPM, and consumers who pin nobody and ask for hardware: the real program on a real
//! software TPM, whose maker everybody here believes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use darkbloom_types::Digest;
use serde_json::Value;

use crate::support::network::{CREDIT, Coordinator, Provider, Surface, ask, model_file};
use crate::support::process::{Ended, Process, command, run};
use crate::support::until;
use crate::swtpm::Swtpm;

/// The maker's roots, as an operator or consumer keeps them.
fn roots(folder: &Path, maker: &str) -> PathBuf {
    let (root, intermediate) = Swtpm::authority(maker);
    let path = folder.join(format!("{maker}.pem"));
    fs::write(&path, root + &intermediate).unwrap();
    path
}

/// A network of one coordinator that believes a maker.
struct Believing {
    coordinator: Coordinator,
    activator: String,
    key: String,
    roots: PathBuf,
    folder: tempfile::TempDir,
}

impl Believing {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let roots = roots(folder.path(), "a");
        let (coordinator, ready) = Coordinator::start_changed(&folder.path().join("coordinator"), &|command| {
            command.args(["--tier-min", "hardware"]).arg("--tpm-roots").arg(&roots);
        });
        let activator = ready["activator"].as_str().expect("a coordinator that believes a maker vouches").to_owned();
        coordinator.offer_model(&model_file());
        let key = coordinator.account("first", CREDIT);
        Self { coordinator, activator, key, roots, folder }
    }

    fn start_command(&self, data: &str) -> Command {
        let mut command = command(&["start", "--foreground", "--threads", "1"]);
        command.args(["--coordinator", &self.coordinator.url, "--coordinator-key", &self.coordinator.pin]);
        command.arg("--data").arg(self.folder.path().join(data)).arg("--model").arg(model_file());
        command.env("DARKBLOOM_JOIN_TOKEN", self.coordinator.key("join", None));
        command
    }

    fn provider(&self, tpm: &Swtpm, data: &str) -> Provider {
        let mut command = self.start_command(data);
        command.args(["--key-home", "tpm"]).arg("--tpm").arg(tpm.path());
        let (process, ready) = Process::role(&mut command).unwrap();
        let data = self.folder.path().join(data);
        Provider { process, id: ready["provider"].as_str().unwrap().to_owned(), data }
    }

    /// A consumer's own proxy.
    fn proxy(&self, change: &dyn Fn(&mut Command)) -> Surface {
        let mut command = command(&["proxy"]);
        command.env("DARKBLOOM_API_KEY", &self.key);
        change(&mut command);
        Surface::start(&mut command, &self.coordinator, &[])
    }
}

#[test]
fn a_tpm_earns_work_and_trust_without_being_pinned() {
    let network = Believing::new();
    let tpm = Swtpm::start("a");
    let mut provider = network.provider(&tpm, "provider");
    provider.process.logged("an activator vouches for this machine's TPM");
    network.coordinator.eligible(1);
    assert_eq!(network.coordinator.providers()[0]["tier"], "hardware");

    let proxy = network.proxy(&|command| {
        command.arg("--tpm-roots").arg(&network.roots);
    });
    let answer = proxy.chat(&network.key, &ask("What is 17 + 25?"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-darkbloom-tier"), Some("hardware"));
    assert_eq!(answer.header("x-darkbloom-trust"), Some("unpinned"));
    assert_eq!(answer.header("x-darkbloom-provider"), Some(&*provider.id));

    // After a restart of machine and program the word of before still counts: nobody is asked again.
    assert!(provider.process.stop().success());
    tpm.restart();
    let again = network.provider(&tpm, "provider");
    assert_eq!(again.id, provider.id);
    network.coordinator.eligible(1);
    let answer = proxy.chat(&network.key, &ask("What is 17 + 25?"));
    assert_eq!((answer.status, answer.header("x-darkbloom-tier")), (200, Some("hardware")));
    assert!(!again.process.log().contains("vouches"), "{}", again.process.log());
    network.coordinator.books_close(&network.key, CREDIT);
}

/// Its word lasts for a month, and nobody believes an older key's.
#[test]
fn an_activator_with_another_key_is_noticed_when_it_is_back() {
    let mut network = Believing::new();
    let tpm = Swtpm::start("a");
    let _provider = network.provider(&tpm, "provider");
    network.coordinator.eligible(1);
    assert!(network.coordinator.process.stop().success());
    fs::remove_file(network.coordinator.data.join("activator.key")).unwrap();
    let roots = network.roots.clone();
    let ready = network.coordinator.again_changed(&|command| {
        command.args(["--tier-min", "hardware"]).arg("--tpm-roots").arg(&roots);
    });
    assert_ne!(ready["activator"], network.activator.as_str());
    network.coordinator.eligible(1);
    assert_eq!(network.coordinator.providers()[0]["tier"], "hardware");
}

#[test]
fn who_believes_another_maker_or_none_is_not_sealed_for() {
    let network = Believing::new();
    let tpm = Swtpm::start("a");
    let _provider = network.provider(&tpm, "provider");
    network.coordinator.eligible(1);
    let others = roots(network.folder.path(), "b");
    for proxy in [
        network.proxy(&|_| {}),
        network.proxy(&|command| {
            command.arg("--tpm-roots").arg(&others);
        }),
    ] {
        let answer = proxy.chat(&network.key, &ask("Hi"));
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.json()["error"]["code"], "tier_not_met", "{}", answer.text());
    }
    let pinned = network.proxy(&|command| {
        command.arg("--tpm-roots").arg(&network.roots).args(["--pin-activator", &network.activator]);
    });
    assert_eq!(pinned.chat(&network.key, &ask("Hi")).status, 200);
    // The coordinator's own word does not count for who pinned another's.
    let another = format!("04{}", "ab".repeat(64));
    let strict = network.proxy(&|command| {
        command.arg("--tpm-roots").arg(&network.roots).args(["--pin-activator", &another]);
    });
    let answer = strict.chat(&network.key, &ask("Hi"));
    assert_eq!(answer.json()["error"]["code"], "tier_not_met", "{}", answer.text());
    assert!(network.coordinator.usage(&network.key).len() == 1, "nobody else was sealed for");
}

#[test]
fn a_software_key_gets_no_work_where_hardware_is_asked_for() {
    let network = Believing::new();
    let mut command = network.start_command("software");
    command.args(["--key-home", "software"]);
    let (process, _) = Process::role(&mut command).unwrap();
    process.logged("not eligible: less is proven about the provider than the network demands; prove more");
    assert_eq!(network.coordinator.providers()[0]["eligible"], false);
}

#[test]
fn a_tpm_that_its_coordinator_does_not_believe_stays_below() {
    let network = Believing::new();
    let tpm = Swtpm::start("b");
    let provider = network.provider(&tpm, "provider");
    provider.process.logged("an activator does not vouch for this machine's TPM");
    until("the provider is told", || {
        let providers = network.coordinator.providers();
        let told = providers.first().is_some_and(|provider| provider["tier"] == "self_signed");
        told.then_some(())
    });
    assert_eq!(network.coordinator.providers()[0]["eligible"], false);
}

#[test]
fn without_its_tpm_a_provider_does_not_start_and_is_nobody_else() {
    let network = Believing::new();
    let tpm = Swtpm::start("a");
    let mut provider = network.provider(&tpm, "provider");
    assert!(provider.process.stop().success());
    let path = tpm.path();
    drop(tpm);
    for homes in ["tpm", "tpm,software"] {
        let mut command = network.start_command("provider");
        command.args(["--key-home", homes]).arg("--tpm").arg(&path);
        let ended = Process::role(&mut command).err().expect("there is no key");
        ended.failed_saying(&["TPM", "hint: "]);
    }
    let mut command = network.start_command("provider");
    command.args(["--key-home", "software"]);
    let ended = Process::role(&mut command).err().expect("another identity is not allowed");
    ended.failed_saying(&["this provider's identity is a tpm key, which the configuration does not allow"]);
    assert!(!provider.data.join("identity.key").exists());
}

#[test]
fn a_machine_without_a_tpm_says_that_its_key_is_in_a_file() {
    let network = Believing::new();
    let mut command = network.start_command("provider");
    command.arg("--tpm").arg(network.folder.path().join("no-tpm"));
    let (process, _) = Process::role(&mut command).unwrap();
    process.logged("a home that comes first cannot have the identity key: turn the TPM on in the firmware's settings");
    assert!(network.folder.path().join("provider/identity.key").exists());
    let mut alone = network.start_command("other");
    alone.args(["--key-home", "tpm"]).arg("--tpm").arg(network.folder.path().join("no-tpm"));
    let ended = Process::role(&mut alone).err().expect("there is no home");
    ended.failed_saying(&["no identity can be made: tpm: there is no TPM at", "hint: turn the TPM on"]);
    let mut no_mac = network.start_command("other");
    no_mac.args(["--key-home", "secure_enclave"]);
    let ended = Process::role(&mut no_mac).err().expect("there is no home");
    ended.failed_saying(&[
        "no identity can be made: secure_enclave: this machine has no Secure Enclave",
        "hint: only Macs with Apple silicon",
    ]);
}

/// `darkbloom verify provider`, with the pin and nothing else.
fn verify(network: &Believing, more: &[&str]) -> Ended {
    let pin = ["verify", "provider", "--coordinator", &network.coordinator.url];
    run(command(&pin).args(["--coordinator-key", &network.coordinator.pin]).args(more))
}

#[test]
fn every_claim_can_be_checked_live_and_long_after() {
    let network = Believing::new();
    let tpm = Swtpm::start("a");
    let provider = network.provider(&tpm, "provider");
    network.coordinator.eligible(1);
    let roots = network.roots.to_str().unwrap();
    let file = network.folder.path().join("bundle");
    let file = file.to_str().unwrap();

    let shown = verify(&network, &[&provider.id, "--tpm-roots", roots, "--save", file]);
    assert!(shown.status.success(), "{shown:?}");
    for words in [
        &*format!("provider     {}", provider.id),
        "tier         hardware",
        "tpm_identity_key       hardware               this epoch   the identity key is in a TPM and cannot leave it",
        "tpm_attestation_key    coordinator_activator  0 min ago    the network's own activator saw",
        "release                provider               this epoch",
        "hardening              provider               this epoch   own_libraries, no_core, not_dumpable",
        "dishonest_coordinator  not_defended",
        "verdict      would be sealed to with a minimum of `hardware`",
    ] {
        assert!(shown.stdout.contains(words), "`{words}` is not in:\n{}", shown.stdout);
    }
    // Another's word than the coordinator's own.
    let pinned = verify(&network, &["--tpm-roots", roots, "--pin-activator", &network.activator, "--json"]);
    let pinned: Value = serde_json::from_str(&pinned.stdout).unwrap();
    assert_eq!(pinned["providers"][0]["undefended"]["dishonest_coordinator"], "defended", "{pinned}");

    // Who believes no maker is told so, and by the exit status.
    let nobody = verify(&network, &[&provider.id]);
    assert_eq!(nobody.status.code(), Some(3), "{nobody:?}");
    assert!(
        nobody.stdout.contains("the endorsement key's certificate: the chain leads to none of the roots"),
        "{nobody:?}"
    );
    assert!(nobody.stdout.contains("verdict      would not be sealed to with a minimum of `hardware`"), "{nobody:?}");
    let unknown = verify(&network, &[&"00".repeat(32)]);
    assert!(unknown.said().contains("this provider is not connected"), "{unknown:?}");

    // The network is gone; what was saved says the same.
    let (id, pin) = (provider.id.clone(), network.coordinator.pin.clone());
    let roots = fs::read(roots).unwrap();
    let saved = fs::read(file).unwrap();
    drop((provider, tpm, network));
    let folder = tempfile::tempdir().unwrap();
    let (file, makers) = (folder.path().join("bundle"), folder.path().join("makers.pem"));
    fs::write(&makers, roots).unwrap();
    let offline = |bytes: &[u8], pin: &str| {
        fs::write(&file, bytes).unwrap();
        let mut verify = command(&["verify", "bundle"]);
        run(verify.arg(&file).arg("--tpm-roots").arg(&makers).args(["--coordinator-key", pin]))
    };
    let again = offline(&saved, &pin);
    assert!(again.status.success() && again.stdout.contains(&id), "{again:?}");
    let mut changed = saved.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    assert_eq!(offline(&changed, &pin).status.code(), Some(3), "one bit");
    assert_eq!(offline(&saved[..saved.len() - 1], &pin).status.code(), Some(3), "cut");
    assert_eq!(offline(&saved, &"00".repeat(32)).status.code(), Some(3), "another network");
}

#[test]
fn who_pins_an_activator_of_his_own_relies_on_no_coordinator() {
    let (network, tpm) = (Believing::new(), Swtpm::start("a"));
    let start = |data: &str, roots: Option<&Path>| {
        let mut command = command(&["activator", "--listen", "127.0.0.1:0"]);
        command.arg("--data").arg(network.folder.path().join(data));
        if let Some(roots) = roots {
            command.arg("--tpm-roots").arg(roots);
        }
        Process::role(&mut command)
    };
    let (_activator, ready) = start("activator", Some(&network.roots)).unwrap();
    let (address, key) = (ready["address"].as_str().unwrap(), ready["activator"].as_str().unwrap());
    let mut command = network.start_command("provider");
    command.args(["--key-home", "tpm"]).arg("--tpm").arg(tpm.path());
    command.args(["--activator", &format!("http://{address}")]);
    let (_provider, provider) = Process::role(&mut command).unwrap();
    network.coordinator.eligible(1);

    let mut verify = command_of_consumer(&network, provider["provider"].as_str().unwrap());
    let shown = run(verify.args(["--pin-activator", key]));
    assert!(shown.status.success(), "{shown:?}");
    for claim in ["independent_activator", "dishonest_coordinator  defended"] {
        assert!(shown.stdout.contains(claim), "{claim}: {}", shown.stdout);
    }
    // Another activator, of a maker of other TPMs, has nothing to say about this one.
    let others = roots(network.folder.path(), "b");
    let (_other, ready) = start("other", Some(&others)).unwrap();
    let mut verify = command_of_consumer(&network, provider["provider"].as_str().unwrap());
    assert_eq!(run(verify.args(["--pin-activator", ready["activator"].as_str().unwrap()])).status.code(), Some(3));
    let Err(ended) = start("none", None) else { panic!("it vouches for nobody") };
    assert!(ended.stderr.contains("no maker of TPMs is named") && ended.stderr.contains("--tpm-roots"), "{ended:?}");
}

#[test]
fn what_proves_an_answer_is_checked_long_after_and_without_the_network() {
    let (network, tpm) = (Believing::new(), Swtpm::start("a"));
    let provider = network.provider(&tpm, "provider");
    network.coordinator.eligible(1);
    let folder = network.folder.path().join("receipts");
    let proxy = network.proxy(&|command| {
        command.arg("--tpm-roots").arg(&network.roots).arg("--receipts").arg(&folder);
    });
    let answer = proxy.chat(&network.key, &ask("What is 17 + 25?"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let receipt = answer.header("x-darkbloom-receipt").unwrap();
    let file = folder.join(format!("{receipt}.receipt"));
    let kept = fs::read(&file).unwrap();
    assert!(!kept.windows(7).any(|part| part == b"17 + 25"), "no text is in it");
    let (id, pin, roots) = (provider.id.clone(), network.coordinator.pin.clone(), fs::read(&network.roots).unwrap());
    drop((proxy, provider, network));

    let folder = tempfile::tempdir().unwrap();
    let (file, makers) = (folder.path().join("one.receipt"), folder.path().join("makers.pem"));
    fs::write(&makers, roots).unwrap();
    let verify = |bytes: &[u8], more: &[&str]| {
        fs::write(&file, bytes).unwrap();
        let mut verify = command(&["verify", "receipt"]);
        run(verify.arg(&file).args(["--coordinator-key", &pin]).args(more))
    };
    let makers = makers.to_str().unwrap();
    let shown = verify(&kept, &["--tpm-roots", makers]);
    assert!(shown.status.success(), "{shown:?}");
    for part in [&*id, "tier         hardware", "tpm_identity_key", "weights", "charge"] {
        assert!(shown.stdout.contains(part), "{part}: {}", shown.stdout);
    }
    let json = verify(&kept, &["--tpm-roots", makers, "--json"]);
    let json: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&json["provider"]["provider"], &json["provider"]["tier"]), (&Value::from(id), &"hardware".into()));
    assert!(
        json["receipt"]["output_tokens"].as_u64().unwrap() > 0 && json["bill"]["charge_nano_usd"].as_u64().unwrap() > 0
    );
    assert_eq!(verify(&kept, &[]).status.code(), Some(3), "who believes no maker asks for more");
    let mut changed = kept.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    assert_eq!(verify(&changed, &["--tpm-roots", makers]).status.code(), Some(3), "one bit");
    assert_eq!(verify(&kept[..kept.len() - 1], &["--tpm-roots", makers]).status.code(), Some(3), "cut");
}

#[test]
fn a_policy_over_measurements_asks_what_the_tpm_quoted() {
    let (network, tpm) = (Believing::new(), Swtpm::start("a"));
    for (pcr, digest) in [(0, [0xf0; 32]), (2, [0x24; 32]), (4, [0x24; 32])] {
        assert!(tpm.tpm2("pcrextend", &[&format!("{pcr}:sha256={}", hex::encode(digest))]).0);
    }
    let provider = network.provider(&tpm, "provider");
    network.coordinator.eligible(1);
    let apply = |value: &str| {
        let accepted = format!(
            "{{ release = \"image\", tpm = {{ firmware = [\"{0}\"], registers = {{ \"2\" = \"{1}\", \"4\" = \"{1}\" }} }} }}",
            hex::encode(once([0xf0; 32])),
            value
        );
        let policy = format!("[measurements]\ngate = \"enforce\"\naccepted = [{accepted}]\n");
        network.coordinator.admin("PUT", "/admin/v1/policy", &serde_json::json!({"policy": policy}));
        let provider = network.coordinator.providers().remove(0);
        (provider["reason"].clone(), provider["tier"].as_str().unwrap().to_owned())
    };
    assert_eq!(apply(&"11".repeat(32)), ("policy_measurements".into(), "hardware".to_owned()));
    provider.process.logged("what hardware measured of the provider's machine is not among");
    assert_eq!(apply(&hex::encode(once([0x24; 32]))), (Value::Null, "measured".to_owned()));
}

/// A register that was extended with this alone.
fn once(digest: [u8; 32]) -> [u8; 32] {
    Digest::of(&[&[0; 32], &digest]).0
}

/// A machine that booted a program with Secure Boot on: its registers are extended as its firmware logs.
fn booted(tpm: &Swtpm, program: [u8; 32], log: &Path) {
    let name: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let namespace = hex::decode("61dfe48bca93d211aa0d00e098032b8c").unwrap();
    let variable = [&namespace[..], &10_u64.to_le_bytes(), &1_u64.to_le_bytes(), &name, &[1]].concat();
    let digest = |data: &[u8]| Digest::of(&[data]).0;
    let entries: [(u32, u32, [u8; 32], &[u8]); 6] = [
        (0, 8, [0xf0; 32], b"firmware"),
        (2, 4, digest(&[0; 4]), &[0; 4]),
        (7, 0x8000_0001, digest(&variable), &variable),
        (7, 4, digest(&[0; 4]), &[0; 4]),
        (4, 4, digest(&[0; 4]), &[0; 4]),
        (4, 0x8000_0003, program, b"where it was found"),
    ];
    let specification = [&b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02"[..], &[1, 0, 0, 0, 0x0b, 0, 32, 0, 0]].concat();
    let mut bytes = [&[0; 4][..], &[3, 0, 0, 0], &[0; 20], &(specification.len() as u32).to_le_bytes()].concat();
    bytes.extend(specification);
    for (pcr, kind, digest, data) in entries {
        assert!(tpm.tpm2("pcrextend", &[&format!("{pcr}:sha256={}", hex::encode(digest))]).0);
        bytes.extend([&pcr.to_le_bytes()[..], &kind.to_le_bytes(), &[1, 0, 0, 0, 0x0b, 0], &digest].concat());
        bytes.extend([&(data.len() as u32).to_le_bytes()[..], data].concat());
    }
    fs::write(log, bytes).unwrap();
}

#[test]
fn a_machine_that_booted_what_a_consumer_accepts_is_measured() {
    let (network, tpm) = (Believing::new(), Swtpm::start("a"));
    let (program, log) = ([0x70; 32], network.folder.path().join("log"));
    booted(&tpm, program, &log);
    let mut command = network.start_command("provider");
    command.args(["--key-home", "tpm"]).arg("--tpm").arg(tpm.path()).arg("--tpm-log").arg(&log);
    let (_provider, ready) = Process::role(&mut command).unwrap();
    network.coordinator.eligible(1);

    let accepted = |program: [u8; 32]| {
        let file = network.folder.path().join(format!("accepted-{}", program[0]));
        let text = format!(
            "[[accepted]]\nrelease = \"image-7\"\ntpm = {{ firmware = [\"{0}\"], secure_boot = true, booted = [\"{1}\"], registers = {{ \"12\" = \"{2}\", \"13\" = \"{2}\" }} }}\n",
            hex::encode(once([0xf0; 32])),
            hex::encode(program),
            "0".repeat(64)
        );
        fs::write(&file, text).unwrap();
        file
    };
    let proxy = |file: &Path| {
        network.proxy(&|command| {
            command.arg("--tpm-roots").arg(&network.roots).arg("--measurements").arg(file);
            command.args(["--tier-min", "measured"]);
        })
    };
    let answer = proxy(&accepted(program)).chat(&network.key, &ask("What is 17 + 25?"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-darkbloom-tier"), Some("measured"));
    let other = proxy(&accepted([0x71; 32])).chat(&network.key, &ask("Hi"));
    assert_eq!((other.status, &other.json()["error"]["code"]), (503, &"tier_not_met".into()), "{}", other.text());

    // Each claim, and who is relied on: the coordinator's own activator vouched for the TPM.
    let verify = |file: &Path| {
        let mut verify = command_of_consumer(&network, ready["provider"].as_str().unwrap());
        run(verify.arg("--measurements").arg(file).args(["--tier-min", "measured"]))
    };
    let shown = verify(&accepted(program));
    assert!(shown.status.success(), "{shown:?}");
    for claim in
        ["measured_release", "image-7", "secure_boot", &hex::encode(program), "dishonest_coordinator  not_defended"]
    {
        assert!(shown.stdout.contains(claim), "{claim}: {}", shown.stdout);
    }
    assert_eq!(verify(&accepted([0x71; 32])).status.code(), Some(3));
    // What is shown as measured is what accepts it.
    let line = shown.stdout.lines().find(|line| line.trim_start().starts_with("tpm = {")).unwrap();
    let copied = network.folder.path().join("copied");
    fs::write(&copied, format!("[[accepted]]\nrelease = \"copied\"\n{line}\n")).unwrap();
    assert!(verify(&copied).status.success(), "{line}");
    // A file that says nothing is a mistake, told before anything is asked.
    let empty = network.folder.path().join("empty");
    fs::write(&empty, "").unwrap();
    let refused = verify(&empty);
    assert!(!refused.status.success() && refused.stderr.contains("accepted releases"), "{refused:?}");
}

/// `verify provider`, by somebody who believes the maker.
fn command_of_consumer(network: &Believing, provider: &str) -> Command {
    let mut verify = command(&["verify", "provider", provider]);
    verify.args(["--coordinator", &network.coordinator.url, "--coordinator-key", &network.coordinator.pin]);
    verify.arg("--tpm-roots").arg(&network.roots);
    verify
}

#[test]
fn a_kernel_that_makes_no_report_keeps_nobody_from_serving() {
    let (network, tpm) = (Believing::new(), Swtpm::start("a"));
    // A folder like the kernel's, where nothing answers: what the provider made there is gone again.
    let tsm = network.folder.path().join("tsm");
    fs::create_dir(&tsm).unwrap();
    let mut command = network.start_command("provider");
    command.args(["--key-home", "tpm"]).arg("--tpm").arg(tpm.path()).arg("--tsm").arg(&tsm);
    let (process, _) = Process::role(&mut command).unwrap();
    network.coordinator.eligible(1);
    process.logged("this machine's processor gives no evidence");
    assert!(process.log().contains("inblob"), "it could make its request: {}", process.log());
    assert!(fs::read_dir(&tsm).unwrap().next().is_none());
    let mut named = network.start_command("other");
    named.args(["--snp-certificates", "/nowhere"]);
    let Err(ended) = Process::role(&mut named) else { panic!("it starts without what its owner named") };
    assert!(ended.stderr.contains("/nowhere") && ended.stderr.contains("snp_certificates"), "{ended:?}");
}
