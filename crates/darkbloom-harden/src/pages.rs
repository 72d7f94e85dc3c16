//! Pages for secrets that live long: private keys.
//!
//! On Linux they are of `memfd_secret(2)`: the kernel takes them out of its own map of the memory, so that neither another
//! process nor root reads them by `/proc/PID/mem`, `process_vm_readv` or `ptrace`, no core file has them, and they are never
//! swapped. Where there are none, ordinary pages that are locked and in no core file take their place, and the report says
//! so. Whoever can run code in this process or in its kernel reads both.

#![allow(unsafe_code, reason = "pages are asked of the system, and values put where nothing else is")]

use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use darkbloom_types::{Keeper, Kept, armed, scrub_stack};
use rustix::mm::{MapFlags, ProtFlags, mlock, mmap_anonymous};

/// What a secret takes is a whole number of these: Ed25519's key, with the point that is its public half, one; X-Wing's, with
/// its own, seven.
const UNIT_BYTES: usize = 256;
/// Eight epochs that overlap, with eight units each, take half of it; what is left is for receipt keys that outlive theirs,
/// and for the identity. Systems of old let a process lock 64 KiB.
const PAGES_BYTES: usize = 32 << 10;
const UNITS: usize = PAGES_BYTES / UNIT_BYTES;

static PAGES: OnceLock<Option<Pages>> = OnceLock::new();

/// Keeps secrets in pages that others do not read. What finds no place there lies in ordinary memory.
#[derive(Debug, Clone, Copy)]
pub struct SecretPages;

impl Keeper for SecretPages {
    fn try_keep<T: Send + Sync + 'static, E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<Kept<T>, E> {
        let kept = placed(make);
        // A value is made on the stack and moved to its place.
        scrub_stack();
        kept
    }
}

/// Not part of its caller, whose own part of the stack is not scrubbed.
#[inline(never)]
fn placed<T: Send + Sync + 'static, E>(make: impl FnOnce() -> Result<T, E>) -> Result<Kept<T>, E> {
    let pages = PAGES.get_or_init(Pages::new).as_ref().filter(|_| armed!("secret_pages"));
    match pages.and_then(Place::take) {
        Some(place) => place.fill(make).map(Kept::new),
        None => make().map(Kept::on_heap),
    }
}

/// Makes the pages, while this process may still ask for them. Why they are not such as nobody else reads, if they are not.
pub fn prepare() -> Result<(), String> {
    match PAGES.get_or_init(Pages::new) {
        Some(Pages { ordinary: None, .. }) => Ok(()),
        Some(Pages { ordinary: Some(why), .. }) => Err(why.clone()),
        None => Err("the system gives no pages for keys, which lie in ordinary memory".to_owned()),
    }
}

/// Some pages, for as long as this process lives.
struct Pages {
    first: AtomicPtr<u8>,
    taken: Mutex<[bool; UNITS]>,
    /// Why they are ordinary ones, if they are.
    ordinary: Option<String>,
}

impl Pages {
    fn new() -> Option<Self> {
        let (first, ordinary) = match secret() {
            Ok(first) => (first, None),
            Err(why) => {
                let (first, locked) = ordinary()?;
                (first, Some(format!("{why}; keys lie in ordinary memory, {locked}")))
            }
        };
        Some(Self { first: AtomicPtr::new(first), taken: Mutex::new([false; UNITS]), ordinary })
    }

    fn taken(&self) -> std::sync::MutexGuard<'_, [bool; UNITS]> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(target_os = "linux")]
fn secret() -> Result<*mut u8, String> {
    use std::os::fd::{FromRawFd as _, OwnedFd};
    let refused = |error: std::io::Error| format!("this kernel gives no secret pages ({error})");
    // SAFETY: it takes flags and gives a file of its own, or -1.
    let file = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
    let file = i32::try_from(file).ok().filter(|file| *file >= 0);
    let file = file.ok_or_else(|| refused(std::io::Error::last_os_error()))?;
    // SAFETY: the kernel has just opened it, and nobody else knows its number.
    let file = unsafe { OwnedFd::from_raw_fd(file) };
    rustix::fs::ftruncate(&file, PAGES_BYTES as u64).map_err(|error| refused(error.into()))?;
    let rights = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping where the kernel finds room; nothing that exists is touched.
    let mapped = unsafe { rustix::mm::mmap(null_mut(), PAGES_BYTES, rights, MapFlags::SHARED, &file, 0) };
    Ok(mapped.map_err(|error| refused(error.into()))?.cast())
}

#[cfg(not(target_os = "linux"))]
fn secret() -> Result<*mut u8, String> {
    Err("this system has no secret pages".to_owned())
}

/// Pages that are not swapped, as far as this process may lock them, and that no core file has.
fn ordinary() -> Option<(*mut u8, &'static str)> {
    let rights = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a new mapping where the system finds room; nothing that exists is touched.
    let pages = unsafe { mmap_anonymous(null_mut(), PAGES_BYTES, rights, MapFlags::PRIVATE) }.ok()?;
    // SAFETY: this whole mapping and nothing else, whose contents do not change.
    let locked = unsafe { mlock(pages, PAGES_BYTES) }.is_ok();
    #[cfg(target_os = "linux")]
    // SAFETY: as above. A kernel that does not know it leaves the limit on core files, which is zero.
    let _ = unsafe { rustix::mm::madvise(pages, PAGES_BYTES, rustix::mm::Advice::LinuxDontDump) };
    Some((pages.cast(), if locked { "which is never swapped" } else { "which this user may not lock" }))
}

/// A place that is taken and empty.
struct Place<T> {
    pages: &'static Pages,
    first: usize,
    holds: PhantomData<T>,
}

impl<T> Place<T> {
    /// The units of a value, one at least.
    const UNITS: usize = size_of::<T>().div_ceil(UNIT_BYTES) + (size_of::<T>() == 0) as usize;

    /// A place for a value of this type; none when there is no room for it.
    fn take(pages: &'static Pages) -> Option<Self> {
        if align_of::<T>() > UNIT_BYTES {
            return None;
        }
        let mut taken = pages.taken();
        let first = taken.windows(Self::UNITS).position(|units| units.iter().all(|taken| !taken))?;
        taken[first..first + Self::UNITS].fill(true);
        Some(Self { pages, first, holds: PhantomData })
    }

    fn at(&self) -> *mut T {
        // SAFETY: units are within the pages, and a page begins where any of them may.
        unsafe { self.pages.first.load(Ordering::Relaxed).add(self.first * UNIT_BYTES) }.cast()
    }

    fn fill<E>(self, make: impl FnOnce() -> Result<T, E>) -> Result<Filled<T>, E> {
        let value = make()?;
        // SAFETY: the place is this value's alone, large enough and aligned.
        unsafe { self.at().write(value) };
        Ok(Filled(self))
    }
}

impl<T> Drop for Place<T> {
    fn drop(&mut self) {
        let units = self.at().cast::<[u8; UNIT_BYTES]>();
        for unit in 0..Self::UNITS {
            // SAFETY: whatever was there was dropped before its place is; all of these bytes are the place's own.
            unsafe { units.add(unit).write_volatile([0; UNIT_BYTES]) };
        }
        self.pages.taken()[self.first..self.first + Self::UNITS].fill(false);
    }
}

/// A place with its value.
struct Filled<T>(Place<T>);

impl<T> Deref for Filled<T> {
    type Target = T;
    fn deref(&self) -> &T {
        // SAFETY: it was filled, and nothing writes to it until it is dropped.
        unsafe { &*self.0.at() }
    }
}

impl<T> Drop for Filled<T> {
    fn drop(&mut self) {
        // SAFETY: it was filled once, and nobody has it any more.
        unsafe { self.0.at().drop_in_place() };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn pages() -> &'static Pages {
        Box::leak(Box::new(Pages::new().unwrap()))
    }

    #[test]
    fn a_place_is_emptied_and_taken_again() {
        let pages = pages();
        let first = Place::take(pages).unwrap().fill(|| Ok::<_, ()>([7_u8; 32])).unwrap();
        let second = Place::take(pages).unwrap().fill(|| Ok::<_, ()>(Arc::new(5))).unwrap();
        let third = Place::take(pages).unwrap().fill(|| Ok::<_, ()>([3_u8; UNIT_BYTES + 1])).unwrap();
        assert_eq!((third.0.first, third[UNIT_BYTES]), (2, 3), "two units, behind the others");
        let (at, counted) = (first.0.at(), Arc::clone(&second));
        assert_eq!((*first, **second), ([7; 32], 5));
        assert_ne!(at.addr(), second.0.at().addr());
        drop((first, second));
        assert_eq!(Arc::strong_count(&counted), 1, "what was there was dropped");
        // SAFETY: within the pages, which stay.
        assert_eq!(unsafe { at.read() }, [0; 32]);
        assert_eq!(Place::<u8>::take(pages).unwrap().first, 0);
    }

    #[test]
    fn what_finds_no_place_lies_elsewhere() {
        let pages = pages();
        let all: Vec<_> = std::iter::from_fn(|| Place::<u8>::take(pages)).collect();
        assert_eq!(all.len(), UNITS);
        drop(all);
        assert!(Place::<[u8; PAGES_BYTES + 1]>::take(pages).is_none(), "too large");
        let failed = Place::<[u8; PAGES_BYTES]>::take(pages).unwrap().fill(|| Err("made nothing"));
        assert_eq!(failed.err(), Some("made nothing"));
        assert_eq!(Place::<u8>::take(pages).unwrap().first, 0, "its place is free again");
        assert_eq!(SecretPages.keep(|| [1_u8; 2 * PAGES_BYTES])[PAGES_BYTES], 1);
    }

    #[test]
    fn ordinary_pages_stand_in_for_secret_ones() {
        let (first, locked) = ordinary().unwrap();
        let why = Some(format!("no others; {locked}"));
        let pages = Pages { first: AtomicPtr::new(first), taken: Mutex::new([false; UNITS]), ordinary: why };
        let pages: &'static Pages = Box::leak(Box::new(pages));
        let kept = Place::take(pages).unwrap().fill(|| Ok::<_, ()>([9_u8; 32])).unwrap();
        assert_eq!(*kept, [9; 32]);
        #[cfg(target_os = "linux")]
        {
            // The kernel's own word: `lo` is locked, `dd` is in no core file.
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let ours = maps.split_once(&format!("{:x}-", first.addr())).unwrap().1;
            let flags = ours.lines().find_map(|line| line.strip_prefix("VmFlags: ")).unwrap();
            assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
            assert_eq!(flags.split(' ').any(|flag| flag == "lo"), locked == "which is never swapped", "{flags}");
        }
    }
}
