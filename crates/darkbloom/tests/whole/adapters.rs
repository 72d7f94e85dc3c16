//! A model that an adapter changes is another model: it has a catalogue entry of its own, and answers otherwise.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::adapter::random_adapter;
use crate::file::Parts;
use crate::support::http::{self, bearer};
use crate::support::network::{CREDIT, Coordinator, Provider, Surface, ask_with, model_file};
use crate::support::process::{Process, command, run};

const SUM: &str = "What is 17 + 25?";
/// The name of the model with its adapter.
const CHANGED: &str = "changed";

fn write_adapter(folder: &Path) -> PathBuf {
    let path = folder.join("adapter.gguf");
    let base = Parts::read(&std::fs::read(model_file()).unwrap());
    std::fs::write(&path, random_adapter(&base, 4).write()).unwrap();
    path
}

fn scaled(adapter: &Path, scale: &str) -> String {
    format!("{}={scale}", adapter.display())
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[test]
fn a_model_with_an_adapter_is_served_under_its_own_entry_and_answers_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = write_adapter(folder.path());
    let coordinator = Coordinator::start(&folder.path().join("coordinator"));
    coordinator.offer_model(&model_file());
    let offered = run(command(&["catalogue", "add"])
        .arg(model_file())
        .args(["--adapter", &scaled(&adapter, "8")])
        .args(["--name", CHANGED, "--quantisation", "Q8_0", "--input-price", "50", "--output-price", "200"])
        .args(["--coordinator", &coordinator.url])
        .env("DARKBLOOM_ADMIN_KEY", &coordinator.admin_key));
    assert!(offered.status.success(), "{offered:?}");
    let key = coordinator.account("first", CREDIT);
    let start = |name: &str, scale: Option<&str>| {
        let token = coordinator.key("join", None);
        Provider::start_with(&coordinator, &folder.path().join(name), Some(&token), &model_file(), &|command| {
            command.args(scale.map(|scale| ["--adapter".to_owned(), scaled(&adapter, scale)]).into_iter().flatten());
        })
    };
    let bare = start("bare", None);
    let changed = start("changed", Some("8"));
    coordinator.eligible(2);
    let gateway = Surface::gateway(&coordinator, &[&bare.id, &changed.id]);
    let ask = |model: &str| {
        let response = gateway.chat(&key, &ask_with(SUM, json!({"model": model, "max_tokens": 12})));
        assert_eq!(response.status, 200, "{model}: {}", response.text());
        response.json()
    };
    let (plain, other) = (ask("darkbloom-tiny"), ask(CHANGED));
    assert!(content(&plain).contains("42"), "{plain}");
    assert_ne!(content(&plain), content(&other));
    assert_eq!(content(&other), content(&ask(CHANGED)), "always the same");
    // Each provider serves its own entry.
    let served = |id: &str| {
        let providers = coordinator.providers();
        let provider = providers.iter().find(|provider| provider["provider"] == id).unwrap();
        provider["models"].as_array().unwrap().len()
    };
    assert_eq!((served(&bare.id), served(&changed.id)), (1, 1));
    // Another amount of the adapter is nothing that the catalogue has.
    let foreign = start("foreign", Some("4"));
    let gateway = Surface::gateway(&coordinator, &[&foreign.id]);
    let refused = gateway.chat(&key, &ask_with(SUM, json!({"model": CHANGED, "max_tokens": 4})));
    assert_eq!(refused.status, 503, "{}", refused.text());
    coordinator.books_close(&key, CREDIT);
}

#[test]
fn a_local_model_is_changed_by_its_adapter_from_the_command_line_or_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = write_adapter(folder.path());
    let answer = |name: &str, change: &dyn Fn(&mut std::process::Command)| {
        let mut command = command(&["start", "--foreground", "--local", "--port", "0", "--threads", "1"]);
        command.arg("--data").arg(folder.path().join(name)).arg("--model").arg(model_file());
        change(&mut command);
        let (_process, ready) = Process::role(&mut command).unwrap();
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        let body = ask_with(SUM, json!({"model": "darkbloom-tiny-q8_0", "max_tokens": 12})).to_string();
        let headers = [("authorization", &*bearer(&text("key"))), ("content-type", "application/json")];
        let said = http::request(&text("address"), "POST", "/v1/chat/completions", &headers, body.as_bytes());
        content(&said.json()).to_owned()
    };
    let flag = |scale: &'static str| {
        let adapter = scaled(&adapter, scale);
        answer(&format!("flag {scale}"), &move |command| {
            command.args(["--adapter", &adapter]);
        })
    };
    let bare = answer("bare", &|_| {});
    let changed = flag("8");
    assert_ne!(bare, changed);
    assert_eq!(flag("0"), bare, "nothing of it is added");
    let file = folder.path().join("darkbloom.toml");
    std::fs::write(&file, format!("[provider]\nadapters = [\"{}\"]\n", scaled(&adapter, "8"))).unwrap();
    assert_eq!(
        answer("file", &|command| {
            command.env("DARKBLOOM_CONFIG", &file);
        }),
        changed
    );
}

#[test]
fn adapters_that_do_not_fit_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = write_adapter(folder.path());
    let refused = |more: &[&Path]| {
        let mut command = command(&["start", "--foreground", "--local", "--port", "0"]);
        command.arg("--data").arg(folder.path().join("data")).arg("--model").arg(model_file()).args(more);
        let ended = run(&mut command);
        assert!(!ended.status.success());
        ended.stderr
    };
    let flag = Path::new("--adapter");
    let several = refused(&[flag, &adapter, Path::new("--model"), &model_file()]);
    assert!(several.contains("`--adapter` changes one model, and 2 are given"), "{several}");
    let model = refused(&[flag, &model_file()]);
    assert!(model.contains("it is not a LoRA adapter") && model.contains("FILE=SCALE"), "{model}");
    let missing = refused(&[flag, Path::new("no/such=0.5")]);
    assert!(missing.contains("cannot read the adapter file no/such:"), "{missing}");
}
