//! An operator's policy: shown before it holds, holding for those who are connected, and over restarts.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::network::{Coordinator, Network, ask};
use crate::support::process::{Ended, command, run};
use crate::support::until;

fn policy(coordinator: &Coordinator, arguments: &[&str]) -> Ended {
    let mut command = command(&["policy"]);
    command.args(arguments).args(["--coordinator", &coordinator.url]);
    run(command.env("DARKBLOOM_ADMIN_KEY", &coordinator.admin_key))
}

fn written(folder: &Path, text: &str) -> PathBuf {
    let path = folder.join("policy.toml");
    std::fs::write(&path, text).unwrap();
    path
}

fn row(coordinator: &Coordinator) -> Value {
    coordinator.providers().remove(0)
}

#[test]
fn a_policy_is_seen_before_it_holds_and_then_holds() {
    let mut network = Network::start();
    let id = network.providers[0].id.clone();
    let tier = |gate: &str| format!("[tier]\ngate = \"{gate}\"\nminimum = \"hardware\"\n");
    assert!(policy(&network.coordinator, &["show"]).stdout.contains("nothing is demanded"));

    let strict = written(network.folder.path(), &tier("enforce"));
    let file = strict.to_str().unwrap();
    let checked = policy(&network.coordinator, &["check", file]);
    assert_eq!(checked.status.code(), Some(3), "{checked:?}");
    assert!(checked.stdout.contains(&format!("{id}  would lose its work: policy_tier")), "{checked:?}");
    assert!(checked.stdout.contains("1 of 1 connected providers would lose their work"), "{checked:?}");
    network.coordinator.eligible(1);
    assert_eq!(network.chat(&ask("What is 17 + 25?")).answer(), "42", "nothing has changed");

    let applied = policy(&network.coordinator, &["apply", file]);
    assert!(applied.stdout.contains("keeps 1 connected providers from work"), "{applied:?}");
    assert_eq!(row(&network.coordinator)["reason"], "policy_tier");
    network.providers[0].process.logged("less is proven about the provider than the operator's policy demands");
    assert_eq!(network.chat(&ask("What is 17 + 25?")).status, 503);
    assert!(policy(&network.coordinator, &["show"]).stdout.contains("minimum = \"hardware\""));

    // It holds for whoever comes, also after a restart.
    assert!(network.coordinator.process.stop().success());
    network.coordinator.again();
    until("the provider is back", || (!network.coordinator.providers().is_empty()).then_some(()));
    assert_eq!(row(&network.coordinator)["reason"], "policy_tier");

    let shadow = written(network.folder.path(), &tier("shadow"));
    let checked = policy(&network.coordinator, &["check", shadow.to_str().unwrap()]);
    assert!(checked.status.success(), "{checked:?}");
    assert!(checked.stdout.contains("would no longer be kept from work"), "{checked:?}");
    assert!(policy(&network.coordinator, &["apply", shadow.to_str().unwrap()]).status.success());
    network.coordinator.eligible(1);
    assert_eq!(row(&network.coordinator)["shadow"], json!(["policy_tier"]));
    assert_eq!(network.chat(&ask("What is 17 + 25?")).answer(), "42");
}

#[test]
fn what_is_no_policy_is_refused_and_the_one_before_stays() {
    let network = Network::start();
    let good = written(network.folder.path(), "[version]\ngate = \"enforce\"\nminimum = \"0.0.1\"\n");
    assert!(policy(&network.coordinator, &["apply", good.to_str().unwrap()]).status.success());
    let wrong = written(network.folder.path(), "[tier]\ngate = \"enforce\"\n");
    for action in ["check", "apply"] {
        let refused = policy(&network.coordinator, &[action, wrong.to_str().unwrap()]);
        refused.failed_saying(&["[tier]: a gate that is not off needs `minimum`"]);
    }
    policy(&network.coordinator, &["apply", "/nowhere/policy.toml"])
        .failed_saying(&["cannot read /nowhere/policy.toml"]);
    assert!(policy(&network.coordinator, &["show"]).stdout.contains("0.0.1"));
    network.coordinator.eligible(1);
}
