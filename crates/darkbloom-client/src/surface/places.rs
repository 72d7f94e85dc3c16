//! Places for requests: so many for all keys together, and no key more than its share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use darkbloom_types::{Digest, Refusal, RefusalCode, SecretString};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::keys::digest;

/// Places of one key at once: as many requests as a coordinator works on for one account, so that one key can take a
/// sixteenth of a gateway's places and no more.
pub const OF_KEY_MAX: usize = 64;

/// Requests of each key that has any, by the key's digest: never more entries than there are places.
type OfKey = Arc<Mutex<HashMap<Digest, usize>>>;

/// The places of a surface.
pub struct Places {
    /// Those that nobody has.
    pub(super) free: Arc<Semaphore>,
    of_key: OfKey,
}

impl Places {
    /// So many for all keys together.
    pub fn new(most: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(most)), of_key: OfKey::default() }
    }

    /// A place for a request with this key, for as long as it is kept.
    pub fn take(&self, key: &SecretString) -> Result<Place, Refusal> {
        let full = |_| Refusal::new(RefusalCode::NoCapacity, "too many requests at once here");
        let place = Arc::clone(&self.free).try_acquire_owned().map_err(full)?;
        let digest = digest(key);
        let mut of_key = lock(&self.of_key);
        let count = of_key.entry(digest).or_default();
        if *count >= OF_KEY_MAX {
            let detail = format!("{OF_KEY_MAX} requests with this key are worked on here");
            return Err(Refusal::new(RefusalCode::RateLimitExceeded, detail));
        }
        *count += 1;
        drop(of_key);
        Ok(Place { digest, of_key: Arc::clone(&self.of_key), _of_all: place })
    }
}

/// One request's place; dropping it gives it back.
pub struct Place {
    digest: Digest,
    of_key: OfKey,
    _of_all: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = lock(&self.of_key).entry(self.digest) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

fn lock(of_key: &OfKey) -> MutexGuard<'_, HashMap<Digest, usize>> {
    of_key.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(places: &Places, key: &str) -> Option<RefusalCode> {
        places.take(&key.into()).err().map(|refusal| refusal.code)
    }

    #[test]
    fn no_key_takes_more_than_its_share_and_nobody_elses() {
        let places = Places::new(1_024);
        let mut greedy: Vec<_> = (0..OF_KEY_MAX).map(|_| places.take(&"greedy".into()).ok().unwrap()).collect();
        for _ in 0..2 {
            assert_eq!(refused(&places, "greedy"), Some(RefusalCode::RateLimitExceeded));
            assert_eq!(places.free.available_permits(), 1_024 - OF_KEY_MAX, "a refusal takes no place");
        }
        assert_eq!(refused(&places, "other"), None);
        drop(greedy.pop());
        let again = places.take(&"greedy".into());
        assert!(again.is_ok());
        assert_eq!(refused(&places, "greedy"), Some(RefusalCode::RateLimitExceeded));
        drop((greedy, again));
        assert!(lock(&places.of_key).is_empty(), "keys without requests are not kept");
        assert_eq!(places.free.available_permits(), 1_024);
    }

    #[test]
    fn without_room_for_all_no_key_gets_a_place_or_is_counted() {
        let places = Places::new(1);
        let first = places.take(&"one".into());
        assert!(first.is_ok());
        assert_eq!(refused(&places, "other"), Some(RefusalCode::NoCapacity));
        assert_eq!(lock(&places.of_key).len(), 1);
        drop(first);
        assert_eq!(refused(&places, "other"), None);
    }
}
