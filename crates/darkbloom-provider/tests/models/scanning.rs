//! What is found in caches and folders, whatever lies there.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use darkbloom_engine::{GgufError, LoadModelError};
use darkbloom_provider::models::{FoundModel, Inventory, Parts, Place, Places, hugging_face_cache, scan};
use darkbloom_types::Digest;
use tempfile::TempDir;

use crate::shipped;

/// A cache, a folder and our own, all empty.
struct Machine {
    base: TempDir,
    places: Places,
}

impl Machine {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            fs::create_dir(base.path().join(name)).unwrap();
            base.path().join(name)
        };
        let places = Places { own: at("own"), cache: Some(at("hub")), folders: vec![at("folder")] };
        Self { base, places }
    }

    fn put(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let at = self.base.path().join(path);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(&at, bytes).unwrap();
        at
    }

    /// A file in the cache as its own program puts it there.
    fn cached(&self, repository: &str, commit: &str, file: &str, bytes: &[u8]) -> PathBuf {
        let digest = Digest::of(&[bytes]);
        self.put(&format!("hub/{repository}/blobs/{digest}"), bytes);
        let link = self.base.path().join(format!("hub/{repository}/snapshots/{commit}/{file}"));
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let up = "../".repeat(2 + file.matches('/').count());
        symlink(format!("{up}blobs/{digest}"), &link).unwrap();
        link
    }

    fn scan(&self) -> Inventory {
        scan(&self.places)
    }
}

fn names(inventory: &Inventory) -> Vec<&str> {
    inventory.models.iter().map(|model| model.name.as_str()).collect()
}

fn skipped(inventory: &Inventory, ending: &str) -> bool {
    inventory.skipped.iter().any(|skipped| skipped.path.as_os_str().as_bytes().ends_with(ending.as_bytes()))
}

#[test]
fn models_are_found_in_all_places_with_what_their_headers_say() {
    let machine = Machine::new();
    machine.put("own/lab/model/q8/tiny.gguf", &shipped());
    machine.put("own/lab/model/README.md", b"text");
    machine.cached("models--lab--model-two", "abc", "sub/tiny.GGUF", &shipped());
    machine.cached("models--lab--model-two", "abc", "config.json", b"{}");
    machine.cached("datasets--lab--data", "abc", "x.gguf", &shipped());
    machine.put("folder/deep/er/tiny.gguf", &shipped());
    let inventory = machine.scan();
    assert_eq!(names(&inventory), ["lab/model/q8/tiny.gguf", "lab/model-two/sub/tiny.GGUF", "deep/er/tiny.gguf"]);
    let places: Vec<_> = inventory.models.iter().map(|model| model.place).collect();
    assert_eq!(places, [Place::Own, Place::HuggingFace, Place::Folder]);
    for FoundModel { header, bytes, .. } in &inventory.models {
        let header = header.as_ref().unwrap();
        assert_eq!((header.architecture.as_str(), header.file_type, header.context_length), ("qwen3", Some(7), 1_024));
        assert_eq!((header.name.as_deref(), *bytes), (Some("darkbloom-tiny"), shipped().len() as u64));
        assert!(header.parameters > 1_000_000, "{}", header.parameters);
    }
    assert_eq!(inventory.models[1].claimed, Some(Digest::of(&[&shipped()])));
    assert!(inventory.skipped.is_empty() && !inventory.cut, "{:?}", inventory.skipped);
}

#[test]
fn a_file_of_two_snapshots_is_listed_once() {
    let machine = Machine::new();
    machine.cached("models--lab--model", "abc", "tiny.gguf", &shipped());
    machine.cached("models--lab--model", "def", "tiny.gguf", &shipped());
    assert_eq!(names(&machine.scan()), ["lab/model/tiny.gguf"]);
}

#[test]
fn links_out_of_the_cache_and_links_to_nowhere_are_said_and_not_read() {
    let machine = Machine::new();
    let outside = machine.put("outside.gguf", &shipped());
    let good = machine.cached("models--lab--model", "abc", "good.gguf", &shipped());
    let snapshot = good.parent().unwrap();
    symlink(&outside, snapshot.join("out.gguf")).unwrap();
    symlink("nowhere", snapshot.join("dangling.gguf")).unwrap();
    symlink("loop.gguf", snapshot.join("loop.gguf")).unwrap();
    symlink("../../../models--lab--model", snapshot.join("around")).unwrap();
    symlink(machine.base.path(), snapshot.parent().unwrap().join("out")).unwrap();
    let inventory = machine.scan();
    assert_eq!(names(&inventory), ["lab/model/good.gguf"]);
    for ending in ["out.gguf", "dangling.gguf", "loop.gguf", "snapshots/out"] {
        assert!(skipped(&inventory, ending), "{ending}: {:?}", inventory.skipped);
    }
}

#[test]
fn links_in_our_own_folder_are_not_followed_and_those_to_files_elsewhere_are() {
    let machine = Machine::new();
    let outside = machine.put("outside.gguf", &shipped());
    symlink(&outside, machine.places.own.join("planted.gguf")).unwrap();
    symlink(".", machine.places.folders[0].join("around")).unwrap();
    let inventory = machine.scan();
    assert!(names(&inventory).is_empty() && skipped(&inventory, "planted.gguf"));
    symlink(&outside, machine.places.folders[0].join("linked.gguf")).unwrap();
    assert_eq!(names(&machine.scan()), ["linked.gguf"]);
}

#[test]
fn parts_of_a_model_are_one_that_cannot_be_loaded() {
    let machine = Machine::new();
    for part in [1, 3] {
        machine.put(&format!("folder/big-{part:05}-of-00003.gguf"), b"part");
    }
    machine.put("folder/other/big-00001-of-00003.gguf", b"part");
    let inventory = machine.scan();
    assert_eq!(names(&inventory), ["big-00001-of-00003.gguf", "other/big-00001-of-00003.gguf"]);
    let first = &inventory.models[0];
    assert_eq!((first.bytes, first.parts), (8, Some(Parts { found: 2, of: 3 })));
    assert!(matches!(first.header, Err(LoadModelError::Damaged(GgufError::Split(3)))));
}

#[test]
fn whatever_else_is_called_a_model_is_listed_with_what_is_wrong() {
    let machine = Machine::new();
    machine.put("folder/cut.gguf", &shipped()[..1_000_000]);
    machine.put("folder/empty.gguf", b"");
    machine.put("folder/page.gguf", b"<html>");
    machine.put("own/lab/model/half.gguf.partial", b"half");
    fs::create_dir(machine.places.folders[0].join("folder.gguf")).unwrap();
    let pipe = machine.places.folders[0].join("pipe.gguf");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let odd = machine.places.folders[0].join(OsStr::from_bytes(b"odd\xff\x1b[2J.gguf"));
    fs::write(odd, shipped()).unwrap();
    let inventory = machine.scan();
    assert_eq!(names(&inventory), ["cut.gguf", "empty.gguf", "odd\u{fffd}\u{1b}[2J.gguf", "page.gguf"]);
    let refused = |at: usize| inventory.models[at].header.as_ref().err().map(ToString::to_string).unwrap_or_default();
    assert!(refused(0).contains("cut short") && refused(1).contains("cut short"), "{} {}", refused(0), refused(1));
    assert!(inventory.models[2].header.is_ok(), "its name hurts nobody");
    assert!(refused(3).contains("GGUF"));
    assert!(skipped(&inventory, "half.gguf.partial") && skipped(&inventory, "pipe.gguf"));
}

#[test]
fn folders_beyond_the_depth_that_is_looked_into_are_said() {
    let machine = Machine::new();
    machine.put(&format!("folder/{}deep.gguf", "d/".repeat(20)), &shipped());
    machine.put("folder/flat.gguf", &shipped());
    let inventory = machine.scan();
    assert_eq!(names(&inventory), ["flat.gguf"]);
    assert!(inventory.skipped.iter().any(|skipped| skipped.why.contains("folders deep")));
}

#[test]
fn places_that_do_not_exist_have_no_models_and_no_remarks() {
    let places = Places {
        own: "/nonexistent/a".into(),
        cache: Some("/nonexistent/b".into()),
        folders: vec!["/nonexistent/c".into()],
    };
    let inventory = scan(&places);
    assert!(inventory.models.is_empty() && inventory.skipped.is_empty());
}

#[test]
fn the_cache_is_where_its_own_programs_look_for_it() {
    let cache = |variables: &[(&str, &str)]| {
        hugging_face_cache(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
        })
    };
    let home = [("HOME", "/home/me")];
    assert_eq!(cache(&home).as_deref(), Some(Path::new("/home/me/.cache/huggingface/hub")));
    let all = [("HF_HUB_CACHE", "/a"), ("HF_HOME", "/b"), ("XDG_CACHE_HOME", "/c"), ("HOME", "/d")];
    let found: Vec<_> = (0..4).map(|from| cache(&all[from..]).unwrap()).collect();
    assert_eq!(found, ["/a", "/b/hub", "/c/huggingface/hub", "/d/.cache/huggingface/hub"].map(PathBuf::from));
    assert_eq!(cache(&[("HF_HUB_CACHE", "")]), None);
}
