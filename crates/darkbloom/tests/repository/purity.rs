//! That pure crates get time, bytes and randomness as arguments: their own sources name no way to them in the standard
//! library. What other crates would give them is in `arrows`.

use crate::arrows::PURE;
use crate::sources::code;
use crate::{files, root};

/// Modules of the standard library that reach files, sockets, threads, processes, and arguments or variables of ours.
const IMPURE_MODULES: [&str; 6] = ["fs", "net", "thread", "process", "env", "os"];
/// Calls that look at a clock.
const CLOCKS: [&str; 3] = ["Instant::now", "SystemTime::now", ".elapsed("];

/// What is impure in this source, apart from what only tests have.
fn impure(source: &str) -> Vec<String> {
    let code = without_tests(&code(source));
    let mut found: Vec<_> = CLOCKS.iter().filter(|call| code.contains(**call)).map(ToString::to_string).collect();
    for (at, _) in code.match_indices("std::") {
        let is_part = code[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_');
        let rest = &code[at + "std::".len()..];
        let names = if is_part { Vec::new() } else { first_names(rest) };
        found.extend(names.iter().filter(|name| IMPURE_MODULES.contains(name)).map(|name| format!("std::{name}")));
    }
    found
}

/// The names that can follow a path: one, or those of a group, each without what is behind it.
fn first_names(rest: &str) -> Vec<&str> {
    let name = |text: &'_ str| -> usize {
        text.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(text.len())
    };
    let Some(group) = rest.strip_prefix('{') else { return vec![&rest[..name(rest)]] };
    let (mut names, mut depth, mut begins) = (Vec::new(), 0, true);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            _ if begins && !letter.is_whitespace() => {
                names.push(&group[at..at + name(&group[at..])]);
                begins = false;
            }
            _ => {}
        }
    }
    names
}

/// Leaves out items that are compiled for tests alone. Braces as characters would not count as such.
fn without_tests(code: &str) -> String {
    let code = code.replace("'{'", "").replace("'}'", "");
    let (mut kept, mut rest) = (String::new(), &*code);
    while let Some((before, behind)) = rest.split_once("#[cfg(test)]") {
        kept.push_str(before);
        let (mut depth, mut end) = (0_usize, behind.len());
        for (at, letter) in behind.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 && matches!(letter, '}' | ';') {
                end = at + 1;
                break;
            }
        }
        rest = &behind[end..];
    }
    kept + rest
}

#[test]
fn pure_crates_name_no_file_socket_thread_process_or_clock_of_the_standard_library() {
    let mut sources = 0;
    for name in PURE {
        let folder = root().join("crates").join(name).join("src");
        for file in files(&folder, "rs") {
            // Modules of tests lie in files of this name, or in folders.
            if file.strip_prefix(&folder).unwrap().iter().any(|part| part == "tests" || part == "tests.rs") {
                continue;
            }
            sources += 1;
            let found = impure(&std::fs::read_to_string(&file).unwrap());
            assert!(found.is_empty(), "{} is of a pure crate and has {found:?}", file.display());
        }
    }
    assert!(sources > PURE.len(), "the sources are really read");
}

#[test]
fn what_is_impure_is_found_in_every_spelling_and_not_in_tests_or_texts() {
    for (source, names) in [
        ("use std::fs;", vec!["std::fs"]),
        ("use std::{collections::BTreeMap, fs::File, net};", vec!["std::fs", "std::net"]),
        ("use std::{\n    collections::{BTreeMap, HashMap},\n    thread,\n};", vec!["std::thread"]),
        ("fn f() { std::process::exit(1) }", vec!["std::process"]),
        ("let x = ::std::env::var(name);", vec!["std::env"]),
        ("let now = Instant::now();", vec!["Instant::now"]),
        ("let now = std::time::SystemTime::now();", vec!["SystemTime::now"]),
        ("fn f() {}\n#[cfg(test)]\nmod tests { fn g() {} }\nuse std::fs;", vec!["std::fs"]),
    ] {
        assert_eq!(impure(source), names, "{source}");
    }
    for clean in [
        "use std::{collections::{BTreeMap, fs}, time::Duration};",
        "use mystd::fs;",
        "use std::format;",
        "// std::fs\nlet text = \"std::net Instant::now\";",
        "#[cfg(test)]\nmod tests {\n    use std::fs;\n    fn f() { let a = '}'; Instant::now(); }\n}\n",
        "#[cfg(test)]\nuse std::fs;\nfn f() {}",
    ] {
        assert!(impure(clean).is_empty(), "{clean}: {:?}", impure(clean));
    }
}
