//! Signing in where nobody can type a key (RFC 8628): a machine shows a short code, somebody with an account's key approves
//! it elsewhere, and the machine gets a key of its own, once.
//!
//! ```text
//! begin ──▶ Waiting ──approve──▶ Approved ──poll──▶ (gone: a key was made)
//!              │ └───deny──────▶ Denied ───poll──▶ (gone)
//!              └─15 minutes────▶ (gone: expired)
//! ```
//!
//! Nothing of it outlives the process: whoever waited then begins again.

use std::collections::HashMap;

use darkbloom_store::KeyKind;
use darkbloom_types::{AccountId, Digest, Millis, MonoMillis, SecretString, Turns, UnixMillis};
use rand_core::CryptoRng;

/// How long a code may wait; RFC 8628 section 3.2 leaves it open, and a person takes minutes.
pub const LIFE: Millis = Millis::from_minutes(15);
/// How often a machine may ask (RFC 8628 section 3.5), and how much longer it waits each time it asked too soon.
pub const INTERVAL: Millis = Millis::from_secs(5);
/// Codes that may wait at once: anybody may begin one.
const WAITING_MAX: usize = 1_000;
/// Wrong codes that an account may try at once, and then one more in this time: with 20⁸ codes and a thousand of them
/// waiting, a guess every minute hits one in 40 years.
const GUESSES: u32 = 5;
const GUESS_EVERY: Millis = Millis::from_secs(60);
/// Accounts whose guesses are remembered before those are forgotten that have all their turns again.
const GUESSERS: usize = 4_096;
/// Letters of a code that a person types: no vowels, so that no words arise, and nothing that looks like another (RFC 8628
/// section 6.1).
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
const CODE_LETTERS: usize = 8;

/// What a machine is told when it begins.
#[derive(Debug)]
pub struct Begun {
    /// What it asks with.
    pub device_code: SecretString,
    /// What it shows.
    pub user_code: String,
}

/// What a machine hears when it asks.
#[derive(Debug, PartialEq, Eq)]
pub enum Polled {
    /// Nobody has decided.
    Pending,
    /// The same, and it asks too often.
    SlowDown,
    /// Somebody said no.
    Denied,
    /// There is no such code, or no more.
    Expired,
    /// Somebody said yes. The code is gone with this answer.
    Approved(Grant),
}

/// What was approved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whose key it becomes.
    pub account: AccountId,
    /// What the key opens.
    pub kind: KeyKind,
    /// What the key is called.
    pub name: String,
    /// When the key ends: with that of who approved it.
    pub until: Option<UnixMillis>,
}

/// Why nothing is approved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotApproved {
    /// No machine shows this code.
    Unknown,
    /// The account tried too many wrong ones.
    TooManyGuesses,
}

#[derive(Debug)]
enum State {
    Waiting,
    Approved(AccountId, Option<UnixMillis>),
    Denied,
}

#[derive(Debug)]
struct Waiting {
    user_code: String,
    kind: KeyKind,
    name: String,
    state: State,
    until: MonoMillis,
    interval: Millis,
    next: MonoMillis,
}

/// Codes that wait.
#[derive(Debug, Default)]
pub struct Devices {
    /// By the digest of what the machine asks with.
    waiting: HashMap<Digest, Waiting>,
    by_code: HashMap<String, Digest>,
    guesses: HashMap<AccountId, Turns>,
}

impl Devices {
    /// A machine wants a key of this kind. None where too many wait.
    pub fn begin(&mut self, kind: KeyKind, name: &str, now: MonoMillis, rng: &mut impl CryptoRng) -> Option<Begun> {
        self.forget(now);
        if self.waiting.len() >= WAITING_MAX {
            return None;
        }
        let mut secret = [0; 24];
        rng.fill_bytes(&mut secret);
        let device_code = SecretString::new(hex::encode(secret));
        let user_code = loop {
            let code = user_code(rng);
            if !self.by_code.contains_key(&code) {
                break code;
            }
        };
        let digest = Digest::of(&[device_code.expose().as_bytes()]);
        let waiting = Waiting {
            user_code: user_code.clone(),
            kind,
            name: name.to_owned(),
            state: State::Waiting,
            until: now.after(LIFE),
            interval: INTERVAL,
            next: now,
        };
        self.by_code.insert(user_code.clone(), digest);
        self.waiting.insert(digest, waiting);
        Some(Begun { device_code, user_code })
    }

    /// A machine asks.
    pub fn poll(&mut self, device_code: &str, now: MonoMillis) -> Polled {
        let digest = Digest::of(&[device_code.as_bytes()]);
        let Some(waiting) = self.waiting.get_mut(&digest).filter(|waiting| now < waiting.until) else {
            self.remove(&digest);
            return Polled::Expired;
        };
        let too_soon = now < waiting.next;
        if too_soon {
            waiting.interval = Millis(waiting.interval.0 + INTERVAL.0);
        }
        waiting.next = now.after(waiting.interval);
        match waiting.state {
            // Also what was decided is said only to who keeps to the pace.
            _ if too_soon => Polled::SlowDown,
            State::Waiting => Polled::Pending,
            State::Denied => {
                self.remove(&digest);
                Polled::Denied
            }
            State::Approved(account, until) => match self.remove(&digest) {
                Some(Waiting { kind, name, .. }) => Polled::Approved(Grant { account, kind, name, until }),
                None => Polled::Expired,
            },
        }
    }

    /// What a code that a person typed would be given: the kind and the name of the key.
    ///
    /// # Errors
    /// [`NotApproved`]; a wrong code is a guess.
    pub fn look(&mut self, typed: &str, by: AccountId, now: MonoMillis) -> Result<(KeyKind, String), NotApproved> {
        let waiting = self.typed(typed, by, now)?;
        Ok((waiting.kind, waiting.name.clone()))
    }

    /// Somebody with an account decides about a code.
    ///
    /// # Errors
    /// [`NotApproved`]; a wrong code is a guess.
    pub fn decide(
        &mut self,
        typed: &str,
        by: AccountId,
        until: Option<UnixMillis>,
        yes: bool,
        now: MonoMillis,
    ) -> Result<(), NotApproved> {
        let waiting = self.typed(typed, by, now)?;
        if !matches!(waiting.state, State::Waiting) {
            return Err(NotApproved::Unknown);
        }
        waiting.state = if yes { State::Approved(by, until) } else { State::Denied };
        Ok(())
    }

    /// A grant whose key could not be made is there again, until its machine asks the next time.
    pub fn give_back(&mut self, device_code: &str, grant: Grant, now: MonoMillis) {
        let Grant { account, kind, name, until } = grant;
        let state = State::Approved(account, until);
        // Nobody has to type it any more.
        let user_code = String::new();
        let waiting = Waiting { user_code, kind, name, state, until: now.after(LIFE), interval: INTERVAL, next: now };
        self.waiting.insert(Digest::of(&[device_code.as_bytes()]), waiting);
    }

    fn typed(&mut self, typed: &str, by: AccountId, now: MonoMillis) -> Result<&mut Waiting, NotApproved> {
        if self.guesses.len() >= GUESSERS {
            self.guesses.retain(|_, turns| !turns.is_full(now));
        }
        let turns = self.guesses.entry(by).or_insert_with(|| Turns::full(now));
        if !turns.has(now, GUESS_EVERY, GUESSES) {
            return Err(NotApproved::TooManyGuesses);
        }
        let code: String = typed.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_uppercase()).collect();
        let digest = self.by_code.get(&code).copied();
        let alive = digest.filter(|digest| self.waiting.get(digest).is_some_and(|waiting| now < waiting.until));
        let Some(waiting) = alive.and_then(|digest| self.waiting.get_mut(&digest)) else {
            let _ = turns.take(now, GUESS_EVERY, GUESSES);
            return Err(NotApproved::Unknown);
        };
        Ok(waiting)
    }

    fn remove(&mut self, digest: &Digest) -> Option<Waiting> {
        let waiting = self.waiting.remove(digest)?;
        self.by_code.remove(&waiting.user_code);
        Some(waiting)
    }

    fn forget(&mut self, now: MonoMillis) {
        let over: Vec<_> =
            self.waiting.iter().filter(|(_, waiting)| now >= waiting.until).map(|(digest, _)| *digest).collect();
        for digest in over {
            self.remove(&digest);
        }
    }
}

/// A code for a person, without its dash.
fn user_code(rng: &mut impl CryptoRng) -> String {
    let mut code = String::with_capacity(CODE_LETTERS);
    while code.len() < CODE_LETTERS {
        // Of 256 values the last 16 would favour some letters.
        let value = usize::from(rng.next_u32() as u8);
        if value < 240 {
            code.push(char::from(LETTERS[value % LETTERS.len()]));
        }
    }
    code
}

/// A code as it is shown: in two halves.
pub fn shown(user_code: &str) -> String {
    let (first, second) = user_code.split_at(user_code.len() / 2);
    format!("{first}-{second}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use darkbloom_host::clock;

    const OWNER: AccountId = AccountId(3);

    fn at(seconds: u64) -> MonoMillis {
        MonoMillis(1).after(Millis::from_secs(seconds))
    }

    fn begun() -> (Devices, Begun) {
        let mut devices = Devices::default();
        let begun = devices.begin(KeyKind::Join, "attic", at(0), &mut clock::rng()).unwrap();
        (devices, begun)
    }

    #[test]
    fn a_code_gives_one_key_to_the_machine_that_began_it() {
        let (mut devices, begun) = begun();
        let code = begun.device_code.expose();
        assert_eq!(devices.poll(code, at(0)), Polled::Pending);
        assert_eq!(devices.look(&shown(&begun.user_code), OWNER, at(1)), Ok((KeyKind::Join, "attic".to_owned())));
        devices.decide(&shown(&begun.user_code).to_lowercase(), OWNER, None, true, at(2)).unwrap();
        let again = devices.decide(&begun.user_code, AccountId(4), None, true, at(2));
        assert_eq!(again, Err(NotApproved::Unknown), "it was decided");
        let grant = Grant { account: OWNER, kind: KeyKind::Join, name: "attic".to_owned(), until: None };
        assert_eq!(devices.poll(code, at(5)), Polled::Approved(grant.clone()));
        assert_eq!(devices.poll(code, at(10)), Polled::Expired);
        devices.give_back(code, grant.clone(), at(11));
        assert_eq!(devices.poll(code, at(11)), Polled::Approved(grant));
    }

    #[test]
    fn who_asks_too_often_waits_longer_and_hears_nothing() {
        let (mut devices, begun) = begun();
        let code = begun.device_code.expose();
        assert_eq!(devices.poll(code, at(0)), Polled::Pending);
        devices.decide(&begun.user_code, OWNER, None, true, at(1)).unwrap();
        assert_eq!(devices.poll(code, at(4)), Polled::SlowDown);
        assert_eq!(devices.poll(code, at(13)), Polled::SlowDown, "ten seconds it has to wait now");
        assert!(matches!(devices.poll(code, at(28)), Polled::Approved(_)));
    }

    #[test]
    fn codes_expire_and_are_denied() {
        let (mut devices, begun) = begun();
        assert_eq!(devices.decide(&begun.user_code, OWNER, None, true, at(900)), Err(NotApproved::Unknown));
        assert_eq!(devices.poll(begun.device_code.expose(), at(900)), Polled::Expired);
        let (mut devices, begun) = self::begun();
        devices.decide(&begun.user_code, OWNER, None, false, at(1)).unwrap();
        assert_eq!(devices.poll(begun.device_code.expose(), at(2)), Polled::Denied);
        assert_eq!(devices.poll(begun.device_code.expose(), at(8)), Polled::Expired);
    }

    #[test]
    fn guessing_is_limited_for_each_account() {
        let (mut devices, begun) = begun();
        for _ in 0..GUESSES {
            assert_eq!(devices.decide("AAAA-AAAA", OWNER, None, true, at(1)), Err(NotApproved::Unknown));
        }
        assert_eq!(devices.decide(&begun.user_code, OWNER, None, true, at(1)), Err(NotApproved::TooManyGuesses));
        assert_eq!(devices.decide(&begun.user_code, AccountId(4), None, true, at(1)), Ok(()), "others may");
    }

    #[test]
    fn no_more_codes_wait_than_is_stated_and_old_ones_make_room() {
        let mut devices = Devices::default();
        for _ in 0..WAITING_MAX {
            assert!(devices.begin(KeyKind::Consumer, "n", at(0), &mut clock::rng()).is_some());
        }
        assert!(devices.begin(KeyKind::Consumer, "n", at(899), &mut clock::rng()).is_none());
        assert!(devices.begin(KeyKind::Consumer, "n", at(900), &mut clock::rng()).is_some());
        assert_eq!((devices.waiting.len(), devices.by_code.len()), (1, 1));
    }

    #[test]
    fn codes_are_letters_that_nobody_confuses() {
        let code = user_code(&mut clock::rng());
        assert_eq!(code.len(), 8);
        assert!(code.bytes().all(|letter| LETTERS.contains(&letter)), "{code}");
        assert_eq!(shown("BCDFGHJK"), "BCDF-GHJK");
    }
}
