//! `darkbloom models` from outside: a hub on this machine, a coordinator with a catalogue, and a provider that holds its file.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::hub::{Fault, TestHub, sibling};
use crate::support::network::{Coordinator, MODEL, Provider, model_file};
use crate::support::process::{Ended, Process, command, run};

const TOKEN: &str = "hf_planted-token";

/// A user's home with nothing in it, and a hub with the model that ships.
struct Home {
    hub: TestHub,
    folder: TempDir,
}

impl Home {
    fn new() -> Self {
        let hub = TestHub::start();
        hub.put("q8/tiny.gguf", fs::read(model_file()).unwrap());
        Self { hub, folder: tempfile::tempdir().unwrap() }
    }

    fn models(&self) -> std::path::PathBuf {
        self.folder.path().join("data/darkbloom/models")
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = command(&["models"]);
        for name in ["HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"] {
            command.env_remove(name);
        }
        command.args(arguments).env("HOME", self.folder.path()).env("XDG_DATA_HOME", self.folder.path().join("data"));
        command.env("HF_ENDPOINT", &self.hub.endpoint).env("HF_TOKEN", TOKEN);
        command
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        let ended = run(&mut self.command(arguments));
        assert!(!ended.stdout.contains(TOKEN) && !ended.stderr.contains(TOKEN), "the token is shown");
        ended
    }

    #[track_caller]
    fn succeed(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments);
        assert!(ended.status.success(), "{ended:?}");
        ended.stdout
    }

    /// What a command prints with `--json`.
    #[track_caller]
    fn objects(&self, arguments: &[&str]) -> Vec<Value> {
        let out = self.succeed(&[arguments, &["--json"]].concat());
        out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_model_is_downloaded_listed_and_removed() {
    let home = Home::new();
    assert!(home.succeed(&["list"]).contains("no models were found"));
    let out = home.succeed(&["download", "lab/model"]);
    let path = home.models().join("lab/model/q8/tiny.gguf");
    assert!(out.contains(&format!("start --foreground --model {}", path.display())), "{out}");
    assert!(fs::read(&path).unwrap() == fs::read(model_file()).unwrap());
    assert!(home.succeed(&["download", "lab/model"]).contains("is there"));

    let listed = home.objects(&["list"]);
    let [model] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(
        (&model["name"], &model["place"], &model["loadable"]),
        (&json!("lab/model/q8/tiny.gguf"), &json!("own"), &json!(true))
    );
    assert_eq!((&model["quantisation"], &model["context"]), (&json!("Q8_0"), &json!(1_024)));
    let shown = home.succeed(&["list"]);
    assert!(
        shown.contains("qwen3, Q8_0, ") && shown.contains("context 1024, 2.5 MiB, in the models folder"),
        "{shown}"
    );

    home.run(&["remove", "lab/other"]).failed_saying(&["has no model `lab/other`", "hint: `darkbloom models list`"]);
    home.run(&["remove", "../../x"]).failed_saying(&["is not the name of a model here", "hint: "]);
    assert!(home.succeed(&["remove", "lab/model/q8/tiny.gguf"]).contains("2.5 MiB freed"));
    assert!(home.objects(&["list"]).is_empty() && fs::read_dir(home.models()).unwrap().next().is_none());
}

#[test]
fn a_download_that_was_killed_goes_on_where_it_ended() {
    let home = Home::new();
    home.hub.misbehave([Fault::StallAfter(2_200_000)]);
    let mut killed = Process::start(&mut home.command(&["download", "lab/model", "--json"]));
    let first: Value = serde_json::from_str(&killed.line().unwrap()).unwrap();
    assert_eq!((&first["event"], &first["of"]), (&json!("progress"), &json!(2_623_680)));
    killed.kill();
    let events = home.objects(&["download", "lab/model"]);
    let resumed = events[0]["bytes"].as_u64().unwrap();
    assert!(events[0]["event"] == "resumed" && resumed >= 1 << 20, "{events:?}");
    let asked = home.hub.asked_for_files();
    assert_eq!(asked[1].header("range").map(str::to_owned), Some(format!("bytes={resumed}-")));
    assert_eq!(asked[1].header("authorization").map(str::to_owned), Some(format!("Bearer {TOKEN}")));
    let done = events.last().unwrap();
    assert_eq!((&done["event"], &done["already"]), (&json!("done"), &json!(false)));
    assert!(fs::read(done["path"].as_str().unwrap()).unwrap() == fs::read(model_file()).unwrap());
}

#[test]
fn the_catalogue_chooses_the_file_and_a_running_provider_keeps_it() {
    let home = Home::new();
    home.hub.put("other.gguf", b"another".to_vec());
    let coordinator = Coordinator::start(&home.folder.path().join("coordinator"));
    coordinator.offer_model(&model_file());
    let of = ["--coordinator", &*coordinator.url];
    let catalog = |more: &[&str]| home.objects(&[&["catalog"], &of[..], more].concat()).remove(0);
    let before = catalog(&[]);
    assert_eq!((&before["name"], &before["maybe"], &before["served_by"]), (&json!(MODEL), &json!([]), &json!([])));
    assert_eq!(before["price"]["input_nano_per_token"], 50);
    let pin = home.folder.path().join("data/darkbloom/provider/coordinator.pin");
    assert_eq!(fs::read_to_string(pin).unwrap().trim(), coordinator.pin, "it is pinned as the provider pins it");

    home.run(&[&["download", "lab/model", "--for", "unknown"], &of[..]].concat())
        .failed_saying(&["offers no model `unknown`", "hint: `darkbloom models catalog`"]);
    let done = home.objects(&[&["download", "lab/model", "--for", MODEL], &of[..]].concat());
    let path = done.last().unwrap()["path"].clone();
    assert_eq!(done.last().unwrap()["weights"], before["weights"]);
    assert_eq!(catalog(&[])["maybe"], json!([path]), "without hashing it is not certain");
    let certain = catalog(&["--hash"]);
    assert_eq!((&certain["served_by"], &certain["maybe"]), (&json!([path]), &json!([])));
    home.run(&[&["download", "lab/model", "--for", MODEL, "--file", "other.gguf"], &of[..]].concat())
        .failed_saying(&["weights root", "hint: "]);

    let token = coordinator.key("join", None);
    let model = path.as_str().unwrap();
    let provider = Provider::start(&coordinator, &home.folder.path().join("provider"), Some(&token), Path::new(model));
    home.run(&["remove", "lab/model"]).failed_saying(&["is in use by a running provider", "hint: stop the provider"]);
    assert!(Path::new(model).exists());
    drop(provider);
    home.succeed(&["remove", "lab/model"]);
}

#[test]
fn what_the_hub_has_not_or_has_twice_is_said_with_what_to_do() {
    let home = Home::new();
    home.hub.put("b.gguf", b"another".to_vec());
    let several = home.run(&["download", "lab/model"]);
    several.failed_saying(&["several GGUF files", "--file b.gguf", "--file q8/tiny.gguf"]);
    home.run(&["download", "lab/model", "--file", "c.gguf"]).failed_saying(&["no file `c.gguf`"]);
    home.run(&["download", "model"]).failed_saying(&["OWNER/NAME"]);
    home.hub.misbehave_listing([Fault::Status(401, None)]);
    home.run(&["download", "lab/model"]).failed_saying(&["HTTP 401", "HF_TOKEN"]);
    home.run(&["download", "lab/model", "--endpoint", "http://example.org"])
        .failed_saying(&["https", "hint: give it as `--endpoint"]);
    home.hub.list(json!([sibling("../\u{1b}[2Jevil.gguf", b"x")]));
    let hostile = home.run(&["download", "lab/model"]);
    hostile.failed_saying(&["is refused"]);
    assert!(!hostile.said().contains('\u{1b}'));
    assert!(!home.models().exists(), "nothing was created");
}

#[test]
fn a_cache_and_other_folders_are_listed_and_left_alone() {
    let home = Home::new();
    let snapshot = home.folder.path().join(".cache/huggingface/hub/models--lab--cached/snapshots/abc");
    let blobs = snapshot.parent().unwrap().parent().unwrap().join("blobs");
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(&blobs).unwrap();
    fs::copy(model_file(), blobs.join("digest")).unwrap();
    std::os::unix::fs::symlink("../../blobs/digest", snapshot.join("m.gguf")).unwrap();
    let other = home.folder.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("cut\u{1b}[2J.gguf"), &fs::read(model_file()).unwrap()[..90_000]).unwrap();
    let shown = home.succeed(&["list", "--folder", text(&other)]);
    assert!(shown.contains("lab/cached/m.gguf") && shown.contains("in the Hugging Face cache"), "{shown}");
    assert!(shown.contains("cannot be loaded: the model file cannot be used: the file is cut short"), "{shown}");
    assert!(!shown.contains('\u{1b}'));
    let settings = home.folder.path().join("settings.toml");
    fs::write(&settings, format!("[provider]\nmodels = \"/nonexistent\"\nmodel_folders = [{other:?}]\n")).unwrap();
    assert_eq!(home.objects(&["list", "--config", text(&settings)]).len(), 2);
    home.run(&["remove", "lab/cached"])
        .failed_saying(&["has no model", "hint: it is in the Hugging Face cache; `hf cache rm model/lab/cached`"]);
    assert!(snapshot.join("m.gguf").exists());
}
