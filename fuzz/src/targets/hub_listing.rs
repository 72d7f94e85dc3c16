//! What a hub says is in a repository, and the names of files, repositories and revisions. The modules are taken as they
//! stand: their crate would bring llama.cpp along.

#![no_main]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "the modules belong to another crate")]

#[path = "../../../crates/darkbloom-provider/src/models/listing.rs"]
mod listing;
#[path = "../../../crates/darkbloom-provider/src/models/names.rs"]
mod names;

use std::path::{Component, Path};

use darkbloom_fuzz::{memory, text};
use darkbloom_types::Digest;
use libfuzzer_sys::fuzz_target;
use listing::{Listing, Wanted};
use names::{FilePath, RepositoryName, Revision};

/// That a path leads down from a folder and nowhere else, by as many parts as it says.
fn leads_down(path: &str) {
    let joined = Path::new("/folder").join(path);
    let parts: Vec<_> = joined.components().skip(2).collect();
    assert_eq!(parts.len(), path.split('/').count());
    assert!(parts.iter().all(|part| matches!(part, Component::Normal(_))), "{path:?}");
    assert!(path.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'\\'), "{path:?}");
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, rest)) = bytes.split_first() else { return };
    let main: Revision = "main".parse().expect("it is a sound name");
    // A file of a list takes a hundred bytes, and can be written in some twenty.
    memory::within((64 << 10) + 32 * rest.len(), || match which % 4 {
        0 => {
            let Ok(listing) = Listing::read(rest, &main) else { return };
            assert!(listing.commit == main || listing.commit.is_commit());
            let digest = Wanted::Weights(Digest([1; 32]));
            for wanted in [Wanted::Only, Wanted::Named("model.gguf"), digest] {
                if let Ok(planned) = listing.choose(wanted) {
                    leads_down(planned.path.as_str());
                    assert!(planned.path.is_gguf() && planned.size > 0);
                    assert_ne!(wanted, digest, "a digest that nobody can have made");
                }
            }
        }
        1 => {
            if let Ok(path) = text(rest).parse::<FilePath>() {
                leads_down(path.as_str());
            }
        }
        2 => {
            if let Ok(repository) = text(rest).parse::<RepositoryName>() {
                assert_eq!(repository.to_string().as_bytes(), rest);
                leads_down(&repository.to_string());
            }
        }
        _ => {
            if let Ok(revision) = text(rest).parse::<Revision>() {
                assert!(
                    revision.as_str().split('/').all(|part| !part.is_empty() && !part.starts_with('.')),
                    "{revision}"
                );
            }
        }
    });
});
