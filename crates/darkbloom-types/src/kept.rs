//! Secrets that live long, in a place that whoever makes them chooses.
//!
//! A key that is used for an hour lies still, and so can lie where the machine shows it to nobody else. Which memory that is
//! the pure crates do not know: a [`Keeper`] comes in as an argument, as randomness does.

use std::convert::Infallible;
use std::ops::Deref;
use std::sync::Arc;

/// A secret in its place. Its last holder erases it, if it is of a type that erases itself.
pub struct Kept<T>(Arc<dyn Deref<Target = T> + Send + Sync>);

impl<T: Send + Sync + 'static> Kept<T> {
    /// A secret that lies there.
    #[must_use]
    pub fn new(place: impl Deref<Target = T> + Send + Sync + 'static) -> Self {
        Self(Arc::new(place))
    }

    /// A secret in ordinary memory.
    #[must_use]
    pub fn on_heap(secret: T) -> Self {
        Self::new(Box::new(secret))
    }
}

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Kept<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> std::fmt::Debug for Kept<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept(…)")
    }
}

/// Whoever gives long-lived secrets their place.
pub trait Keeper {
    /// Makes a secret and puts it into its place.
    ///
    /// # Errors
    /// That of making it.
    fn try_keep<T: Send + Sync + 'static, E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<Kept<T>, E>;

    /// Makes a secret, which does not fail, and puts it into its place.
    fn keep<T: Send + Sync + 'static>(&self, make: impl FnOnce() -> T) -> Kept<T> {
        let Ok(kept) = self.try_keep(|| Ok::<_, Infallible>(make()));
        kept
    }
}

/// Ordinary memory: for tests, and for what lives shortly.
#[derive(Debug, Clone, Copy)]
pub struct OnHeap;

impl Keeper for OnHeap {
    fn try_keep<T: Send + Sync + 'static, E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<Kept<T>, E> {
        make().map(Kept::on_heap)
    }
}

/// More than what making, using and signing with any of our keys takes of the stack: ML-KEM's matrices are the largest, with
/// some 20 KiB.
const STACK_BYTES: usize = 64 << 10;

/// Overwrites what functions that have returned left on this thread's stack. Values are moved by copying, and arithmetic has
/// copies of its own, which no type erases. To be called by whoever called the function that used the secret.
#[inline(never)]
pub fn scrub_stack() {
    let mut room = [0_u8; STACK_BYTES];
    // Somebody might look at it or change it, so it must be there: a shared one would be one of the program's constants.
    std::hint::black_box(&mut room);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves so many bytes on the stack, and says where the middle of them was.
    #[cfg(target_os = "linux")]
    #[inline(never)]
    fn leave() -> usize {
        let mut left = [0x5a_u8; STACK_BYTES / 2];
        std::hint::black_box(&mut left)[STACK_BYTES / 4..].as_ptr().addr()
    }

    /// How many of the bytes at this address are those that were left.
    #[cfg(target_os = "linux")]
    fn left_at(address: usize) -> usize {
        use std::os::unix::fs::FileExt as _;
        let mut read = [0; 4096];
        std::fs::File::open("/proc/self/mem").unwrap().read_exact_at(&mut read, address as u64).unwrap();
        read.iter().filter(|byte| **byte == 0x5a).count()
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_a_function_left_on_the_stack_is_overwritten() {
        let address = leave();
        assert!(left_at(address) > 4_000, "it stays where nobody overwrites it");
        let address = leave();
        scrub_stack();
        assert!(left_at(address) < 100);
    }

    #[test]
    fn a_kept_secret_is_used_by_all_its_holders_and_never_printed() {
        let first = OnHeap.keep(|| "secret".to_owned());
        let second = first.clone();
        drop(first);
        assert_eq!(second.len(), 6);
        assert_eq!(format!("{second:?}"), "Kept(…)");
        scrub_stack();
        assert_eq!(&**second, "secret");
    }
}
