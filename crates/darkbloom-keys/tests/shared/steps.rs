//! A rotation that stops between any two of its steps, in whichever home.

use std::fs;
use std::path::Path;

use darkbloom_keys::{
    Home, Identity, IdentityError, IdentityKey as _, KeyConfig, Unsettled, delete, go_back, rotate, settle,
    successions, unsettled,
};
use darkbloom_types::UnixMillis;
use darkbloom_wire::Succession;
use tempfile::TempDir;

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const WORDS: &str = "successions";

/// A home, and how many keys its hardware has; one identity takes `each` of them.
pub struct Keys<'a> {
    pub home: Home,
    pub config: &'a KeyConfig,
    pub count: &'a dyn Fn() -> usize,
    pub each: usize,
}

/// A folder whose identity was rotated once.
struct Rotated<'a> {
    keys: &'a Keys<'a>,
    folder: TempDir,
    first: [u8; 65],
    second: [u8; 65],
}

impl<'a> Rotated<'a> {
    fn new(keys: &'a Keys<'a>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let first = Identity::open(folder.path(), keys.config).unwrap().0.public_point();
        let second = rotate(folder.path(), keys.config, keys.home, NOW).unwrap().public_point();
        let rotated = Self { keys, folder, first, second };
        assert_eq!((rotated.names(), (keys.count)()), (rotated.expected(&["", ".old"], true), 2 * keys.each));
        rotated
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn name(&self, place: &str) -> String {
        let kind = match self.keys.home {
            Home::SecureEnclave => "enclave",
            Home::Tpm => "tpm",
            Home::Software => "key",
        };
        format!("identity{place}.{kind}")
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path().join(self.name(from)), self.path().join(self.name(to))).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let names = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names
    }

    fn expected(&self, places: &[&str], words: bool) -> Vec<String> {
        let mut names: Vec<_> = places.iter().map(|place| self.name(place)).collect();
        names.extend(words.then(|| WORDS.to_owned()));
        names.sort_unstable();
        names
    }

    /// Who looks and who starts see the same identity, and its key signs.
    #[track_caller]
    fn is(&self, expected: &[u8; 65]) {
        let before = (self.names(), (self.keys.count)());
        let seen = Identity::existing(self.path(), self.keys.config).unwrap().unwrap();
        assert_eq!((self.names(), (self.keys.count)()), before, "who looks changes nothing");
        let (opened, passed) = Identity::open(self.path(), self.keys.config).unwrap();
        assert!(passed.is_empty());
        opened.test().unwrap();
        assert_eq!((&seen.public_point(), &opened.public_point()), (expected, expected));
    }

    fn words(&self, identity: &[u8; 65]) -> Vec<[u8; 65]> {
        let words = successions(self.path(), identity).unwrap();
        words.iter().map(|word| Succession::open_self_signed(word).unwrap().old).collect()
    }

    /// The newer identity is accepted, and nothing of the older is left anywhere.
    fn settles(&self) {
        settle(self.path(), self.keys.config).unwrap();
        self.is(&self.second);
        assert_eq!((self.names(), (self.keys.count)()), (self.expected(&[""], true), self.keys.each));
        assert_eq!(self.words(&self.second), [self.first]);
        assert_eq!(unsettled(self.path()).unwrap(), None);
        let late = go_back(self.path(), self.keys.config).map(drop);
        assert!(matches!(late, Err(IdentityError::NoneBefore(_))), "{late:?}");
        delete(self.path(), self.keys.config).unwrap();
        assert_eq!((self.names().len(), (self.keys.count)()), (0, 0));
    }
}

/// A crash between any two steps of a rotation, of going back from it, and of its end loses no key that may be needed still,
/// and leaves none that nobody needs.
pub fn every_step(keys: &Keys) {
    for step in 0..4 {
        rotated_up_to(step, keys);
    }
    for step in 0..5 {
        gone_back_up_to(step, keys);
    }
    for step in 0..4 {
        settled_up_to(step, keys);
    }
    goes_back_for_good(keys);
}

fn rotated_up_to(step: usize, keys: &Keys) {
    let it = Rotated::new(keys);
    // From the last step backwards.
    if step < 3 {
        it.rename("", ".next");
    }
    if step < 2 {
        it.rename(".old", "");
    }
    if step < 1 {
        fs::remove_file(it.path().join(WORDS)).unwrap();
        it.is(&it.first);
        assert_eq!(it.names(), it.expected(&["", ".next"], false), "the new key was made, and nobody spoke for it");
        let rotated = rotate(it.path(), keys.config, keys.home, NOW).unwrap();
        assert_eq!(rotated.public_point(), it.second, "what was made already is not made again");
    }
    it.is(&it.second);
    assert_eq!((it.names(), (keys.count)()), (it.expected(&["", ".old"], true), 2 * keys.each), "step {step}");
    assert_eq!(unsettled(it.path()).unwrap(), Some(Unsettled::Older));
    let again = rotate(it.path(), keys.config, keys.home, NOW).map(drop);
    assert!(matches!(again, Err(IdentityError::Unsettled)), "{again:?}");
    it.settles();
}

fn gone_back_up_to(step: usize, keys: &Keys) {
    let it = Rotated::new(keys);
    if step >= 1 {
        it.rename(".old", ".back");
    }
    if step >= 2 {
        fs::remove_file(it.path().join(WORDS)).unwrap();
    }
    if step >= 3 {
        it.rename("", ".next");
    }
    if step >= 4 {
        it.rename(".back", "");
    }
    if step == 0 {
        assert_eq!(go_back(it.path(), keys.config).unwrap().public_point(), it.first);
    }
    it.is(&it.first);
    assert_eq!(it.names(), it.expected(&["", ".next"], false), "step {step}");
    assert_eq!(it.words(&it.first), [[0; 65]; 0]);
    assert_eq!(unsettled(it.path()).unwrap(), Some(Unsettled::Newer));
    // The coordinator had accepted the newer one.
    assert_eq!(rotate(it.path(), keys.config, keys.home, NOW).unwrap().public_point(), it.second);
    it.settles();
}

fn settled_up_to(step: usize, keys: &Keys) {
    let it = Rotated::new(keys);
    if step >= 1 {
        it.rename(".old", ".gone");
    }
    if step >= 2 {
        // The hardware's key is destroyed, and what tells of it is there still.
        let elsewhere = tempfile::tempdir().unwrap();
        fs::copy(it.path().join(it.name(".gone")), elsewhere.path().join(it.name(""))).unwrap();
        delete(elsewhere.path(), keys.config).unwrap();
    }
    if step >= 3 {
        fs::remove_file(it.path().join(it.name(".gone"))).unwrap();
    }
    it.is(&it.second);
    it.settles();
}

fn goes_back_for_good(keys: &Keys) {
    let it = Rotated::new(keys);
    go_back(it.path(), keys.config).unwrap();
    settle(it.path(), keys.config).unwrap();
    it.is(&it.first);
    assert_eq!((it.names(), (keys.count)()), (it.expected(&[""], false), keys.each));
    let next = rotate(it.path(), keys.config, keys.home, NOW).unwrap().public_point();
    assert!(next != it.second && next != it.first, "another key than the one that was given up");
    delete(it.path(), keys.config).unwrap();
    assert_eq!((it.names().len(), (keys.count)()), (0, 0), "both keys are gone");
}
