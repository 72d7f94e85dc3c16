//! The configuration page: its examples are read by the program, and it names every key.

use std::collections::BTreeSet;
use std::process::{Command, Output};

use crate::read;

const PAGE: &str = "docs/configuration.md";
const TABLES: [&str; 4] = ["coordinator", "gateway", "proxy", "provider"];

/// Runs a command that reads the file first and then ends at once.
fn run_with(text: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("darkbloom.toml");
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_darkbloom"));
    command.arg("--config").arg(&file).args(["keys", "list"]).env_clear().output().unwrap()
}

fn error_of(text: &str) -> String {
    String::from_utf8(run_with(text).stderr).unwrap()
}

/// The keys of a table, as the program lists them when it meets one that it does not know.
fn keys(table: &str) -> BTreeSet<String> {
    let error = error_of(&format!("[{table}]\nunheard_of = 1\n"));
    let (_, list) = error.split_once("expected ").unwrap_or_else(|| panic!("no list of keys in: {error}"));
    let list = list.lines().next().unwrap_or_default();
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn the_examples_are_valid() {
    let page = read(PAGE);
    let examples: Vec<_> = page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!examples.is_empty());
    for example in examples {
        let error = error_of(example);
        assert!(
            error.contains("no administrator's key is given"),
            "the program does not take this example: {error}\n{example}"
        );
    }
}

#[test]
fn every_key_is_described() {
    let page = read(PAGE);
    for table in TABLES {
        let (_, section) =
            page.split_once(&format!("## `[{table}]`")).unwrap_or_else(|| panic!("no section on {table}"));
        let section = section.split("\n## ").next().unwrap_or_default();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        let described: BTreeSet<String> = rows.map(str::to_owned).collect();
        assert_eq!(described, keys(table), "the keys of [{table}] in {PAGE} and in the program differ");
    }
}
