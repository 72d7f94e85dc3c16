//! Whose secrets are whose, and how long a provider keeps them.

// What the other tests share is more than is needed here.
#![allow(dead_code, clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[path = "seal/fixed.rs"]
mod fixed;
#[path = "seal/parties.rs"]
mod parties;

use parties::{Provider, header, minutes, seal};

#[test]
fn the_current_epoch_outlives_its_end_also_when_it_is_not_the_first() {
    let mut provider = Provider::new("ring");
    let first = provider.current();
    let second = provider.rotate("ring 2", minutes(50));
    provider.ring.expire(minutes(69));
    assert!(provider.ring.by_id(&first).is_some(), "it still opens");
    provider.ring.expire(minutes(10_000));
    assert!(provider.ring.by_id(&first).is_none(), "it must be erased");
    assert_eq!(provider.current(), second, "somebody must answer for the identity until the next epoch");
}

#[test]
fn a_secret_belongs_to_a_provider_and_its_epoch_together() {
    let (one, other) = (Provider::new("one"), Provider::new("other"));
    let sealed = seal(header(), b"text", &[&one, &other], "sender");
    assert!(sealed.response_secret(&one.id, &one.current()).is_some());
    assert!(sealed.response_secret(&other.id, &other.current()).is_some());
    assert!(sealed.response_secret(&one.id, &other.current()).is_none());
    assert!(sealed.response_secret(&other.id, &one.current()).is_none());
}
