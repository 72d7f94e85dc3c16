//! A coordinator's data: backed up beside it, restored, migrated when asked; and its database on a server.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::server::Server;
use crate::support::network::Coordinator;
use crate::support::process::{Ended, command, run};

fn store(arguments: &[&str], place: &str, at: &Path) -> Ended {
    run(command(&["store"]).args(arguments).arg(place).arg(at))
}

fn accounts(coordinator: &Coordinator, arguments: &[&str]) -> String {
    let mut command = command(&["accounts"]);
    command.args(arguments).args(["--coordinator", &coordinator.url]);
    let ended = run(command.env("DARKBLOOM_ADMIN_KEY", &coordinator.admin_key));
    assert!(ended.status.success(), "{ended:?}");
    ended.stdout
}

#[test]
fn a_backup_made_while_the_coordinator_runs_becomes_the_same_network() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (data, backup, restored) = (path("data"), path("backup"), path("restored"));
    let mut coordinator = Coordinator::start(&data);
    accounts(&coordinator, &["create", "alice"]);
    accounts(&coordinator, &["credit", "alice", "1.50", "--reference", "r"]);
    let to = backup.to_str().unwrap();
    let made = store(&["backup", "--to", to], "--data", &data);
    assert!(made.status.success(), "{made:?}");
    store(&["backup", "--to", to], "--data", &data).failed_saying(&["is not empty", "hint: "]);
    let audited = store(&["audit"], "--data", &data);
    assert!(audited.status.success() && audited.stdout.contains("the books balance"), "{audited:?}");
    store(&["migrate"], "--data", &data).failed_saying(&["another process uses", "hint: "]);
    let before = accounts(&coordinator, &["list"]);
    assert!(coordinator.process.stop().success());

    let back = store(&["restore", "--from", to], "--data", &restored);
    assert!(back.status.success() && back.stdout.contains("the books balance"), "{back:?}");
    store(&["restore", "--from", to], "--data", &restored).failed_saying(&["is not empty", "hint: "]);
    coordinator.data = restored;
    coordinator.again();
    assert_eq!(accounts(&coordinator, &["list"]), before);
    let newest = {
        assert!(coordinator.process.stop().success());
        store(&["migrate"], "--data", &coordinator.data)
    };
    assert!(newest.status.success() && newest.stdout.contains("nothing was done"), "{newest:?}");
}

#[test]
fn a_coordinators_database_may_be_on_a_server() {
    let (server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let url: PathBuf = folder.path().join("url");
    std::fs::write(&url, format!("{}\n", server.url("public"))).unwrap();
    let with_database = |command: &mut std::process::Command| {
        command.arg("--database-url-file").arg(&url);
    };
    let data = folder.path().join("data");
    let (mut coordinator, ready) = Coordinator::start_changed(&data, &with_database);
    accounts(&coordinator, &["create", "alice"]);
    accounts(&coordinator, &["credit", "alice", "1.50", "--reference", "r"]);
    let before = accounts(&coordinator, &["list"]);
    assert!(!data.join("darkbloom.sqlite").exists());

    let other = folder.path().join("other");
    let second = |variable: Option<String>| {
        let mut command = command(&["coordinator", "--listen", "127.0.0.1:0"]);
        command.arg("--data").arg(&other);
        if let Some(url) = variable {
            command.env("DARKBLOOM_DATABASE_URL", url);
        } else {
            with_database(&mut command);
        }
        run(&mut command)
    };
    second(None).failed_saying(&["another process uses the database postgres", "hint: another coordinator"]);
    second(Some(server.url("public"))).failed_saying(&["another process uses the database postgres"]);
    let refused = second(Some("postgres://u:s3cret@db.example/d?sslmode=disable".to_owned()));
    refused.failed_saying(&["DARKBLOOM_DATABASE_URL", "in the clear", "hint: "]);
    assert!(!format!("{refused:?}").contains("s3cret"));

    let audited = store(&["audit"], "--database-url-file", &url);
    assert!(audited.status.success() && audited.stdout.contains("the books balance"), "{audited:?}");
    let backup = store(&["backup", "--to", "anywhere"], "--database-url-file", &url);
    backup.failed_saying(&["its backups", "pg_dump --format=custom", "--username=darkbloom"]);

    assert!(coordinator.process.stop().success());
    let (again, ready_again) = {
        let mut command = command(&["coordinator", "--listen", &coordinator.address]);
        command.arg("--data").arg(&data);
        with_database(&mut command);
        crate::support::process::Process::role(&mut command).unwrap()
    };
    assert_eq!((&ready_again["network"], &ready_again["admin_key"]), (&ready["network"], &Value::Null));
    coordinator.process = again;
    assert_eq!(accounts(&coordinator, &["list"]), before);
}
