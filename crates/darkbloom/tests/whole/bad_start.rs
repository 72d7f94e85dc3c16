//! What cannot work is said at the start: what, why, and what to do.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::support::network::{CREDIT, Coordinator, Network, Provider, Surface, ask, model_file};
use crate::support::process::{Ended, Process, command, preloaded, run};
use crate::support::until;

const ANY_PIN: &str = "abababababababababababababababababababababababababababababababab";

/// A provider that is expected to give up before it dials anybody.
fn start_provider(data: &Path, model: &Path) -> Ended {
    run(&mut Provider::command("http://127.0.0.1:1", ANY_PIN, data, model))
}

fn start_coordinator(data: &Path) -> Ended {
    run(command(&["coordinator", "--listen", "127.0.0.1:0"]).arg("--data").arg(data))
}

#[test]
fn a_model_file_that_is_none_is_refused_by_everyone_who_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let good = std::fs::read(model_file()).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut other_magic = good.clone();
    other_magic[..4].copy_from_slice(b"GGML");
    let mut wild_count = good.clone();
    wild_count[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut wild_length = good.clone();
    // The length of the first key.
    wild_length[24..32].copy_from_slice(&(u64::MAX / 2).to_le_bytes());
    let count = file("count.gguf", &wild_count);
    start_provider(&folder.path().join("provider"), &count).failed_saying(&[
        "count.gguf",
        "beyond its limit",
        "hint: ",
    ]);
    let cases: [(PathBuf, &str); 7] = [
        (folder.path().join("nowhere.gguf"), "No such file"),
        (folder.path().to_owned(), "directory"),
        (file("empty.gguf", b""), "empty.gguf"),
        (file("magic.gguf", &other_magic), "GGUF"),
        (file("text.gguf", b"not a model at all, but a text of some length"), "GGUF"),
        (file("length.gguf", &wild_length), "length.gguf"),
        (file("head.gguf", &good[..4_000]), "head.gguf"),
    ];
    for (path, word) in &cases {
        let name = path.file_name().unwrap().to_str().unwrap();
        let ended = start_provider(&folder.path().join("provider"), path);
        ended.failed_saying(&[word, name, "hint: "]);
        let add = run(command(&["catalogue", "add"]).arg(path).args([
            "--name",
            "x",
            "--quantisation",
            "Q8_0",
            "--input-price",
            "1",
            "--output-price",
            "1",
            "--coordinator",
            "http://127.0.0.1:1",
            "--admin-key",
            "any",
        ]));
        add.failed_saying(&["cannot use the model file", name]);
    }
    let dev = run(command(&["dev", "--prompt", "Hi"]).arg("--model").arg(&cases[0].0).env("TMPDIR", folder.path()));
    dev.failed_saying(&["cannot use the model file", "nowhere.gguf"]);
}

#[test]
fn a_model_file_that_lost_its_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let good = std::fs::read(model_file()).unwrap();
    for length in [good.len() / 2, good.len() - 1] {
        let path = folder.path().join("short.gguf");
        std::fs::write(&path, &good[..length]).unwrap();
        let ended = start_provider(&folder.path().join("provider"), &path);
        ended.failed_saying(&["short.gguf", "hint: "]);
    }
}

#[test]
fn a_model_file_with_other_weights_serves_nothing() {
    let network = Network::start();
    let mut bytes = std::fs::read(model_file()).unwrap();
    let place = bytes.len() - 1_000;
    bytes[place] ^= 1;
    let model = network.folder.path().join("flipped.gguf");
    std::fs::write(&model, bytes).unwrap();
    let token = network.coordinator.key("join", None);
    let data = network.folder.path().join("other");
    let other = Provider::start(&network.coordinator, &data, Some(&token), &model);
    other.process.logged("the coordinator's catalogue names none of this provider's models");
    assert_eq!(network.coordinator.providers().len(), 1);
}

#[test]
fn a_data_folder_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "a regular file").unwrap();
    // Below a file there are no folders, whoever asks: this holds for root too.
    let data = file.join("data");
    start_coordinator(&data).failed_saying(&["file/data", "hint: "]);
    start_coordinator(&file).failed_saying(&["file", "hint: "]);
    start_provider(&data, &model_file()).failed_saying(&["file/data", "hint: "]);
    let dev = run(command(&["dev", "--prompt", "Hi"]).arg("--data").arg(&data));
    dev.failed_saying(&["cannot use the data folder", "file/data", "hint: choose another with `--data`"]);
}

#[test]
fn a_data_folder_that_is_there_and_takes_no_file_is_named() {
    // Nobody creates files in this kernel's file system, root included.
    let data = Path::new("/sys");
    assert!(data.is_dir() && std::fs::write(data.join("x"), "x").is_err());
    start_coordinator(data).failed_saying(&["/sys", "hint: "]);
    start_provider(data, &model_file()).failed_saying(&["/sys", "hint: "]);
    let dev = run(command(&["dev", "--prompt", "Hi"]).arg("--data").arg(data));
    dev.failed_saying(&["/sys", "hint: choose another folder with `--data`"]);
}

#[test]
fn a_data_folder_in_use_is_refused() {
    let network = Network::start();
    let words = ["another process uses", "uses this folder; stop it, or choose another with `--data`"];
    start_coordinator(&network.coordinator.data).failed_saying(&words);
    start_provider(&network.providers[0].data, &model_file()).failed_saying(&words);
    assert_eq!(network.chat(&ask("What is 17 + 25?")).answer(), "42", "the first ones go on");
    network.books_close();
}

#[test]
fn a_busy_port_is_named() {
    let network = Network::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let words = ["cannot listen on", &address, "hint: choose another address with `--listen`"];
    let data = network.folder.path().join("second");
    run(command(&["coordinator", "--listen", &address]).arg("--data").arg(data)).failed_saying(&words);
    let trust = ["--coordinator", &network.coordinator.url, "--coordinator-key", &network.coordinator.pin];
    run(command(&["gateway", "--listen", &address]).args(trust)).failed_saying(&words);
    run(command(&["proxy", "--key", "any", "--listen", &address]).args(trust)).failed_saying(&words);
}

#[test]
fn a_configuration_file_with_mistakes_is_refused_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("darkbloom.toml");
    let with = |text: &str| {
        std::fs::write(&path, text).unwrap();
        run(command(&["coordinator", "--listen", "127.0.0.1:0"]).arg("--config").arg(&path))
    };
    let cases: [(&str, &[&str]); 9] = [
        ("[coordinator\n", &["darkbloom.toml is not valid", "line 1"]),
        ("[coordinator]\nlisten = \n", &["is not valid", "line 2"]),
        ("[coordinator]\nlisen = \"127.0.0.1:0\"\n", &["unknown field `lisen`", "hint: did you mean `listen`?"]),
        ("[cordinator]\n", &["unknown field `cordinator`", "hint: did you mean `coordinator`?"]),
        ("[coordinator]\nlisten = 7701\n", &["is not valid", "listen"]),
        ("[coordinator]\nlisten = \"localhost\"\n", &["is not valid"]),
        ("[coordinator]\ntier_min = \"best\"\n", &["tier_min", "hint: correct the configuration file"]),
        ("[provider]\nrows = 1000\n", &["is not valid", "`rows` is 1000", "hint: give `rows` a number from 1 to 256"]),
        ("[provider]\njoin_token = \"db-join-1\"\n", &["hint: keys and tokens do not belong into the file"]),
    ];
    for (text, words) in cases {
        with(text).failed_saying(words);
    }
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    run(command(&["coordinator"]).arg("--config").arg(&path)).failed_saying(&["cannot read the configuration file"]);
    std::fs::remove_file(&path).unwrap();
    run(command(&["coordinator"]).arg("--config").arg(&path)).failed_saying(&["darkbloom.toml", "No such file"]);
}

#[test]
fn a_configuration_file_starts_the_roles_and_flags_win_over_it() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("from-the-file");
    let path = folder.path().join("darkbloom.toml");
    std::fs::write(&path, format!("[coordinator]\nlisten = \"127.0.0.1:0\"\ndata = {data:?}\n")).unwrap();
    let (mut process, ready) = Process::role(command(&["coordinator"]).env("DARKBLOOM_CONFIG", &path)).unwrap();
    assert!(ready["admin_key"].is_string());
    assert!(data.join("coordinator.key").is_file());
    assert!(process.stop().success());
    let other = folder.path().join("from-the-flag");
    let mut flags = command(&["coordinator"]);
    let (mut process, _) = Process::role(flags.arg("--config").arg(&path).arg("--data").arg(&other)).unwrap();
    assert!(other.join("coordinator.key").is_file());
    assert!(process.stop().success());
}

#[test]
fn what_is_missing_on_the_command_line_is_asked_for() {
    let failed = |arguments: &[&str], words: &[&str]| run(&mut command(arguments)).failed_saying(words);
    failed(&["gateway", "--coordinator-key", ANY_PIN], &["no coordinator is given", "hint: add `--coordinator"]);
    failed(&["proxy", "--coordinator", "http://127.0.0.1:1"], &["no API key is given", "DARKBLOOM_API_KEY"]);
    failed(&["start", "--foreground"], &["no coordinator is given", "hint: add `--coordinator"]);
    failed(&["start", "--foreground", "--coordinator", "http://127.0.0.1:1"], &["no model is given", "--model"]);
    failed(&["start"], &["no coordinator is given", "hint: add `--coordinator"]);
    for command in [&["keys", "list"][..], &["keys", "create"], &["accounts", "list"], &["accounts", "create", "x"]] {
        failed(command, &["no administrator's key is given", "hint: set DARKBLOOM_ADMIN_KEY"]);
    }
    let folder = tempfile::tempdir().unwrap();
    let mut provider = Provider::command("http://127.0.0.1:1", ANY_PIN, folder.path(), &model_file());
    let ended = run(provider.args(["--context", "1"]));
    ended.failed_saying(&["the engine cannot run with these numbers", "hint: give `--rows`, `--context`"]);
    for wrong in [
        &["gateway", "--coordinator-key", "abc"][..],
        &["coordinator", "--listen", "nowhere"],
        &["gateway", "--tier-min", "best"],
        &["dev", "--rows", "0"],
        &["dev", "--rows", "257"],
        &["start", "--foreground", "--rows", "1000"],
        &["fly"],
    ] {
        let ended = run(&mut command(wrong));
        assert_eq!(ended.status.code(), Some(2), "{wrong:?}: {ended:?}");
        assert!(ended.stderr.starts_with("error: "), "{}", ended.stderr);
    }
}

#[test]
fn a_key_file_that_others_can_read_or_that_is_damaged_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start(&folder.path().join("coordinator"));
    assert!(coordinator.process.stop().success());
    let key = coordinator.data.join("coordinator.key");
    let good = std::fs::read(&key).unwrap();
    for mode in [0o644, 0o660, 0o604] {
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        let ended = start_coordinator(&coordinator.data);
        ended.failed_saying(&["coordinator.key", &format!("mode {mode:o}"), "chmod 600"]);
    }
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&key, &good[..20]).unwrap();
    start_coordinator(&coordinator.data).failed_saying(&["is not a key file or is damaged"]);
    assert_eq!(std::fs::read(&key).unwrap(), good[..20], "nothing was written over it");
    std::fs::write(&key, &good).unwrap();
    coordinator.again();

    let data = folder.path().join("provider");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("identity.key"), &good).unwrap();
    std::fs::set_permissions(data.join("identity.key"), std::fs::Permissions::from_mode(0o640)).unwrap();
    start_provider(&data, &model_file()).failed_saying(&["identity.key", "chmod 600"]);
    std::fs::remove_file(data.join("identity.key")).unwrap();
    std::fs::write(data.join("coordinator.pin"), "not a pin").unwrap();
    let mut unpinned =
        command(&["start", "--foreground", "--key-home", "software", "--coordinator", "http://127.0.0.1:1"]);
    let ended = run(unpinned.arg("--data").arg(&data).arg("--model").arg(model_file()));
    ended.failed_saying(&["coordinator.pin does not hold the 64 hex digits", "hint: remove the file"]);
}

#[test]
fn a_database_that_is_damaged_or_belongs_to_another_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut coordinator = Coordinator::start(&folder.path().join("first"));
    coordinator.offer_model(&model_file());
    assert!(coordinator.process.stop().success());
    let mut other = Coordinator::start(&folder.path().join("second"));
    assert!(other.process.stop().success());
    let key = coordinator.data.join("coordinator.key");
    let good = std::fs::read(&key).unwrap();
    std::fs::copy(other.data.join("coordinator.key"), &key).unwrap();
    start_coordinator(&coordinator.data).failed_saying(&["signed by another coordinator key", "hint: "]);
    std::fs::write(&key, good).unwrap();

    let database = std::fs::read_dir(&coordinator.data).unwrap().map(|entry| entry.unwrap().path());
    let database = database.into_iter().find(|path| path.extension().is_some_and(|it| it == "sqlite")).unwrap();
    let whole = std::fs::read(&database).unwrap();
    std::fs::write(&database, b"this is no database, and long enough to be told apart from an empty one").unwrap();
    start_coordinator(&coordinator.data).failed_saying(&["is not a readable database", "hint: "]);
    std::fs::write(&database, whole).unwrap();
    coordinator.again();
    coordinator.books_are_clean();
}

/// The clocks that a message names: numbers of milliseconds since 1970.
fn clocks(text: &str) -> Vec<i64> {
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| digits.len() == 13);
    numbers.map(|digits| digits.parse().unwrap()).collect()
}

#[test]
fn a_clock_that_is_wrong_by_an_hour_is_an_error_that_names_both() {
    let network = Network::start();
    let clock = preloaded(network.folder.path(), "shifted_clock");
    for shift in ["3600", "-3600"] {
        let mut gateway = command(&["gateway"]);
        gateway.arg("--allow-preloaded").env("LD_PRELOAD", &clock).env("SHIFT_SECONDS", shift);
        let gateway = Surface::start(&mut gateway, &network.coordinator, &network.ids());
        let refused = gateway.chat(&network.key, &ask("What is 17 + 25?"));
        let error = refused.json()["error"].clone();
        assert_eq!((refused.status, error["code"].as_str()), (502, Some("clock_skew")), "{error}");
        let named = clocks(error["message"].as_str().unwrap());
        assert_eq!(named.len(), 2, "{error}");
        assert!((named[0] - named[1]).abs().abs_diff(3_600_000) < 60_000, "{error}");
    }
    assert_eq!(network.coordinator.balance(&network.key), (CREDIT, 0));

    // Half an hour is more than what is allowed, and less than an epoch.
    for shift in ["3600", "-3600", "1800", "-1800"] {
        let data = network.folder.path().join(format!("provider{shift}"));
        let token = network.coordinator.key("join", None);
        let mut provider = Provider::command(&network.coordinator.url, &network.coordinator.pin, &data, &model_file());
        provider
            .env("DARKBLOOM_JOIN_TOKEN", token)
            .arg("--allow-preloaded")
            .env("LD_PRELOAD", &clock)
            .env("SHIFT_SECONDS", shift);
        let (process, _) = Process::role(&mut provider).unwrap();
        let line = until("an error that names both clocks", || {
            let log = process.log();
            let named = |line: &&str| !line.contains("TRACE") && line.contains("clock") && clocks(line).len() >= 2;
            log.lines().find(named).map(str::to_owned)
        });
        let named = clocks(&line);
        let apart = (named[0] - named[1]).abs();
        let shift: i64 = shift.parse().unwrap();
        assert!(apart.abs_diff(shift.abs() * 1_000) < 60_000, "{apart} ms: {line}");
        assert_eq!(network.coordinator.providers().len(), 1, "it gets no work");
    }
}

#[test]
fn a_preloaded_library_is_refused_before_anything_is_opened() {
    let folder = tempfile::tempdir().unwrap();
    let (library, data) = (preloaded(folder.path(), "nagle"), folder.path().join("data"));
    let mut start = Provider::command("http://127.0.0.1:1", &"0".repeat(64), &data, &model_file());
    run(start.env("LD_PRELOAD", &library)).failed_saying(&[
        "LD_PRELOAD had a library loaded into this process, which would see its keys and every prompt",
        "hint: start it without LD_PRELOAD, or give `--allow-preloaded`",
    ]);
    assert!(!data.exists(), "nothing was made");
    run(command(&["gateway"]).env("LD_AUDIT", "/nowhere/audit.so")).failed_saying(&["LD_AUDIT had a library"]);
    // Whoever looks at the machine is told.
    let doctor = run(command(&["doctor"]).env("LD_PRELOAD", &library));
    assert!(doctor.stdout.contains("  not own_libraries: LD_PRELOAD is set"), "{doctor:?}");
}
