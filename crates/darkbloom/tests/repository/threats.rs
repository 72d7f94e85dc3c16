//! The register of threats: that its tests exist, that every attack is in it, and the page that is made from it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Deserialize;

use crate::{check_page, files, read, root};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Register {
    threat: Vec<Threat>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Threat {
    /// A letter for the boundary, and a number.
    id: String,
    /// Between whom.
    boundary: String,
    actor: String,
    attack: String,
    mitigation: String,
    status: Status,
    /// What is not defended nevertheless.
    #[serde(default)]
    remains: String,
    #[serde(default)]
    tests: Vec<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Status {
    Defended,
    Partly,
    NotDefended,
}

impl Status {
    fn words(self) -> &'static str {
        match self {
            Self::Defended => "defended",
            Self::Partly => "partly defended",
            Self::NotDefended => "**not defended**",
        }
    }
}

fn register() -> Register {
    toml::from_str(&read("docs/threats.toml")).unwrap_or_else(|error| panic!("docs/threats.toml: {error}"))
}

/// The names of all tests: functions under `#[test]` or `#[tokio::test]`, and attacks of the suite. Each of the latter names the
/// check that stops it; what is not of the suite is called no attack.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in files(&root().join("crates"), "rs") {
        let source = read(&path);
        let mut is_test = false;
        for line in source.lines().map(str::trim_start) {
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            let function = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
            if let Some(function) = function
                && std::mem::take(&mut is_test)
            {
                let name = function.split(['(', '<']).next().unwrap();
                assert!(!name.starts_with("attack_"), "`{name}` is against no check that could be switched off");
                names.insert(name.to_owned());
            }
            if let Some((attack, _)) = line.split_once(" against \"") {
                names.insert(attack.to_owned());
            }
        }
    }
    names
}

#[test]
fn every_test_that_the_register_names_exists_and_every_attack_is_in_it() {
    let (register, tests) = (register(), tests());
    assert!(tests.len() > 500, "tests are found");
    let mut ids = BTreeSet::new();
    let mut named = BTreeSet::new();
    for threat in &register.threat {
        assert!(ids.insert(&threat.id), "{} is there twice", threat.id);
        for test in &threat.tests {
            assert!(tests.contains(test), "{}: there is no test `{test}`", threat.id);
            named.insert(test);
        }
        assert_eq!(threat.tests.is_empty(), threat.status == Status::NotDefended, "{}", threat.id);
        assert!(threat.status != Status::Partly || !threat.remains.is_empty(), "{}: say what remains", threat.id);
    }
    let unnamed: Vec<_> = tests.iter().filter(|test| test.starts_with("attack_") && !named.contains(test)).collect();
    assert!(unnamed.is_empty(), "attacks that no threat names: {unnamed:?}");
    let attacks = tests.iter().filter(|test| test.starts_with("attack_")).count();
    assert!(attacks >= 30, "{attacks} attacks");
}

#[test]
fn the_threat_model_is_current() {
    let register = register();
    let mut page = "# Threat model\n\n<!-- Made from docs/threats.toml by `./x pages`; do not edit. -->\n\n".to_owned();
    page.push_str(
        "Who could do what, what stands in the way, and what does not. Tests whose names begin with `attack_` carry the \
         attack out; those of `darkbloom-attacks` are also made against a build in which the check that stops them is \
         switched off, where they must succeed.\n\n## Not defended\n\n",
    );
    for threat in &register.threat {
        let what = if threat.status == Status::NotDefended { &threat.mitigation } else { &threat.remains };
        if !what.is_empty() {
            writeln!(page, "- **{}** {} {}: {what}.", threat.id, sentence(&threat.actor), threat.attack).unwrap();
        }
    }
    let mut boundaries: Vec<&str> = Vec::new();
    for threat in &register.threat {
        if !boundaries.contains(&&*threat.boundary) {
            boundaries.push(&threat.boundary);
        }
    }
    for boundary in boundaries {
        writeln!(page, "\n## {}", sentence(boundary)).unwrap();
        for threat in register.threat.iter().filter(|threat| threat.boundary == boundary) {
            describe(&mut page, threat);
        }
    }
    check_page("docs/threat-model.md", &page);
}

fn describe(page: &mut String, threat: &Threat) {
    let (actor, status) = (sentence(&threat.actor), threat.status.words());
    writeln!(page, "\n### {}: {status}\n\n{actor} {}.\n", threat.id, threat.attack).unwrap();
    writeln!(page, "{}.", sentence(&threat.mitigation)).unwrap();
    if !threat.remains.is_empty() {
        writeln!(page, "\nWhat remains: {}.", threat.remains).unwrap();
    }
    if !threat.tests.is_empty() {
        let tests: Vec<_> = threat.tests.iter().map(|test| format!("`{test}`")).collect();
        writeln!(page, "\nTests: {}.", tests.join(", ")).unwrap();
    }
}

/// With a capital at its beginning.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}
