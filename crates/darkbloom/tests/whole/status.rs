//! What an owner sees of the provider on this machine.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::network::Network;
use crate::support::process::{Ended, command, run};
use crate::support::until;

fn status(data: &Path, more: &[&str]) -> Ended {
    run(command(&["status"]).arg("--data").arg(data).args(more))
}

fn shown(data: &Path) -> Value {
    let ended = status(data, &["--json"]);
    assert!(ended.status.success(), "{ended:?}");
    serde_json::from_str(&ended.stdout).unwrap()
}

#[test]
fn an_owner_sees_whether_a_provider_works_and_why_not() {
    let mut network = Network::start();
    let (data, id) = (network.providers[0].data.clone(), network.providers[0].id.clone());
    until("it is told", || (shown(&data)["told"]["eligible"] == true).then_some(()));
    let words = status(&data, &[]).stdout;
    for line in
        [&*format!("provider     {id}"), "key          software_file", "coordinator  connected to", "work         yes"]
    {
        assert!(words.contains(line), "{words}");
    }

    let policy = "[tier]\ngate = \"enforce\"\nminimum = \"hardware\"\n";
    network.coordinator.admin("PUT", "/admin/v1/policy", &json!({"policy": policy}));
    until("the reason is told", || (shown(&data)["told"]["reason"] == "policy_tier").then_some(()));
    let words = status(&data, &[]).stdout;
    assert!(words.contains("work         no (policy_tier): less is proven about the provider"), "{words}");
    assert!(words.contains("next step    move the key into the machine's TPM"), "{words}");

    network.coordinator.admin("PUT", &format!("/admin/v1/standings/{id}"), &json!({"standing": "revoked"}));
    until("it is sent away", || (shown(&data)["connected"] == false).then_some(()));
    let words = status(&data, &[]).stdout;
    assert!(words.contains("no (identity_revoked)") && words.contains("not connected to"), "{words}");

    assert!(network.providers[0].process.stop().success());
    assert_eq!(shown(&data)["running"], false);
    assert!(status(&data, &[]).stdout.contains("not running; what follows is from when it last ran"));
    status(network.folder.path(), &[]).failed_saying(&["cannot read the status", "hint: no provider has run there"]);
    std::fs::write(data.join("status.json"), "{").unwrap();
    status(&data, &[]).failed_saying(&["cannot read the status"]);
}
