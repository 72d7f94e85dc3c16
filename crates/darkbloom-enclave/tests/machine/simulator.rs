//! A Mac's two keychains and its enclave, as far as keys of the enclave depend on them: which program may use what, what is
//! locked, what is broken, and who is faster. Rules as Apple documents them; statuses are those of its headers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use darkbloom_enclave::{ACCESS_GROUP, Item, Keychain, KeychainError, Point, Search, codes};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};

/// What an enclave says to whoever wants a private key out of it.
pub const NOT_EXPORTABLE: i32 = -50;

/// A key of one of the keychains, or of none.
#[derive(Clone)]
pub struct SimulatedKey {
    private: SigningKey,
    in_enclave: bool,
}

impl SimulatedKey {
    pub fn point(&self) -> Point {
        self.private.verifying_key().to_sec1_point(false).as_bytes().try_into().unwrap()
    }
}

/// What a program asks for.
#[derive(Clone, Debug)]
pub struct Query {
    pub label: String,
    pub group: Option<String>,
    pub data_protection: bool,
    pub enclave_only: bool,
}

impl From<&Item> for Query {
    fn from(item: &Item) -> Self {
        let Search { data_protection, enclave_only, group } = item.search();
        Self { label: item.label.clone(), group: group.map(str::to_owned), data_protection, enclave_only }
    }
}

#[derive(Clone)]
struct Kept {
    label: String,
    /// The legacy file keychain has no groups.
    group: Option<String>,
    key: SimulatedKey,
}

/// What is wrong with a machine.
#[derive(Default)]
pub struct Faults {
    /// Nobody has logged in since it started.
    pub locked: bool,
    /// The enclave uses no key.
    pub broken_enclave: bool,
    /// There is none.
    pub no_enclave: bool,
    /// Each search is answered with this status.
    pub find: Option<i32>,
    /// Each creation is answered with this status.
    pub create: Option<i32>,
    /// Each change of a label is answered with this status.
    pub rename: Option<i32>,
    /// What has the new label then is another key.
    pub renames_another: bool,
    /// Keys that are made are kept nowhere.
    pub keeps_nothing: bool,
    /// What is signed with a key that was kept is something else.
    pub signs_wrongly: bool,
    /// Just before the next key is made, another process makes one under the same label.
    pub race: bool,
    /// Whether the keychain then refuses the second: it does where it compares labels alone.
    pub refuses_second: bool,
}

#[derive(Default)]
struct State {
    faults: Faults,
    data_protection: Vec<Kept>,
    file: Vec<Kept>,
    made: u8,
}

/// A machine.
#[derive(Clone, Default)]
pub struct Mac(Arc<Mutex<State>>);

impl Mac {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Breaks or mends something.
    pub fn set(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state().faults);
    }

    /// A program as it is released.
    pub fn released(&self) -> Process {
        self.signed_for(&[ACCESS_GROUP])
    }

    /// A program that is signed for these access groups; for none, as an ad-hoc signature is.
    pub fn signed_for(&self, groups: &[&str]) -> Process {
        Process { mac: self.clone(), groups: groups.iter().map(|group| (*group).to_owned()).collect() }
    }

    /// How many keys the data-protection keychain has.
    pub fn kept(&self) -> usize {
        self.state().data_protection.len()
    }

    /// The labels of the keys there.
    pub fn labels(&self) -> Vec<String> {
        self.state().data_protection.iter().map(|kept| kept.label.clone()).collect()
    }

    /// How many keys were made so far, wherever they are now.
    pub fn made(&self) -> u8 {
        self.state().made
    }

    /// Whoever is root removes the keychain's files, and with them what the enclave needs to use its keys.
    pub fn erase(&self) {
        self.state().data_protection.clear();
    }

    /// Whoever is root puts a key of their own into the legacy file keychain.
    pub fn plant_in_file_keychain(&self, label: &str) -> Point {
        let mut state = self.state();
        let key = state.fresh(false);
        state.file.push(Kept { label: label.to_owned(), group: None, key: key.clone() });
        key.point()
    }

    /// Another program of the same access group keeps a key there that is in no enclave.
    pub fn plant_in_group(&self, label: &str, group: &str) -> Point {
        let mut state = self.state();
        let key = state.fresh(false);
        state.data_protection.push(Kept { label: label.to_owned(), group: Some(group.to_owned()), key: key.clone() });
        key.point()
    }
}

impl State {
    fn fresh(&mut self, in_enclave: bool) -> SimulatedKey {
        self.made += 1;
        SimulatedKey { private: SigningKey::from_slice(&[self.made; 32]).unwrap(), in_enclave }
    }
}

/// A program on a machine: what the system calls it is what it is signed for, whoever runs it.
#[derive(Clone)]
pub struct Process {
    mac: Mac,
    groups: Vec<String>,
}

impl Process {
    /// The access group of a query, if this program may use it.
    fn group(&self, query: &Query) -> Result<String, i32> {
        let group = query.group.as_ref().or(self.groups.first()).ok_or(codes::MISSING_ENTITLEMENT)?;
        if self.groups.contains(group) { Ok(group.clone()) } else { Err(codes::MISSING_ENTITLEMENT) }
    }

    /// Whether a kept key is one that this program sees with this query.
    fn sees(&self, query: &Query) -> Result<impl Fn(&Kept) -> bool + use<>, i32> {
        let (label, enclave_only) = (query.label.clone(), query.enclave_only);
        let group = if query.data_protection { Some(self.group(query)?) } else { None };
        if query.data_protection && self.mac.state().faults.locked {
            return Err(codes::INTERACTION_NOT_ALLOWED);
        }
        Ok(move |kept: &Kept| {
            kept.label == label && kept.group == group && (kept.key.in_enclave || !enclave_only || group.is_none())
        })
    }

    pub fn find(&self, query: &Query) -> Result<Vec<SimulatedKey>, i32> {
        let sees = self.sees(query)?;
        let state = self.mac.state();
        if let Some(status) = state.faults.find {
            return Err(status);
        }
        let keychain = if query.data_protection { &state.data_protection } else { &state.file };
        let found: Vec<_> = keychain.iter().filter(|kept| sees(kept)).map(|kept| kept.key.clone()).collect();
        if found.is_empty() { Err(codes::NOT_FOUND) } else { Ok(found) }
    }

    /// A key of the enclave, kept where the query says, or nowhere.
    pub fn make(&self, query: Option<&Query>) -> Result<SimulatedKey, i32> {
        if self.mac.state().faults.no_enclave {
            return Err(codes::UNIMPLEMENTED);
        }
        let Some(query) = query else { return Ok(self.mac.state().fresh(true)) };
        if !query.data_protection {
            // The legacy keychain keeps no keys of the enclave.
            return Err(codes::MISSING_ENTITLEMENT);
        }
        let (group, sees) = (self.group(query)?, self.sees(query)?);
        let mut state = self.mac.state();
        if let Some(status) = state.faults.create {
            return Err(status);
        }
        let keep =
            |key: &SimulatedKey| Kept { label: query.label.clone(), group: Some(group.clone()), key: key.clone() };
        if std::mem::take(&mut state.faults.race) {
            let others = state.fresh(true);
            state.data_protection.push(keep(&others));
        }
        if state.faults.refuses_second && state.data_protection.iter().any(sees) {
            return Err(codes::DUPLICATE);
        }
        let key = state.fresh(true);
        if !state.faults.keeps_nothing {
            state.data_protection.push(keep(&key));
        }
        Ok(key)
    }

    pub fn relabel(&self, query: &Query, to: &str) -> Result<(), i32> {
        let sees = self.sees(query)?;
        let mut state = self.mac.state();
        if let Some(status) = state.faults.rename {
            return Err(status);
        }
        let another = state.faults.renames_another.then(|| state.fresh(true));
        let mut found = state.data_protection.iter_mut().filter(|kept| sees(kept)).peekable();
        found.peek().ok_or(codes::NOT_FOUND)?;
        for kept in found {
            to.clone_into(&mut kept.label);
            kept.key = another.clone().unwrap_or_else(|| kept.key.clone());
        }
        Ok(())
    }

    pub fn remove(&self, query: &Query) -> Result<(), i32> {
        let sees = self.sees(query)?;
        let mut state = self.mac.state();
        let keychain = if query.data_protection { &mut state.data_protection } else { &mut state.file };
        let before = keychain.len();
        keychain.retain(|kept| !sees(kept));
        if keychain.len() < before { Ok(()) } else { Err(codes::NOT_FOUND) }
    }

    /// Removes one key, of those that this program may use.
    pub fn remove_one(&self, key: &SimulatedKey) -> Result<(), i32> {
        let mut state = self.mac.state();
        let before = state.data_protection.len();
        state.data_protection.retain(|kept| {
            kept.key.point() != key.point() || !kept.group.as_ref().is_some_and(|group| self.groups.contains(group))
        });
        if state.data_protection.len() < before { Ok(()) } else { Err(codes::NOT_FOUND) }
    }

    pub fn signature(&self, key: &SimulatedKey, message: &[u8]) -> Result<Signature, i32> {
        let state = self.mac.state();
        if state.faults.broken_enclave && key.in_enclave {
            return Err(codes::AUTH_FAILED);
        }
        let is_kept = state.data_protection.iter().any(|kept| kept.key.point() == key.point());
        let wrong = state.faults.signs_wrongly && is_kept;
        Ok(if wrong { key.private.sign(&[message, b"!"].concat()) } else { key.private.sign(message) })
    }

    /// A private key as bytes, as the platform's key tool writes it for whoever asks.
    pub fn export(&self, key: &SimulatedKey) -> Result<Vec<u8>, i32> {
        if key.in_enclave { Err(NOT_EXPORTABLE) } else { Ok(key.private.to_bytes().to_vec()) }
    }

    fn one(&self, item: &Item, key: &Point) -> Result<SimulatedKey, KeychainError> {
        let found = self.find(&item.into()).map_err(KeychainError::of_status)?;
        found.into_iter().find(|found| found.point() == *key).ok_or(KeychainError::NotFound)
    }
}

impl Keychain for Process {
    fn try_enclave(&self) -> Result<(), KeychainError> {
        let key = self.make(None).map_err(KeychainError::of_status)?;
        self.signature(&key, b"trial").map(drop).map_err(KeychainError::of_status)
    }

    fn keys(&self, item: &Item) -> Result<Vec<Point>, KeychainError> {
        let found = self.find(&item.into()).map_err(KeychainError::of_status)?;
        Ok(found.iter().map(SimulatedKey::point).collect())
    }

    fn create(&self, item: &Item) -> Result<Point, KeychainError> {
        self.make(Some(&item.into())).map(|key| key.point()).map_err(KeychainError::of_status)
    }

    fn sign(&self, item: &Item, key: &Point, message: &[u8]) -> Result<[u8; 64], KeychainError> {
        let signature = self.signature(&self.one(item, key)?, message).map_err(KeychainError::of_status)?;
        Ok(signature.to_bytes().into())
    }

    fn rename(&self, item: &Item, to: &Item) -> Result<(), KeychainError> {
        self.relabel(&item.into(), &to.label).map_err(KeychainError::of_status)
    }

    fn withdraw(&self, item: &Item, key: &Point) -> Result<(), KeychainError> {
        self.remove_one(&self.one(item, key)?).map_err(KeychainError::of_status)
    }

    fn delete(&self, item: &Item) -> Result<(), KeychainError> {
        self.remove(&item.into()).map_err(KeychainError::of_status)
    }
}
