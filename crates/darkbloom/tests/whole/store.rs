//! A coordinator's data: backed up beside it, restored, migrated when asked; and its database on a server.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
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

fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

#[test]
fn a_server_is_believed_for_its_certificate_alone() {
    let (mut server, folder) = (Server::start(), tempfile::tempdir().unwrap());
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let certificate = pem("CERTIFICATE", cert.der());
    let port = server.start_with_tls(&certificate, &pem("PRIVATE KEY", &signing_key.serialize_der()));
    let believed = folder.path().join("believed.pem");
    std::fs::write(&believed, certificate).unwrap();
    let migrate = |host: &str, believed: Option<&Path>| {
        let mut command = command(&["store", "migrate"]);
        let url = format!("postgres://darkbloom@{host}:{port}/postgres?sslmode=require");
        command.env("DARKBLOOM_DATABASE_URL", url).env_remove("SSL_CERT_DIR").env_remove("SSL_CERT_FILE");
        if let Some(file) = believed {
            command.env("SSL_CERT_FILE", file);
        }
        run(&mut command)
    };
    migrate("localhost", None).failed_saying(&[
        "cannot use the database postgres on localhost",
        "certificate",
        "hint: ",
    ]);
    migrate("127.0.0.1", Some(&believed)).failed_saying(&["certificate"]);
    let made = migrate("localhost", Some(&believed));
    assert!(made.status.success() && made.stdout.contains("now has schema 2; it had 0"), "{made:?}");
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
