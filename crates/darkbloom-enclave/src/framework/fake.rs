//! A stand-in for the frameworks: the symbols that the binding names, over the simulated Mac.
//!
//! Objects are numbers that nothing dereferences, so a wrong one is told, not followed. Each is counted: what is released too
//! often, used after that, taken for another kind, or not released, is a fault, and a test that makes one fails. A function
//! of C cannot panic; faults are noted and told when the call is over.

#![allow(non_upper_case_globals, non_snake_case, reason = "the names of Apple's headers")]
#![allow(clippy::unwrap_used, reason = "tests, also in what their cases share")]

#[path = "../../tests/machine/simulator.rs"]
#[allow(dead_code, reason = "what only its own tests ask it")]
pub mod simulator;

mod security;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ptr::null;
use std::slice;

use super::bindings::Ref;
use crate::{Point, codes};
use security::*;
use simulator::{Process, SimulatedKey};

/// Numbers below are constants of the frameworks, which nobody owns.
const FIRST_OBJECT: usize = 1_000;
/// Another text with the same letters as `kCFErrorDomainOSStatus`, as errors have it.
const STATUS_DOMAIN: usize = 900;
/// The domain of another part of the system.
const FOREIGN_DOMAIN: usize = 901;

/// The number of keys' type.
const KEY_TYPE: usize = 260;

#[derive(Clone)]
enum Kind {
    Data(Vec<u8>),
    Text(String),
    Number(i32),
    Dictionary(Vec<(usize, usize)>),
    Array(Vec<usize>),
    Key(SimulatedKey),
    Public(Point),
    AccessControl { protection: usize, flags: usize },
    Error { domain: usize, code: isize },
}

struct Counted {
    count: usize,
    kind: Kind,
}

/// What the system does instead of what it should.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    Right,
    /// Errors are of another part of the system.
    ForeignErrors,
    /// Nothing is made, and no error says why.
    Nothing,
    /// Where a list was asked for, one key.
    OneKey,
    /// A list without anything in it.
    NoKeys,
    /// A list of something else.
    OtherThings,
    /// A public key is no bytes.
    NoBytes,
}

struct World {
    objects: BTreeMap<usize, Counted>,
    next: usize,
    faults: Vec<String>,
    process: Option<Process>,
    answer: Answer,
}

thread_local! {
    static WORLD: RefCell<World> = const {
        RefCell::new(World {
            objects: BTreeMap::new(), next: FIRST_OBJECT, faults: Vec::new(), process: None, answer: Answer::Right,
        })
    };
}

/// Has a program call the frameworks, and returns the faults that it made: also each object that it left behind.
pub fn watched<T>(process: &Process, answer: Answer, call: impl FnOnce() -> T) -> (T, Vec<String>) {
    WORLD.with_borrow_mut(|world| (world.process, world.answer) = (Some(process.clone()), answer));
    let returned = call();
    let faults = WORLD.with_borrow_mut(|world| {
        let left = std::mem::take(&mut world.objects);
        let leaked = left.into_iter().map(|(name, object)| format!("{name}, {}, leaked", object.kind.name()));
        let faults: Vec<_> = std::mem::take(&mut world.faults).into_iter().chain(leaked).collect();
        world.process = None;
        faults
    });
    (returned, faults)
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Data(_) => "bytes",
            Self::Text(_) => "a text",
            Self::Number(_) => "a number",
            Self::Dictionary(_) => "a dictionary",
            Self::Array(_) => "a list",
            Self::Key(_) => "a key",
            Self::Public(_) => "a public key",
            Self::AccessControl { .. } => "an access control",
            Self::Error { .. } => "an error",
        }
    }

    /// The system numbers its types; which number is nobody's business.
    fn type_id(&self) -> usize {
        match self {
            Self::Data(_) => 20,
            Self::Array(_) => 19,
            Self::Text(_) => 7,
            Self::Number(_) => 22,
            Self::Dictionary(_) => 18,
            Self::Key(_) | Self::Public(_) => KEY_TYPE,
            Self::AccessControl { .. } => 261,
            Self::Error { .. } => 27,
        }
    }
}

impl World {
    fn fault(&mut self, what: impl Into<String>) {
        self.faults.push(what.into());
    }

    /// A new object, which is the caller's.
    fn make(&mut self, kind: Kind) -> usize {
        self.next += 1;
        self.objects.insert(self.next, Counted { count: 1, kind });
        self.next
    }

    fn retain(&mut self, object: usize) -> usize {
        match self.objects.get_mut(&object) {
            Some(counted) => counted.count += 1,
            None if object == 0 || object >= FIRST_OBJECT => self.fault(format!("{object} is held and is no object")),
            None => {}
        }
        object
    }

    fn release(&mut self, object: usize) {
        let Some(counted) = self.objects.get_mut(&object) else {
            return self.fault(format!("{object} is released, and is no object or not the caller's"));
        };
        counted.count -= 1;
        if counted.count > 0 {
            return;
        }
        let held = match self.objects.remove(&object).map(|counted| counted.kind) {
            Some(Kind::Dictionary(pairs)) => pairs.into_iter().flat_map(|(key, value)| [key, value]).collect(),
            Some(Kind::Array(items)) => items,
            _ => Vec::new(),
        };
        for object in held.into_iter().filter(|object| *object >= FIRST_OBJECT) {
            self.release(object);
        }
    }

    /// What an object is; a fault where it is not one.
    fn kind(&mut self, object: usize) -> Option<Kind> {
        let found = self.objects.get(&object).map(|counted| counted.kind.clone());
        if found.is_none() {
            self.fault(format!("{object} is used, and is no object"));
        }
        found
    }

    fn wrong(&mut self, object: usize, wanted: &str) {
        let is = self.objects.get(&object).map_or("nothing", |counted| counted.kind.name());
        self.fault(format!("{object} is {is}, and taken for {wanted}"));
    }

    /// What a dictionary has under a key.
    fn value(&mut self, dictionary: usize, key: usize) -> Option<usize> {
        let Some(Kind::Dictionary(pairs)) = self.kind(dictionary) else {
            self.wrong(dictionary, "a dictionary");
            return None;
        };
        pairs.iter().find(|(found, _)| *found == key).map(|(_, value)| *value)
    }
}

fn with<T>(call: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(call)
}

fn raw(object: usize) -> Ref {
    std::ptr::without_provenance(object)
}

/// What C hands over as an address and a length.
///
/// # Safety
/// As many values must be there.
unsafe fn handed<'a, T>(first: *const T, count: isize) -> &'a [T] {
    // SAFETY: the caller's promise.
    if count <= 0 { &[] } else { unsafe { slice::from_raw_parts(first, count.cast_unsigned()) } }
}

#[unsafe(no_mangle)]
static kCFTypeDictionaryKeyCallBacks: [usize; 6] = [0; 6];
#[unsafe(no_mangle)]
static kCFTypeDictionaryValueCallBacks: [usize; 5] = [0; 5];

#[unsafe(no_mangle)]
extern "C" fn CFRelease(object: Ref) {
    with(|world| world.release(object.addr()));
}

#[unsafe(no_mangle)]
extern "C" fn CFEqual(one: Ref, other: Ref) -> u8 {
    let same = |object: Ref| if object.addr() == STATUS_DOMAIN { kCFErrorDomainOSStatus } else { object.addr() };
    u8::from(same(one) == same(other))
}

#[unsafe(no_mangle)]
extern "C" fn CFGetTypeID(object: Ref) -> usize {
    with(|world| world.kind(object.addr()).map_or(0, |kind| kind.type_id()))
}

#[unsafe(no_mangle)]
extern "C" fn CFArrayGetTypeID() -> usize {
    Kind::Array(Vec::new()).type_id()
}

#[unsafe(no_mangle)]
extern "C" fn CFDataGetTypeID() -> usize {
    Kind::Data(Vec::new()).type_id()
}

#[unsafe(no_mangle)]
extern "C" fn CFArrayGetCount(array: Ref) -> isize {
    with(|world| match world.kind(array.addr()) {
        Some(Kind::Array(items)) => items.len().cast_signed(),
        _ => {
            world.wrong(array.addr(), "a list");
            0
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn CFArrayGetValueAtIndex(array: Ref, at: isize) -> Ref {
    with(|world| match world.kind(array.addr()) {
        Some(Kind::Array(items)) if (at.cast_unsigned()) < items.len() => raw(items[at.cast_unsigned()]),
        _ => {
            world.wrong(array.addr(), "a list with that many items");
            null()
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn CFDataCreate(_: Ref, bytes: *const u8, length: isize) -> Ref {
    // SAFETY: the binding's promise, which this is here to try.
    let bytes = unsafe { handed(bytes, length) }.to_vec();
    with(|world| raw(world.make(Kind::Data(bytes))))
}

#[unsafe(no_mangle)]
extern "C" fn CFDataGetLength(data: Ref) -> isize {
    with(|world| match world.kind(data.addr()) {
        Some(Kind::Data(bytes)) => bytes.len().cast_signed(),
        _ => {
            world.wrong(data.addr(), "bytes");
            0
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn CFDataGetBytePtr(data: Ref) -> *const u8 {
    with(|world| match world.objects.get(&data.addr()).map(|counted| &counted.kind) {
        // They stay where they are until the object goes.
        Some(Kind::Data(bytes)) if !bytes.is_empty() => bytes.as_ptr(),
        Some(Kind::Data(_)) => null(),
        _ => {
            world.wrong(data.addr(), "bytes");
            null()
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn CFStringCreateWithBytes(_: Ref, bytes: *const u8, length: isize, encoding: u32, _: u8) -> Ref {
    // SAFETY: as above.
    let text = String::from_utf8(unsafe { handed(bytes, length) }.to_vec());
    with(|world| match text {
        Ok(text) if encoding == codes::UTF8 => raw(world.make(Kind::Text(text))),
        _ => {
            world.fault("a text that is not UTF-8");
            null()
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn CFNumberCreate(_: Ref, kind: isize, value: *const i32) -> Ref {
    // SAFETY: as above: of this kind are numbers of 32 bits.
    let value = (kind == codes::SINT32).then(|| unsafe { *value });
    with(|world| match value {
        Some(value) => raw(world.make(Kind::Number(value))),
        None => {
            world.fault("a number of another kind");
            null()
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn CFDictionaryCreate(
    _: Ref,
    keys: *const Ref,
    values: *const Ref,
    count: isize,
    key_callbacks: *const u8,
    value_callbacks: *const u8,
) -> Ref {
    // SAFETY: as above.
    let (keys, values) = unsafe { (handed(keys, count), handed(values, count)) };
    let callbacks = (key_callbacks.addr(), value_callbacks.addr());
    let holding =
        ((&raw const kCFTypeDictionaryKeyCallBacks).addr(), (&raw const kCFTypeDictionaryValueCallBacks).addr());
    with(|world| {
        if callbacks != holding {
            world.fault("a dictionary that does not hold what is in it");
        }
        let pairs = keys.iter().zip(values);
        let held = pairs.map(|(key, value)| (world.retain(key.addr()), world.retain(value.addr()))).collect();
        raw(world.make(Kind::Dictionary(held)))
    })
}

#[unsafe(no_mangle)]
extern "C" fn CFErrorGetCode(error: Ref) -> isize {
    with(|world| match world.kind(error.addr()) {
        Some(Kind::Error { code, .. }) => code,
        _ => {
            world.wrong(error.addr(), "an error");
            0
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn CFErrorGetDomain(error: Ref) -> Ref {
    with(|world| match world.kind(error.addr()) {
        Some(Kind::Error { domain, .. }) => raw(domain),
        _ => {
            world.wrong(error.addr(), "an error");
            null()
        }
    })
}
