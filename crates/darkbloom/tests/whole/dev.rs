//! `darkbloom dev`: the one command that a stranger runs.

use std::io::Read as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::support::http::{self, bearer};
use crate::support::network::{MODEL, ask, endless_model, model_file};
use crate::support::process::{Ended, Process, command, run};
use crate::support::until;

/// `darkbloom dev` whose temporary data is in this folder.
fn dev(temporary: &Path, arguments: &[&str]) -> Command {
    let mut command = command(&["dev"]);
    command.args(arguments).env("TMPDIR", temporary).env("DARKBLOOM_LOG", "info");
    command
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

/// The processes that this one started.
fn children(parent: u32) -> Vec<u32> {
    let parent_of = |pid: u32| -> Option<u32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
    };
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    all.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

fn is_running(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

#[test]
fn one_question_gets_an_answer_and_what_was_verified() {
    let temporary = tempfile::tempdir().unwrap();
    let ended = run(&mut dev(temporary.path(), &["--prompt", "What is 17 + 25?"]));
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(ended.stdout.lines().next(), Some("42"), "{}", ended.stdout);
    for line in [
        "  provider     ",
        "  tier         self_signed",
        "  trust        pinned",
        "  owner_physical_access  not_defended",
        "  key epoch    ",
        "  catalogue    ",
        "  receipt      ",
        "  attempts     1",
        "  parse        ",
        "  reserve      ",
        "  route        ",
        "  queue        ",
        "  encrypt      ",
        "  dispatch     ",
    ] {
        assert!(ended.stdout.lines().any(|each| each.starts_with(line)), "no `{line}` in:\n{}", ended.stdout);
    }
    let times = ended.stdout.split_once("where the time went:").expect("a heading").1;
    let providers = times.lines().find(|line| line.starts_with("  provider     ")).expect("the provider's time");
    assert!(providers.ends_with(" ms   said by the provider"), "{providers}");
    assert!(is_empty(temporary.path()), "data stays behind");
}

#[test]
fn the_same_as_json_has_every_documented_key() {
    let temporary = tempfile::tempdir().unwrap();
    let ended = run(&mut dev(temporary.path(), &["--prompt", "What is 17 + 25?", "--json"]));
    assert!(ended.status.success(), "{ended:?}");
    let said: Value = serde_json::from_str(&ended.stdout).unwrap();
    let keys = |value: &Value| {
        let keys: std::collections::BTreeSet<_> = value.as_object().unwrap().keys().cloned().collect();
        keys.into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(said["answer"], "42");
    assert_eq!(said["model"], MODEL);
    assert_eq!(keys(&said), "answer first_text_us model ready_us timing total_us usage verified");
    assert_eq!(keys(&said["verified"]), "attempts by catalogue epoch provider receipt tier trust undefended");
    assert_eq!(keys(&said["verified"]["undefended"]), "dishonest_coordinator owner_physical_access owner_root");
    assert_eq!(said["verified"]["by"], "client");
    let provider = &said["verified"]["provider"];
    assert_eq!(said["verified"]["attempts"], json!([{"provider": provider, "outcome": "accepted"}]));
    assert_eq!(keys(&said["usage"]), "charge_nano_usd input_tokens output_tokens");
    assert_eq!(
        keys(&said["timing"]),
        "dispatch_us encrypt_us parse_us provider_us queue_us reserve_us route_us said_by",
        "a zero is a value, so all seven are there"
    );
    assert_eq!(said["timing"]["said_by"], crate::http::said_by(&["provider_us"]));
    let sum: u64 = said["timing"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    let total = said["total_us"].as_u64().unwrap();
    assert!(sum <= total, "the parts add up to no more than the whole: {sum} of {total} µs");
    let tokens = |name: &str| said["usage"][name].as_i64().unwrap();
    assert_eq!(tokens("charge_nano_usd"), 50 * tokens("input_tokens") + 200 * tokens("output_tokens"));
}

/// `darkbloom dev` with a question whose answer takes a second or more, and nothing read of it yet.
struct Asked {
    child: Child,
    stdout: ChildStdout,
    temporary: tempfile::TempDir,
}

impl Asked {
    fn start() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let model = endless_model(temporary.path());
        let data = temporary.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let mut command = dev(&data, &["--prompt", "Count from 1 to 9."]);
        command.arg("--model").arg(&model).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = child.stdout.take().unwrap();
        Self { child, stdout, temporary }
    }

    /// The child that runs as this command.
    fn role(&self, name: &str) -> Option<u32> {
        children(self.child.id()).into_iter().find(|pid| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split('\0').nth(1) == Some(name)
        })
    }

    /// The first of the answer, as soon as it comes.
    fn first_piece(&mut self) -> String {
        let mut piece = [0; 16];
        let size = self.stdout.read(&mut piece).unwrap();
        assert!(size > 0, "it ended");
        String::from_utf8_lossy(&piece[..size]).into_owned()
    }

    /// Waits for the end: its status, the rest of what it said, and its log. Nothing stays behind.
    fn ended(mut self) -> Ended {
        let (mut stdout, mut log) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        let status = self.child.wait().unwrap();
        assert!(is_empty(&self.temporary.path().join("data")), "data stays behind");
        Ended { status, stdout, stderr: log }
    }
}

fn kill(signal: &str, pid: u32) {
    let status = Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).status();
    assert!(status.unwrap().success());
}

#[test]
fn an_answer_is_printed_while_it_is_made() {
    let mut asked = Asked::start();
    let first = asked.first_piece();
    // Whatever was there before the answer was whole: the provider that makes the rest of it is gone.
    kill("KILL", asked.role("start").expect("a provider"));
    let ended = asked.ended();
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    // Whichever is noticed first: that its process is gone, or that its answer is cut.
    let why = ["error: the provider ended by itself", "error: the provider failed in the middle of its answer"];
    assert!(why.iter().any(|why| ended.said().contains(why)), "{ended:?}");
    assert!(!first.trim().is_empty() && !ended.stdout.contains("verified by this process"), "{first}{}", ended.stdout);
}

#[test]
fn a_question_that_is_interrupted_was_not_answered() {
    for (signal, status) in [("INT", 130), ("TERM", 143)] {
        for while_it_starts in [true, false] {
            let mut asked = Asked::start();
            if while_it_starts {
                until("the coordinator runs", || asked.role("coordinator"));
            } else {
                asked.first_piece();
            }
            kill(signal, asked.child.id());
            let ended = asked.ended();
            assert_eq!(ended.status.code(), Some(status), "{signal}: {ended:?}");
            assert_eq!(ended.said(), "error: told to stop before the answer was whole; nothing of it is verified\n");
            assert!(!ended.stdout.contains("verified by this process"), "{}", ended.stdout);
        }
    }
}

#[test]
fn it_introduces_itself_answers_and_stops_everything_on_ctrl_c() {
    let temporary = tempfile::tempdir().unwrap();
    let mut process = Process::start(&mut dev(temporary.path(), &["--listen", "127.0.0.1:0"]));
    let mut lines = Vec::new();
    while !lines.last().is_some_and(|line: &String| line.starts_with("Ctrl-C stops everything")) {
        lines.push(process.line().unwrap_or_else(|| panic!("it ended: {}", process.log())));
    }
    let said = |name: &str| {
        let line = lines.iter().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no `{name}` in {lines:#?}")).trim().to_owned()
    };
    let (base, key) = (said("base URL"), said("API key"));
    let address = base.strip_prefix("http://").unwrap().strip_suffix("/v1").unwrap();
    let headers = [("authorization", &*bearer(&key))];
    let body = ask("What is 17 + 25?").to_string();
    let answer = http::request(address, "POST", "/v1/chat/completions", &headers, body.as_bytes());
    assert_eq!(answer.answer(), "42");
    process.logged("request settled");

    // The lines are for pasting, so they are run as they stand.
    let at = lines.iter().position(|line| line.starts_with("curl ")).expect("a curl line");
    let curl = lines[at..at + 2].join("\n");
    if Command::new("curl").arg("--version").output().is_ok() {
        let output = Command::new("sh").args(["-c", &curl]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["object"], "chat.completion", "{answer}");
    } else {
        eprintln!("SKIPPED: the curl line is not run, because there is no curl here");
    }
    let at = lines.iter().position(|line| line.starts_with("from openai")).expect("a Python example");
    crate::python::example(&lines[at..at + 3].join("\n"));

    let roles = children(process.pid());
    assert_eq!(roles.len(), 3, "coordinator, provider, gateway");
    process.signal("INT");
    assert!(process.ended().success(), "{}", process.log());
    for role in roles {
        assert!(!is_running(role), "a role outlives the command");
    }
    assert!(is_empty(temporary.path()), "data stays behind");
    assert!(!process.log().contains("panicked"), "{}", process.log());
}

#[test]
fn the_provider_computes_as_this_command_was_told_to() {
    let temporary = tempfile::tempdir().unwrap();
    for flags in [&["--listen", "127.0.0.1:0"][..], &["--listen", "127.0.0.1:0", "--fast"]] {
        let mut process = Process::start(&mut dev(temporary.path(), flags));
        while !process.line().unwrap().starts_with("Ctrl-C stops everything") {}
        let arguments = |pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        let roles: Vec<_> = children(process.pid()).into_iter().map(arguments).collect();
        let provider = roles.iter().find(|line| line.split('\0').nth(1) == Some("start")).expect("a provider");
        assert_eq!(provider.split('\0').any(|word| word == "--fast"), flags.contains(&"--fast"), "{provider}");
        process.signal("INT");
        assert!(process.ended().success(), "{}", process.log());
    }
}

#[test]
fn roles_do_not_outlive_a_killed_dev() {
    let temporary = tempfile::tempdir().unwrap();
    let mut process = Process::start(&mut dev(temporary.path(), &["--listen", "127.0.0.1:0"]));
    while !process.line().unwrap().starts_with("Ctrl-C stops everything") {}
    let roles = children(process.pid());
    assert_eq!(roles.len(), 3);
    process.kill();
    until("the roles notice", || (!roles.iter().any(|role| is_running(*role))).then_some(()));
}

#[test]
fn it_ends_when_its_provider_dies_and_says_so() {
    let temporary = tempfile::tempdir().unwrap();
    let mut process = Process::start(&mut dev(temporary.path(), &["--listen", "127.0.0.1:0"]));
    while !process.line().unwrap().starts_with("Ctrl-C stops everything") {}
    let roles = children(process.pid());
    let is_provider = |pid: &&u32| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        arguments.split(|byte| *byte == 0).nth(1) == Some(b"start")
    };
    let provider = roles.iter().find(is_provider).expect("a provider");
    assert!(Command::new("kill").args(["-KILL", &provider.to_string()]).status().unwrap().success());
    let status = process.ended();
    assert_eq!(status.code(), Some(1), "{}", process.log());
    assert!(process.log().contains("error: the provider ended by itself: signal: 9"), "{}", process.log());
    assert!(!roles.iter().any(|role| is_running(*role)), "a role outlives the command");
    assert!(is_empty(temporary.path()), "data stays behind");
}

#[test]
fn a_busy_port_is_named_and_nothing_stays_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = run(&mut dev(temporary.path(), &["--listen", &address]));
    ended.failed_saying(&["cannot listen on", &address, "hint: choose another address with `--listen`"]);
    assert_eq!(ended.stderr.matches("cannot listen on").count(), 1, "said once: {}", ended.stderr);
    assert!(!ended.stderr.contains(" | "), "a role was started before it: {}", ended.stderr);
    let ended = run(&mut dev(temporary.path(), &["--listen", "0.0.0.0:0"]));
    ended.failed_saying(&["reachable from other machines", "hint: listen on 127.0.0.1"]);
    assert!(!ended.stderr.contains(" | "), "a role was started before it: {}", ended.stderr);
    assert!(is_empty(temporary.path()), "data stays behind");
}

#[test]
fn a_kept_data_folder_serves_again() {
    let temporary = tempfile::tempdir().unwrap();
    let data = temporary.path().join("kept");
    let identity = || std::fs::read(data.join("provider/identity.key")).unwrap();
    let ask = || {
        let ended = run(dev(temporary.path(), &["--prompt", "What is 17 + 25?"]).arg("--data").arg(&data));
        assert!(ended.status.success(), "{ended:?}");
        assert_eq!(ended.stdout.lines().next(), Some("42"), "{}", ended.stdout);
    };
    ask();
    let first = identity();
    ask();
    assert_eq!(identity(), first, "the same provider");
}

#[test]
fn another_model_file_serves_under_its_own_name() {
    let temporary = tempfile::tempdir().unwrap();
    let model = temporary.path().join("other-name.gguf");
    std::fs::copy(model_file(), &model).unwrap();
    let ended = run(dev(temporary.path(), &["--prompt", "What is 17 + 25?", "--json"]).arg("--model").arg(&model));
    let said: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((said["answer"].as_str(), said["model"].as_str()), (Some("42"), Some("other-name")));
}
