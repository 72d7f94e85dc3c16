//! The dependency graph as cargo resolved it, for every platform and with the features that a build of all crates uses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::process::Command;
use std::sync::LazyLock;

use serde_json::Value;

/// Which kinds of edges are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Edges {
    /// What ends up in the program, and what runs to build it.
    Shipped,
    /// What ends up in the program.
    Linked,
}

pub struct Graph {
    /// Package id to crate name.
    names: BTreeMap<String, String>,
    /// Package id to (package id, only to build).
    edges: BTreeMap<String, Vec<(String, bool)>>,
    members: BTreeSet<String>,
}

/// Read once: cargo takes about a second.
pub static GRAPH: LazyLock<Graph> = LazyLock::new(Graph::load);

impl Graph {
    fn load() -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["metadata", "--format-version", "1", "--locked"]).current_dir(crate::root());
        let output = command.output().expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo writes JSON");
        let text = |value: &Value| value.as_str().expect("ids and names are texts").to_owned();
        let list = |value: &Value| value.as_array().expect("cargo writes a list here").clone();
        let packages = list(&metadata["packages"]);
        let names = packages.iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
        let members = list(&metadata["workspace_members"]).iter().map(text).collect();
        let mut edges = BTreeMap::new();
        for node in list(&metadata["resolve"]["nodes"]) {
            let mut to = Vec::new();
            for dependency in list(&node["deps"]) {
                let kinds = list(&dependency["dep_kinds"]);
                let is = |kind: &str| kinds.iter().any(|one| one["kind"].as_str().unwrap_or("normal") == kind);
                if is("normal") || is("build") {
                    to.push((text(&dependency["pkg"]), !is("normal")));
                }
            }
            edges.insert(text(&node["id"]), to);
        }
        Self { names, edges, members }
    }

    fn id(&self, name: &str) -> &str {
        let mut found = self.members.iter().filter(|id| self.names[*id] == name);
        found.next().unwrap_or_else(|| panic!("the workspace has no crate {name}"))
    }

    /// Our own crates.
    pub fn members(&self) -> BTreeSet<&str> {
        self.members.iter().map(|id| self.names[id].as_str()).collect()
    }

    /// Everything that a crate of ours reaches through others, with the path by which it does.
    pub fn reach(&self, from: &str, edges: Edges) -> BTreeMap<&str, String> {
        let mut found: BTreeMap<&str, String> = BTreeMap::new();
        let mut seen = BTreeSet::from([self.id(from)]);
        let mut next = VecDeque::from([(self.id(from), from.to_owned())]);
        while let Some((id, path)) = next.pop_front() {
            for (to, only_build) in &self.edges[id] {
                if (edges == Edges::Linked && *only_build) || !seen.insert(to) {
                    continue;
                }
                let name = self.names[to].as_str();
                let path = format!("{path} → {name}");
                found.entry(name).or_insert_with(|| path.clone());
                next.push_back((to, path));
            }
        }
        found
    }

    /// Fails with the path when a crate of ours reaches one of these.
    pub fn refuse(&self, from: &str, edges: Edges, banned: &[&str]) {
        let reach = self.reach(from, edges);
        let paths: Vec<_> = banned.iter().filter_map(|name| reach.get(name)).collect();
        assert!(paths.is_empty(), "{from} must not reach these: {paths:#?}");
    }
}
