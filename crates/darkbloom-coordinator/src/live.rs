//! The requests that are being relayed: each once, and no account more than its share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use darkbloom_types::{AccountId, Refusal, RefusalCode, RequestId};
use tokio::sync::Notify;

/// Requests of one account at once: eight providers of eight rows, and a sixteenth of what a gateway works on, so that
/// one account can neither hold every row nor every place in the queue.
pub const LIVE_PER_ACCOUNT_MAX: usize = 64;

/// Requests that are being relayed.
#[derive(Debug, Default)]
pub struct Live {
    requests: HashMap<RequestId, (AccountId, Arc<Notify>)>,
    /// How many of them are each account's; accounts without any are not kept.
    of_account: HashMap<AccountId, usize>,
}

impl Live {
    /// A request is live from now on; what is returned is notified when it waits for room and there may be some.
    ///
    /// # Errors
    /// [`Refusal`] when it is live already, for then the same sealing was submitted twice, or when the account has as many
    /// as it may.
    pub fn begin(&mut self, request: RequestId, account: AccountId) -> Result<Arc<Notify>, Refusal> {
        let Entry::Vacant(free) = self.requests.entry(request) else {
            return Err(RefusalCode::Replayed.into());
        };
        let count = self.of_account.entry(account).or_default();
        if *count >= LIVE_PER_ACCOUNT_MAX {
            let detail = format!("{LIVE_PER_ACCOUNT_MAX} requests of this account are being answered");
            return Err(Refusal::new(RefusalCode::RateLimitExceeded, detail));
        }
        *count += 1;
        let room = Arc::new(Notify::new());
        free.insert((account, Arc::clone(&room)));
        Ok(room)
    }

    /// A request is over.
    pub fn end(&mut self, request: &RequestId) {
        let Some((account, _)) = self.requests.remove(request) else { return };
        if let Entry::Occupied(mut count) = self.of_account.entry(account) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Tells a request that there may be room.
    pub fn wake(&self, request: &RequestId) {
        if let Some((_, room)) = self.requests.get(request) {
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

    fn id(number: usize) -> RequestId {
        RequestId((number as u128).to_be_bytes())
    }

    #[test]
    fn an_account_has_its_share_and_no_more() {
        let (mut live, one, other) = (Live::default(), AccountId(1), AccountId(2));
        for number in 0..LIVE_PER_ACCOUNT_MAX {
            assert!(live.begin(id(number), one).is_ok());
        }
        let refused = live.begin(id(1_000), one).unwrap_err();
        assert_eq!(refused.code, RefusalCode::RateLimitExceeded);
        assert!(!live.contains(&id(1_000)));
        assert!(live.begin(id(1_001), other).is_ok(), "what one account does is nothing to another");
        live.end(&id(7));
        assert!(live.begin(id(1_000), one).is_ok(), "a place is free again");
        assert_eq!(live.begin(id(1_002), one).unwrap_err().code, RefusalCode::RateLimitExceeded);
    }

    #[test]
    fn a_sealing_is_live_once_and_its_end_counts_once() {
        let (mut live, account) = (Live::default(), AccountId(1));
        assert!(live.begin(id(1), account).is_ok());
        assert_eq!(live.begin(id(1), account).unwrap_err().code, RefusalCode::Replayed);
        live.end(&id(1));
        live.end(&id(1));
        live.end(&id(2));
        assert!(live.is_empty() && live.of_account.is_empty(), "{live:?}");
        assert!(live.begin(id(1), account).is_ok());
    }
}
