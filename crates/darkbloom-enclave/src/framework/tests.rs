//! The binding that ships, over the frameworks' stand-in: the same claims as of the simulated Mac, and after each call
//! nothing is left that was made for it.

#![allow(clippy::unwrap_used, reason = "tests, also in what their cases share")]

use std::ptr::null;
use std::sync::Arc;

use super::bindings::*;
use super::fake::simulator::{Mac, Process};
use super::fake::{Answer, simulator, watched};
use super::{Object, SecurityFramework};
use crate::{ACCESS_GROUP, Item, Keychain, KeychainError, Point, codes, fresh_label};

#[path = "../../tests/machine/claims.rs"]
mod claims;

/// A program that calls the binding, and makes no fault.
struct ThroughTheBinding(Process, Answer);

impl ThroughTheBinding {
    fn call<T>(&self, call: impl FnOnce(&SecurityFramework) -> T) -> T {
        let (returned, faults) = watched(&self.0, self.1, || call(&SecurityFramework));
        assert!(faults.is_empty(), "{faults:#?}");
        returned
    }
}

impl Keychain for ThroughTheBinding {
    fn try_enclave(&self) -> Result<(), KeychainError> {
        self.call(SecurityFramework::try_enclave)
    }
    fn keys(&self, item: &Item) -> Result<Vec<Point>, KeychainError> {
        self.call(|framework| framework.keys(item))
    }
    fn create(&self, item: &Item) -> Result<Point, KeychainError> {
        self.call(|framework| framework.create(item))
    }
    fn sign(&self, item: &Item, key: &Point, message: &[u8]) -> Result<[u8; 64], KeychainError> {
        self.call(|framework| framework.sign(item, key, message))
    }
    fn rename(&self, item: &Item, to: &Item) -> Result<(), KeychainError> {
        self.call(|framework| framework.rename(item, to))
    }
    fn withdraw(&self, item: &Item, key: &Point) -> Result<(), KeychainError> {
        self.call(|framework| framework.withdraw(item, key))
    }
    fn delete(&self, item: &Item) -> Result<(), KeychainError> {
        self.call(|framework| framework.delete(item))
    }
}

fn through_the_binding(process: &Process) -> Arc<dyn Keychain> {
    Arc::new(ThroughTheBinding(process.clone(), Answer::Right))
}

macro_rules! hold {
    ($($claim:ident)*) => { $(
        #[test]
        fn $claim() {
            claims::$claim(&through_the_binding);
        }
    )* };
}

claims::each!(hold);

fn item() -> Item {
    Item { label: fresh_label([9; 16]), group: ACCESS_GROUP.to_owned() }
}

#[test]
fn a_number_of_another_part_of_the_system_is_not_taken_for_a_status() {
    let mac = Mac::default();
    let process = ThroughTheBinding(mac.released(), Answer::ForeignErrors);
    for code in [codes::NOT_FOUND, codes::DUPLICATE, codes::UNIMPLEMENTED, codes::INTERACTION_NOT_ALLOWED] {
        mac.set(|faults| faults.create = Some(code));
        assert_eq!(process.create(&item()), Err(KeychainError::Foreign(code.into())));
    }
    mac.set(|faults| faults.no_enclave = true);
    assert_eq!(process.try_enclave(), Err(KeychainError::Foreign(codes::UNIMPLEMENTED.into())));
}

#[test]
fn an_answer_that_is_none_is_an_error_and_never_not_found() {
    let mac = Mac::default();
    let key = mac.released().create(&item()).unwrap();
    let is_malformed = |found: Result<Point, KeychainError>, answer: Answer| {
        assert!(matches!(found, Err(KeychainError::Malformed(_))), "{answer:?}: {found:?}");
    };
    for answer in [Answer::Nothing, Answer::OneKey, Answer::NoKeys, Answer::OtherThings, Answer::NoBytes] {
        let process = ThroughTheBinding(mac.released(), answer);
        is_malformed(process.keys(&item()).map(|keys| keys[0]), answer);
        is_malformed(process.sign(&item(), &key, b"message").map(|_| key), answer);
    }
    for answer in [Answer::Nothing, Answer::NoBytes] {
        is_malformed(ThroughTheBinding(mac.released(), answer).create(&item()), answer);
        is_malformed(ThroughTheBinding(mac.released(), answer).try_enclave().map(|()| key), answer);
    }
}

/// The faults of a call that is not the binding's.
fn faults(call: impl FnOnce()) -> Vec<String> {
    watched(&Mac::default().released(), Answer::Right, call).1
}

#[test]
fn what_is_wrong_with_objects_is_told() {
    let data = || {
        // SAFETY: the bytes live for ever, and what is made is the caller's.
        unsafe { Object::owned(CFDataCreate(null(), b"data".as_ptr(), 4)) }.unwrap()
    };
    assert_eq!(faults(|| drop(data())), [""; 0]);
    assert_eq!(faults(|| std::mem::forget(data())).len(), 1, "not released");
    // SAFETY: the stand-in's objects are numbers that are looked up, so that wrong ones can be tried.
    unsafe {
        assert_eq!(faults(|| CFRelease(data().lent().raw())).len(), 1, "released twice");
        assert_eq!(faults(|| CFRelease(null())).len(), 1);
        assert_eq!(faults(|| CFRelease(kSecClass)).len(), 1, "not the caller's");
        assert_ne!(faults(|| assert_eq!(CFErrorGetCode(data().lent().raw()), 0)), [""; 0], "of another kind");
        let after = faults(|| {
            let gone = data().lent().raw();
            assert_eq!(CFDataGetLength(gone), 0);
        });
        assert_ne!(after, [""; 0], "used after it was released");
        let callbacks = 0_u8;
        let unheld = faults(|| {
            let (key, value) = (kSecClass, kSecClassKey);
            CFRelease(CFDictionaryCreate(
                null(),
                &raw const key,
                &raw const value,
                1,
                &raw const callbacks,
                &raw const callbacks,
            ));
        });
        assert_eq!(unheld.len(), 1, "a dictionary that holds nothing");
    }
}
