//! What must not stand in sources.

use std::path::Path;

use crate::{files, root};

/// Crates whose work needs `unsafe`: models run in a C library, so is Apple's keychain spoken to, and pages for keys are the
/// system's to give.
const MAY_BE_UNSAFE: [&str; 3] = ["darkbloom-engine", "darkbloom-enclave", "darkbloom-harden"];

/// A source without its comments and texts, so that words in them do not count.
pub fn code(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if rest.starts_with("/*") {
            rest = rest.find("*/").map_or("", |end| &rest[end + 2..]);
        } else if let Some(raw) = rest.strip_prefix("r#\"") {
            rest = raw.find("\"#").map_or("", |end| &raw[end + 2..]);
        } else if let Some(letter) = ["'\"'", "'\\\"'"].iter().find(|letter| rest.starts_with(**letter)) {
            rest = &rest[letter.len()..];
        } else if first == '"' {
            rest = after_text(&rest[1..]);
        } else {
            code.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    code
}

fn after_text(text: &str) -> &str {
    let mut escaped = false;
    for (at, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return &text[at + 1..],
            _ => {}
        }
    }
    ""
}

fn has_word(code: &str, word: &str) -> bool {
    code.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|found| found == word)
}

#[test]
fn words_in_comments_and_texts_are_not_code() {
    assert!(has_word(&code("fn f() { unsafe { g() } }"), "unsafe"));
    assert!(!has_word(
        &code("// unsafe\n/* unsafe */ let a = \"unsafe \\\" unsafe\"; let unsafe_code = '\"';"),
        "unsafe"
    ));
}

fn crates() -> Vec<std::path::PathBuf> {
    let folders = std::fs::read_dir(root().join("crates")).unwrap();
    folders.map(|entry| entry.unwrap().path()).filter(|path| path.join("Cargo.toml").exists()).collect()
}

fn is_exempt(folder: &Path) -> bool {
    MAY_BE_UNSAFE.iter().any(|name| folder.ends_with(name))
}

#[test]
fn unsafe_stands_only_where_it_must() {
    for folder in crates().iter().filter(|folder| !is_exempt(folder)) {
        for file in files(folder, "rs") {
            let source = std::fs::read_to_string(&file).unwrap();
            assert!(!has_word(&code(&source), "unsafe"), "`unsafe` in {}", file.display());
        }
    }
}

#[test]
fn every_other_crate_forbids_unsafe() {
    for folder in crates().iter().filter(|folder| !is_exempt(folder)) {
        let main = ["src/lib.rs", "src/main.rs"].map(|file| folder.join(file));
        let main = main.iter().find(|file| file.exists()).expect("a crate has one of the two");
        let source = std::fs::read_to_string(main).unwrap();
        assert!(source.contains("\n#![forbid(unsafe_code)]\n"), "{} must forbid unsafe code", main.display());
    }
}

#[test]
fn the_keychains_stand_in_is_in_no_program() {
    // Only tests compile it, and what ships for this system has no binding that could call it.
    let framework = std::fs::read_to_string(root().join("crates/darkbloom-enclave/src/framework.rs")).unwrap();
    assert!(framework.contains("#[cfg(all(test, not(target_os = \"macos\")))]\nmod fake;\n"));
    let program = std::fs::read(env!("CARGO_BIN_EXE_darkbloom")).unwrap();
    let has = |name: &str| program.windows(name.len()).any(|window| window == name.as_bytes());
    for name in ["SecItemCopyMatching", "SecKeyCreateRandomKey", "kSecAttrTokenIDSecureEnclave"] {
        assert_eq!(has(name), cfg!(target_os = "macos"), "{name}");
    }
    assert!(has("this machine has no Secure Enclave"), "the program was read");
}

#[test]
fn every_library_opens_with_what_it_owns() {
    for folder in crates() {
        let library = folder.join("src/lib.rs");
        if let Ok(source) = std::fs::read_to_string(&library) {
            let opening: String = source.lines().take_while(|line| line.starts_with("//!")).collect();
            let says = |words: &[&str]| words.iter().any(|word| opening.contains(word));
            assert!(says(&["Owns", "owns"]), "{} does not say what the crate owns", library.display());
            assert!(says(&["must never", "never"]), "{} does not say what it must never do", library.display());
        }
    }
}
