//! A provider with several models, and memory for one of them.

use serde_json::{Value, json};

use crate::support::network::{CREDIT, Coordinator, Provider, Surface, ask_with, endless_model, model_file};
use crate::support::process::{command, run};
use crate::support::until;

/// What one model takes with eight rows of 1,024 tokens is some 20 MiB.
const ONE: &str = "34MiB";
/// Another model than the one that ships.
const OTHER: &str = "endless";

struct Pair {
    gateway: Surface,
    provider: Provider,
    coordinator: Coordinator,
    key: String,
    folder: tempfile::TempDir,
}

fn pair(memory: &str) -> Pair {
    let folder = tempfile::tempdir().unwrap();
    let other = endless_model(folder.path());
    let coordinator = Coordinator::start(&folder.path().join("coordinator"));
    coordinator.offer_model(&model_file());
    let offered = run(command(&["catalogue", "add"])
        .arg(&other)
        .args(["--name", OTHER, "--quantisation", "Q8_0", "--input-price", "50", "--output-price", "200"])
        .args(["--coordinator", &coordinator.url])
        .env("DARKBLOOM_ADMIN_KEY", &coordinator.admin_key));
    assert!(offered.status.success(), "{offered:?}");
    let key = coordinator.account("first", CREDIT);
    let token = coordinator.key("join", None);
    let data = folder.path().join("provider");
    let provider = Provider::start_with(&coordinator, &data, Some(&token), &model_file(), &|command| {
        command.arg("--model").arg(&other).args(["--memory", memory]);
    });
    let gateway = Surface::gateway(&coordinator, &[&provider.id]);
    coordinator.eligible(1);
    Pair { gateway, provider, coordinator, key, folder }
}

impl Pair {
    /// Which of its models are in memory, by the coordinator's word.
    fn residences(&self) -> Vec<String> {
        let providers = self.coordinator.providers();
        let models = providers[0]["models"].as_array().unwrap();
        models.iter().map(|model| model["residence"].as_str().unwrap().to_owned()).collect()
    }

    #[track_caller]
    fn answers(&self, model: &str) -> Value {
        let body = ask_with("What is 17 + 25?", json!({"model": model, "max_tokens": 8}));
        let response = self.gateway.chat(&self.key, &body);
        assert_eq!(response.status, 200, "{model}: {}", response.text());
        response.json()
    }
}

#[test]
fn a_model_that_is_asked_for_is_loaded_and_takes_the_place_of_another() {
    let pair = pair(ONE);
    assert_eq!(pair.residences(), ["loaded", "stored"]);
    pair.answers("darkbloom-tiny");
    assert_eq!(pair.answers(OTHER)["usage"]["completion_tokens"], 8);
    until("they have changed places", || (pair.residences() == ["stored", "loaded"]).then_some(()));
    // Back again, while two ask at the same time.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| pair.answers("darkbloom-tiny"));
        }
    });
    until("they have changed places again", || (pair.residences() == ["loaded", "stored"]).then_some(()));
    pair.coordinator.books_close(&pair.key, CREDIT);
}

#[test]
fn models_for_which_there_is_memory_stay_beside_each_other() {
    let pair = pair("1GiB");
    pair.answers(OTHER);
    pair.answers("darkbloom-tiny");
    until("both are there", || (pair.residences() == ["loaded", "loaded"]).then_some(()));
}

#[test]
fn a_provider_without_the_memory_says_what_it_would_need() {
    let folder = tempfile::tempdir().unwrap();
    let refused = run(Provider::command("http://127.0.0.1:1", &"0".repeat(64), folder.path(), &model_file())
        .args(["--memory", "1MiB"]));
    assert!(!refused.status.success());
    let said = refused.stderr;
    assert!(said.contains("MiB of memory with 1 rows of 512 tokens, and the budget is 1 MiB"), "{said}");
    assert!(said.contains("--memory"), "{said}");
}

#[test]
fn a_model_whose_file_is_gone_refuses_its_requests_and_leaves_the_others_alone() {
    let pair = pair("1GiB");
    std::fs::remove_file(pair.folder.path().join("endless.gguf")).unwrap();
    let body = ask_with("Hi", json!({"model": OTHER, "max_tokens": 8}));
    let response = pair.gateway.chat(&pair.key, &body);
    assert_eq!(response.status, 503, "{}", response.text());
    pair.answers("darkbloom-tiny");
    assert!(!pair.provider.id.is_empty());
    pair.coordinator.books_close(&pair.key, CREDIT);
}
