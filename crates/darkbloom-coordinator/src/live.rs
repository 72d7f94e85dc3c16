//! The requests that are being relayed: each once, and no account more than its share.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use darkbloom_types::{AccountId, Millis, MonoMillis, Refusal, RefusalCode, RequestId, Turns};
use tokio::sync::Notify;

/// Requests of one account at once, those included whose bodies are still being read: eight providers of eight rows, and a
/// sixteenth of what a gateway works on, so that one account can neither hold every row nor every place in the queue.
pub const LIVE_PER_ACCOUNT_MAX: usize = 64;
/// Requests of one account that providers may call wrong at once. They cost a provider an opening and their sender nothing,
/// so they are what somebody would send who wants to wear it out. As many as may be live.
pub const WRONG_BURST: u32 = LIVE_PER_ACCOUNT_MAX as u32;
/// And then one more in this time. A provider's set against replays takes 131,072 openings an epoch, which are 36 a second.
pub const WRONG_EVERY: Millis = Millis::from_secs(1);
/// Accounts whose wrong requests are remembered before those are forgotten that have all their turns again.
const WRONG_ACCOUNTS: usize = 4_096;

/// Requests that are being relayed.
#[derive(Debug, Default)]
pub struct Live {
    requests: HashMap<RequestId, Arc<Notify>>,
    /// How many places each account has taken; accounts without any are not kept.
    of_account: HashMap<AccountId, usize>,
    /// What providers called wrong of each account.
    wrong: HashMap<AccountId, Turns>,
}

impl Live {
    /// An account takes a place, before anything of its request is read.
    ///
    /// # Errors
    /// [`Refusal`] when the account has as many as it may, or sends what providers cannot use.
    pub fn enter(&mut self, account: AccountId, now: MonoMillis) -> Result<(), Refusal> {
        if self.wrong.get(&account).is_some_and(|turns| !turns.has(now, WRONG_EVERY, WRONG_BURST)) {
            let detail = "providers call too many requests of this account wrong; correct them as the refusals say";
            return Err(Refusal::new(RefusalCode::RateLimitExceeded, detail));
        }
        let count = self.of_account.entry(account).or_default();
        if *count >= LIVE_PER_ACCOUNT_MAX {
            let detail = format!("{LIVE_PER_ACCOUNT_MAX} requests of this account are being answered");
            return Err(Refusal::new(RefusalCode::RateLimitExceeded, detail));
        }
        *count += 1;
        Ok(())
    }

    /// A provider called a request of this account wrong.
    pub fn called_wrong(&mut self, account: AccountId, now: MonoMillis) {
        if self.wrong.len() >= WRONG_ACCOUNTS {
            self.wrong.retain(|_, turns| !turns.is_full(now));
        }
        // Those that are live already are answered; the next one is not.
        let _ = self.wrong.entry(account).or_insert_with(|| Turns::full(now)).take(now, WRONG_EVERY, WRONG_BURST);
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

    /// How many there are.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: MonoMillis = MonoMillis(1_000_000);

    #[test]
    fn an_account_has_its_share_and_no_more() {
        let (mut live, one, other) = (Live::default(), AccountId(1), AccountId(2));
        for _ in 0..LIVE_PER_ACCOUNT_MAX {
            assert!(live.enter(one, T0).is_ok());
        }
        assert_eq!(live.enter(one, T0).unwrap_err().code, RefusalCode::RateLimitExceeded);
        assert!(live.enter(other, T0).is_ok(), "what one account does is nothing to another");
        live.leave(one);
        assert!(live.enter(one, T0).is_ok(), "a place is free again");
        assert_eq!(live.enter(one, T0).unwrap_err().code, RefusalCode::RateLimitExceeded);
        for _ in 0..LIVE_PER_ACCOUNT_MAX {
            live.leave(one);
        }
        live.leave(other);
        live.leave(other);
        assert!(live.of_account.is_empty(), "{live:?}");
    }

    #[test]
    fn an_account_whose_requests_are_wrong_is_slowed_down_and_no_other() {
        let (mut live, one, other) = (Live::default(), AccountId(1), AccountId(2));
        for _ in 0..WRONG_BURST {
            assert!(live.enter(one, T0).is_ok());
            live.leave(one);
            live.called_wrong(one, T0);
        }
        assert_eq!(live.enter(one, T0).unwrap_err().code, RefusalCode::RateLimitExceeded);
        assert!(live.enter(other, T0).is_ok());
        let later = T0.after(WRONG_EVERY);
        assert!(live.enter(one, later).is_ok(), "what is right among them is served at the steady rate");
        live.called_wrong(one, later);
        assert!(live.enter(one, later).is_err());
        for account in 0..2 * WRONG_ACCOUNTS as i64 {
            live.called_wrong(AccountId(account), later.after(Millis(account as u64 * 10)));
        }
        assert!(live.wrong.len() <= WRONG_ACCOUNTS, "{}", live.wrong.len());
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
