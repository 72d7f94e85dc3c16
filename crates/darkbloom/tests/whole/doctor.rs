//! What this machine offers to models, in words and as JSON.

use serde_json::Value;

use crate::support::network::{Provider, model_file};
use crate::support::process::{command, run};

#[test]
fn doctor_names_the_processor_and_its_working_set() {
    let shown = run(&mut command(&["doctor"]));
    assert!(shown.status.success(), "{shown:?}");
    for words in [
        "hardening    own_libraries, no_core, not_dumpable, ",
        "secret_pages",
        "no_new_privileges, files, network, system_calls",
        "machine ",
        " MiB of memory free; models get ",
        "processor ",
        "device       CPU (",
        "): working set ",
    ] {
        assert!(shown.stdout.contains(words), "{words}: {}", shown.stdout);
    }
    let json = run(&mut command(&["doctor", "--json"]));
    let facts: Value = serde_json::from_str(&json.stdout).unwrap();
    assert!(facts["cores"].as_u64().unwrap() > 0 && facts["free_bytes"].as_u64().unwrap() > 0);
    // Not every kernel has secret pages, and one that has none is told so.
    let (active, missing) = (&facts["hardening"]["active"], facts["hardening"]["missing"].as_array().unwrap());
    assert_eq!(active.as_array().unwrap().len() + missing.len(), 8, "{}", facts["hardening"]);
    let pages =
        |missing: &Value| missing["measure"] == "secret_pages" && missing["why"].to_string().contains("ordinary");
    assert!(missing.iter().all(pages), "{}", facts["hardening"]);
    assert!(facts["model_budget_bytes"].as_u64().unwrap() < facts["free_bytes"].as_u64().unwrap());
    let devices = facts["devices"].as_array().unwrap();
    assert!(devices.iter().any(|device| device["accelerator"] == false && device["total_bytes"].as_u64() > Some(0)));
}

#[test]
fn doctor_says_what_evidence_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let (config, log, tsm) = (folder.path().join("config"), folder.path().join("log"), folder.path().join("tsm"));
    std::fs::write(&config, format!("[provider]\ntpm_log = {log:?}\ntsm = {tsm:?}\n")).unwrap();
    let doctor = |more: &[&str]| run(command(&["--config"]).arg(&config).arg("doctor").args(more));
    let none = doctor(&[]);
    assert!(
        none.stdout.contains("no log of what was booted") && none.stdout.contains("encrypted machine: none"),
        "{none:?}"
    );
    // A log in which nothing stands yet, and a folder where the kernel would make reports.
    let specification = [&b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02"[..], &[1, 0, 0, 0, 0x0b, 0, 32, 0, 0]].concat();
    let header = [&[0; 4][..], &[3, 0, 0, 0], &[0; 20], &(specification.len() as u32).to_le_bytes()].concat();
    std::fs::write(&log, [header, specification].concat()).unwrap();
    std::fs::create_dir(&tsm).unwrap();
    let shown = doctor(&["--json"]);
    let facts: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(facts["evidence"], serde_json::json!({"boot_log_entries": 0, "encrypted_machine": true}));
    assert!(std::fs::read_dir(&tsm).unwrap().next().is_none(), "nothing was asked");
}

#[test]
fn an_accelerator_that_cannot_be_had_is_refused_before_anything_else() {
    let folder = tempfile::tempdir().unwrap();
    let start = |more: &[&str]| {
        let mut command = Provider::command("http://127.0.0.1:1", &"0".repeat(64), folder.path(), &model_file());
        run(command.args(more))
    };
    let exact = start(&["--accelerator", "required"]);
    assert!(exact.said().contains("no accelerator promises the same bits"), "{exact:?}");
    assert!(exact.said().contains("--fast"), "{exact:?}");
    let unknown = start(&["--accelerator", "gpu"]);
    assert!(unknown.stderr.contains("`gpu` is none of `required`, `preferred` and `cpu`"), "{unknown:?}");
}
