//! Links in pages: the file must be there, and the heading in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::{files, root};

/// A page's text without blocks and spans of code.
fn prose(page: &str) -> String {
    let mut prose = String::new();
    let mut in_block = false;
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        } else if !in_block && !line.starts_with("    ") {
            prose.extend(line.split('`').step_by(2));
            prose.push('\n');
        }
    }
    prose
}

/// The targets of `[text](target)`.
fn targets(page: &str) -> Vec<String> {
    let prose = prose(page);
    let links = prose.split("](").skip(1);
    links.filter_map(|rest| rest.split_once(')').map(|(target, _)| target.trim().to_owned())).collect()
}

/// The anchors that a page's headings have: lower case, spaces as hyphens, other signs left out.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut in_block = false;
    let headings = page.lines().filter(|line| {
        in_block ^= line.trim_start().starts_with("```");
        !in_block && line.starts_with('#')
    });
    headings
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let kept = title.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'));
            kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
        })
        .collect()
}

fn broken(page: &Path, target: &str) -> Option<String> {
    if target.starts_with("https://") || target.starts_with("http://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let at = if file.is_empty() { page.to_owned() } else { page.parent()?.join(file) };
    if !at.exists() {
        return Some("there is no such file".to_owned());
    }
    let anchor = anchor?;
    let text = fs::read_to_string(&at).ok()?;
    (!anchors(&text).contains(anchor)).then(|| "there is no such heading".to_owned())
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    let pages = files(&root(), "md");
    assert!(pages.len() > 10, "the pages were not found");
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for target in targets(&text) {
            if let Some(why) = broken(&page, &target) {
                wrong.push(format!("{}: {target}: {why}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn files_named_in_sources_exist() {
    // Errors and comments send people to pages, in backquotes.
    let mut wrong = Vec::new();
    for source in files(&root().join("crates"), "rs") {
        let text = fs::read_to_string(&source).unwrap();
        for rest in text.split(concat!("`", "docs/")).skip(1) {
            let name = rest.split('`').next().unwrap_or_default();
            // The specification of the GGUF format has this path in its own repository.
            if name != "gguf.md" && !root().join("docs").join(name).exists() {
                wrong.push(format!("{}: docs/{name}", source.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_dead_link_is_found() {
    let page = root().join("README.md");
    assert_eq!(targets("see [this](a.md#b) and `[not](this)`"), ["a.md#b"]);
    assert!(broken(&page, "no-such-file.md").is_some());
    assert!(broken(&page, "README.md#no-such-heading").is_some());
    assert!(anchors("# One `two`, three\n").contains("one-two-three"));
}
