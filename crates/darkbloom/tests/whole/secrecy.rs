//! A marker goes through the whole network, and is looked for everywhere.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use serde_json::json;

use crate::failure::rest;
use crate::support::network::{Network, Surface, ask_with};

/// What the model can repeat, and what stands nowhere in the program.
const MARKER: &str = "violet anchor meadow";

fn contains(bytes: &[u8], marker: &[u8]) -> bool {
    bytes.windows(marker.len()).any(|window| window == marker)
}

/// Whether a marker stands in a process's readable memory.
fn in_memory(pid: u32, marker: &[u8]) -> bool {
    const BLOCK: usize = 1 << 20;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).expect("a parent may read its children's memory");
    let mut scanned = 0;
    for line in maps.lines() {
        let mut columns = line.split_whitespace();
        let (range, rights) = (columns.next().unwrap(), columns.next().unwrap());
        // The kernel's own pages at the end of the address space cannot be read.
        if !rights.starts_with('r') || line.ends_with("[vvar]") || line.ends_with("[vsyscall]") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let (mut at, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut block = vec![0; BLOCK];
        while at < to {
            let length = BLOCK.min(usize::try_from(to - at).unwrap());
            // A page of a mapped file beyond its end reads as an error.
            let Ok(read) = memory.read_at(&mut block[..length], at) else { break };
            scanned += read;
            if contains(&block[..read], marker) {
                return true;
            }
            // Neighbouring blocks overlap, so that no marker is cut in two.
            at += if read < length || at + read as u64 >= to { read } else { read - marker.len() } as u64;
            if read == 0 {
                break;
            }
        }
    }
    assert!(scanned > 1 << 20, "only {scanned} bytes could be read");
    false
}

/// The files below a folder that hold a marker.
fn in_files(folder: &Path, marker: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(in_files(&path, marker));
        } else if contains(&std::fs::read(&path).unwrap(), marker) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[test]
fn nothing_of_a_prompt_or_an_answer_is_left_or_seen_where_it_must_not_be() {
    let network = Network::endless(1);
    let proxy = Surface::proxy(&network.coordinator, &network.ids(), &network.key);
    let marker = MARKER.as_bytes();
    let coordinator = network.coordinator.process.pid();
    let more = json!({"stream": true, "max_tokens": 900});

    let mut reading = proxy.open_chat("any", &ask_with(&format!("Repeat: {MARKER}"), more)).unwrap();
    let mut before = Vec::new();
    while !streamed(&before).contains(MARKER) {
        before.extend(reading.chunk().unwrap().expect("the model repeats the marker"));
    }
    // In the middle of the answer everything stands still.
    network.providers[0].process.pause();
    assert!(in_memory(proxy.process.pid(), marker), "the search can find: the consumer's own proxy has it");
    assert!(!in_memory(coordinator, marker), "the coordinator sees plaintext");
    assert!(in_memory(coordinator, network.coordinator.pin.as_bytes()) || in_memory(coordinator, b"darkbloom"));
    network.providers[0].process.resume();
    let answer = rest(reading, before);
    assert!(answer.streamed().contains(MARKER));
    assert!(!in_memory(coordinator, marker), "the coordinator saw plaintext");

    // Errors and hang-ups go other ways through the program than answers.
    let long = ask_with(&format!("Repeat: {MARKER} ").repeat(200), json!({}));
    assert_eq!(proxy.chat("any", &long).status, 400);
    let refused = ask_with(&format!("Repeat: {MARKER}"), json!({"temperature": 9}));
    assert_eq!(proxy.chat("any", &refused).status, 400);
    let gone = ask_with(&format!("Repeat: {MARKER}"), json!({"stream": true, "max_tokens": 900}));
    let mut reading = network.gateway.open_chat(&network.key, &gone).unwrap();
    reading.chunk().unwrap();
    drop(reading);
    network.books_close();

    let (folder, admin) = (network.folder.path(), network.coordinator.admin_key.clone());
    let own = |path: &String| path.ends_with("endless.gguf");
    let logs = [
        ("coordinator", network.coordinator.process.log() + &network.coordinator.process.stdout()),
        ("gateway", network.gateway.process.log() + &network.gateway.process.stdout()),
        ("proxy", proxy.process.log() + &proxy.process.stdout()),
        ("provider", network.providers[0].process.log() + &network.providers[0].process.stdout()),
    ];
    let word = MARKER.split(' ').next().unwrap();
    for (role, log) in &logs {
        assert!(log.contains("TRACE") || log.contains("INFO") || *role != "coordinator", "{role} logs: {log}");
        assert!(!log.contains(word), "the {role}'s log has content");
        assert!(!log.contains(&network.key), "the {role}'s log has a key");
    }
    assert!(!in_memory(coordinator, marker));
    let written = in_files(folder, word.as_bytes());
    assert!(written.iter().all(own), "content was written: {written:?}");
    for secret in [&network.key, &admin] {
        assert_eq!(in_files(folder, secret.as_bytes()), Vec::<String>::new(), "a key was written in clear");
    }
    assert_ne!(in_files(folder, b"SQLite format 3"), Vec::<String>::new(), "the search can find");
}

/// The content of what was read of a stream so far.
fn streamed(read: &[u8]) -> String {
    let text = String::from_utf8_lossy(read);
    let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    events
        .filter_map(|event| {
            let chunk: serde_json::Value = serde_json::from_str(event).ok()?;
            chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
        })
        .collect()
}
