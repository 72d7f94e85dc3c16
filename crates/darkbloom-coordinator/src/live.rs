//! The requests that are being relayed: each once, and no account more than its share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use darkbloom_types::{AccountId, Refusal, RefusalCode, RequestId};
use tokio::sync::Notify;

/// Requests of one account at once, those included whose bodies are still being read: eight providers of eight rows, and a sixteenth of what a gateway works on, so that
/// one account can neither hold every row nor every place in the queue.
pub const LIVE_PER_ACCOUNT_MAX: usize = 64;

/// Requests that are being relayed.
#[derive(Debug, Default)]
pub struct Live {
    requests: HashMap<RequestId, Arc<Notify>>,
    /// How many places each account has taken; accounts without any are not kept.
    of_account: HashMap<AccountId, usize>,
}

impl Live {
    /// An account takes a place, before anything of its request is read.
    ///
    /// # Errors
    /// [`Refusal`] when the account has as many as it may.
    pub fn enter(&mut self, account: AccountId) -> Result<(), Refusal> {
        let count = self.of_account.entry(account).or_default();
        if *count >= LIVE_PER_ACCOUNT_MAX {
            let detail = format!("{LIVE_PER_ACCOUNT_MAX} requests of this account are being answered");
            return Err(Refusal::new(RefusalCode::RateLimitExceeded, detail));
        }
        *count += 1;
        Ok(())
    }

    /// An account gives a place back.
    pub fn leave(&mut self, account: AccountId) {
        if let Entry::Occupied(mut count) = self.of_account.entry(account) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// A request is live from now on; what is returned is notified when it waits for room and there may be some.
    ///
    /// # Errors
    /// [`Refusal`] when it is live already, for then the same sealing was submitted twice.
    pub fn begin(&mut self, request: RequestId) -> Result<Arc<Notify>, Refusal> {
        let Entry::Vacant(free) = self.requests.entry(request) else {
            return Err(RefusalCode::Replayed.into());
        };
        let room = Arc::new(Notify::new());
        free.insert(Arc::clone(&room));
        Ok(room)
    }

    /// A request is over.
    pub fn end(&mut self, request: &RequestId) {
        self.requests.remove(request);
    }

    /// Tells a request that there may be room.
    pub fn wake(&self, request: &RequestId) {
        if let Some(room) = self.requests.get(request) {
            room.notify_one();
        }
    }

    /// Whether a request is being relayed.
    pub fn contains(&self, request: &RequestId) -> bool {
        self.requests.contains_key(request)
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_its_share_and_no_more() {
        let (mut live, one, other) = (Live::default(), AccountId(1), AccountId(2));
        for _ in 0..LIVE_PER_ACCOUNT_MAX {
            assert!(live.enter(one).is_ok());
        }
        assert_eq!(live.enter(one).unwrap_err().code, RefusalCode::RateLimitExceeded);
        assert!(live.enter(other).is_ok(), "what one account does is nothing to another");
        live.leave(one);
        assert!(live.enter(one).is_ok(), "a place is free again");
        assert_eq!(live.enter(one).unwrap_err().code, RefusalCode::RateLimitExceeded);
        for _ in 0..LIVE_PER_ACCOUNT_MAX {
            live.leave(one);
        }
        live.leave(other);
        live.leave(other);
        assert!(live.of_account.is_empty(), "{live:?}");
    }

    #[test]
    fn a_sealing_is_live_once() {
        let (mut live, id) = (Live::default(), RequestId([1; 16]));
        assert!(live.begin(id).is_ok());
        assert_eq!(live.begin(id).unwrap_err().code, RefusalCode::Replayed);
        live.end(&id);
        live.end(&id);
        assert!(live.is_empty(), "{live:?}");
        assert!(live.begin(id).is_ok());
    }
}
