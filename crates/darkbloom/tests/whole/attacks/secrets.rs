//! Keys are looked for where they must not be: files, logs, arguments.

use std::path::Path;

use super::hostile::provider::Hostile;
use crate::support::network::{CREDIT, Coordinator, Provider, Surface, ask, model_file};
use crate::support::process::{Process, command};
use crate::support::until;

/// The ways in which a program could write a secret down: as it is, and as debug output or dumps show bytes.
fn spellings(secret: &str) -> Vec<String> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let list: Vec<_> = secret.bytes().map(|byte| byte.to_string()).collect();
    // The random part alone, too: a prefix may be cut off.
    let tail = secret.rsplit('-').next().unwrap().to_owned();
    vec![secret.to_owned(), tail, hex.clone(), hex.to_uppercase(), list.join(", ")]
}

fn files(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
}

fn holds(bytes: &[u8], words: &str) -> bool {
    bytes.windows(words.len()).any(|window| window == words.as_bytes())
}

/// The attack suite's second build has a switch for each check; `darkbloom-attacks` sees that it can be told by these words.
#[test]
fn the_program_has_no_switch_for_a_check() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_darkbloom")).unwrap();
    assert!(holds(&program, "the operator revoked it"), "its words can be found in it");
    assert!(!holds(&program, "is not in the list of checks"));
}

#[test]
fn no_key_or_token_is_written_to_a_file_or_a_log() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator = Coordinator::start(&folder.path().join("coordinator"));
    coordinator.offer_model(&model_file());
    let key = coordinator.account("first", CREDIT);
    let token = coordinator.key("join", None);
    let wrong = format!("db-key-{}", "5a".repeat(24));
    let wrong_token = format!("db-join-{}", "6b".repeat(24));
    let refused = Provider::start(&coordinator, &folder.path().join("refused"), Some(&wrong_token), &model_file());
    refused.process.logged("not eligible");
    let provider = Provider::start(&coordinator, &folder.path().join("provider"), Some(&token), &model_file());
    coordinator.eligible(1);
    let gateway = Surface::gateway(&coordinator, &[&provider.id]);
    let home = folder.path().join("home");
    std::fs::create_dir(&home).unwrap();
    let mut proxied = command(&["proxy"]);
    let proxy =
        Surface::start(proxied.env("HOME", &home).env("DARKBLOOM_API_KEY", &key), &coordinator, &[&provider.id]);
    assert_eq!(gateway.chat(&key, &ask("What is 17 + 25?")).answer(), "42");
    assert_eq!(proxy.chat("any", &ask("What is 17 + 25?")).answer(), "42");
    // Ways that end early: a wrong key, a wrong kind of key, no provider, a coordinator that is gone.
    assert_eq!(gateway.chat(&wrong, &ask("What is 17 + 25?")).status, 401);
    assert_eq!(gateway.chat(&token, &ask("What is 17 + 25?")).status, 403);
    assert_eq!(coordinator.call("GET", "/admin/v1/keys", &key, b"").status, 403);
    let stranger = Hostile::new(&coordinator);
    let hello = stranger.hello(Some(&wrong_token), 8);
    let printed = format!("{hello:?} {:?}", darkbloom_wire::ProviderFrame::from(hello.clone()));
    assert!(!printed.contains(&wrong_token), "an introduction can be printed without its token");
    let mut stranger = stranger;
    stranger.line.send(hello);
    stranger.line.closed();

    let mut processes = [
        ("coordinator", coordinator.process),
        ("refused", refused.process),
        ("provider", provider.process),
        ("gateway", gateway.process),
        ("proxy", proxy.process),
    ];
    let secrets = [
        ("a consumer's key", &key),
        ("the administrator's key", &coordinator.admin_key),
        ("a join token", &token),
        ("a wrong key", &wrong),
        ("a wrong token", &wrong_token),
    ];
    for (role, process) in &processes {
        let arguments = std::fs::read(format!("/proc/{}/cmdline", process.pid())).unwrap();
        for (what, secret) in secrets {
            assert!(!holds(&arguments, secret), "{what} is in the arguments of the {role}");
        }
    }
    // Files are looked at while everything runs, and when everything has ended.
    for _ in 0..2 {
        let mut found = Vec::new();
        files(folder.path(), &mut found);
        assert!(found.iter().any(|(_, bytes)| holds(bytes, "SQLite format 3")), "the search can find");
        for (what, secret) in secrets {
            for spelling in spellings(secret) {
                for (path, bytes) in &found {
                    assert!(!holds(bytes, &spelling), "{what} is in {path}");
                }
            }
        }
        for (_, process) in processes.iter_mut().rev() {
            process.stop();
        }
    }
    for (role, process) in &processes {
        let log = process.log();
        let logs = log.contains("INFO") || log.contains("DEBUG");
        assert!(logs || matches!(*role, "gateway" | "proxy"), "the {role} logs: {log}");
        for (what, secret) in secrets {
            for spelling in spellings(secret) {
                assert!(!log.contains(&spelling), "{what} is in the log of the {role}");
            }
        }
    }
}

#[test]
fn a_network_of_one_command_hands_no_key_over_in_arguments() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("dev");
    let mut dev = Process::start(command(&["dev", "--listen", "127.0.0.1:0"]).arg("--data").arg(&data));
    let children = || {
        let tasks = format!("/proc/{0}/task", dev.pid());
        let of = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let all: String = std::fs::read_dir(tasks).unwrap().map(|task| of(task.unwrap()) + " ").collect();
        all.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let found = until("the roles run", || Some(children()).filter(|children| children.len() >= 3));
    for child in found {
        let arguments = std::fs::read(format!("/proc/{child}/cmdline")).unwrap();
        for prefix in ["db-key-", "db-admin-", "db-join-"] {
            assert!(!holds(&arguments, prefix), "{}", String::from_utf8_lossy(&arguments));
        }
    }
    dev.signal("TERM");
    assert!(dev.ended().success());
}
