//! The life of an epoch: used for 60 minutes, opens for 70, then gone.

use darkbloom_seal::{EPOCH_OPEN, EPOCH_USE, Epoch, EpochRing, OpenError, RequestSeal};
use darkbloom_types::{EpochId, Millis, NetworkId, RefusalCode, UnixMillis};
use darkbloom_wire::{SealedHeader, Signer as _, Wrap};

use crate::fixed::FixedRng;
use crate::parties::{BEGIN, MINUTE, NETWORK, Provider, header_at, minutes, seal};

fn try_at(ring: &mut EpochRing, sealed: &RequestSeal, now: UnixMillis) -> Result<(), OpenError> {
    ring.open(&sealed.submit.header, &sealed.submit.body, &sealed.submit.wraps.0[0], now).map(drop)
}

/// Sealed to the provider's current epoch at a time, opened at the same time.
fn sealed_and_opened(provider: &mut Provider, now: UnixMillis) -> Result<(), OpenError> {
    let sealed = seal(header_at(now), b"hello", &[provider], &format!("client {}", now.0));
    try_at(&mut provider.ring, &sealed, now)
}

#[test]
fn an_epoch_opens_for_seventy_minutes_and_not_a_millisecond_longer() {
    assert_eq!((EPOCH_USE, EPOCH_OPEN), (Millis::from_minutes(60), Millis::from_minutes(70)));
    let mut provider = Provider::new("a");
    assert_eq!(sealed_and_opened(&mut provider, BEGIN), Ok(()));
    assert_eq!(sealed_and_opened(&mut provider, UnixMillis(minutes(70).0 - 1)), Ok(()));
    assert_eq!(sealed_and_opened(&mut provider, minutes(70)), Err(OpenError::UnknownEpoch));
}

#[test]
fn the_statement_says_the_same_times() {
    let provider = Provider::new("a");
    let statement = provider.ring.current().statement(NETWORK, vec![], vec![], "test");
    assert_eq!((statement.not_before, statement.use_until, statement.open_until), (BEGIN, minutes(60), minutes(70)));
    assert_eq!(statement.epoch(), provider.current());
    assert_eq!(statement.provider(), provider.id);
    assert_eq!(provider.ring.current().nonce().0[..16], provider.current().0);
}

#[test]
fn epochs_overlap_and_the_old_one_is_erased_when_it_no_longer_opens() {
    let mut provider = Provider::new("a");
    let first = provider.current();
    assert_eq!(provider.ring.rotate_at(), minutes(50));
    let old = seal(header_at(minutes(59)), b"hello", &[&provider], "old");
    let second = provider.rotate("a2", minutes(50));
    assert_ne!(first, second);
    assert_eq!(provider.ring.rotate_at(), minutes(100));
    assert_eq!(provider.ring.by_id(&first).map(Epoch::id), Some(first));

    provider.ring.expire(UnixMillis(minutes(70).0 - 1));
    assert!(provider.ring.by_id(&first).is_some());
    assert_eq!(try_at(&mut provider.ring, &old, minutes(69)), Ok(()), "what was in flight still opens");
    provider.ring.expire(minutes(70));
    assert!(provider.ring.by_id(&first).is_none());
    assert_eq!(try_at(&mut provider.ring, &old, minutes(69)), Err(OpenError::UnknownEpoch), "its key is gone");
    assert_eq!(provider.current(), second);
    assert_eq!(sealed_and_opened(&mut provider, minutes(71)), Ok(()));
}

#[test]
fn the_current_epoch_stays_until_it_is_replaced_but_opens_no_longer() {
    let mut provider = Provider::new("a");
    let first = provider.current();
    provider.ring.expire(minutes(1_000));
    assert_eq!(provider.current(), first);
    assert_eq!(sealed_and_opened(&mut provider, minutes(1_000)), Err(OpenError::UnknownEpoch));
}

#[test]
fn a_machine_that_slept_through_an_epochs_end_erases_it_when_the_next_begins() {
    let mut provider = Provider::new("a");
    let first = provider.current();
    provider.rotate("a2", minutes(500));
    assert!(provider.ring.by_id(&first).is_none());
}

#[test]
fn the_receipt_key_outlives_its_epoch_for_who_was_admitted() {
    let mut provider = Provider::new("a");
    let key = provider.ring.current().receipt_key();
    let before = key.sign(b"receipt").unwrap();
    provider.rotate("a2", minutes(500));
    assert_eq!(key.sign(b"receipt").unwrap(), before);
}

#[test]
fn at_most_eight_epochs_are_kept() {
    let mut provider = Provider::new("a");
    let mut all = vec![provider.current()];
    for index in 0..9 {
        all.push(provider.rotate(&format!("a{index}"), BEGIN));
    }
    let kept: Vec<_> = all.iter().map(|id| provider.ring.by_id(id).is_some()).collect();
    assert_eq!(kept, [vec![false; 2], vec![true; 8]].concat());
}

#[test]
fn an_epoch_that_never_was_is_refused_so_that_the_request_goes_elsewhere() {
    let mut provider = Provider::new("a");
    let sealed = seal(header_at(BEGIN), b"hello", &[&provider], "client");
    let wrap = Wrap { epoch: EpochId([9; 16]), ..sealed.submit.wraps.0[0].clone() };
    let error = provider.ring.open(&sealed.submit.header, &sealed.submit.body, &wrap, BEGIN).unwrap_err();
    assert_eq!((error.code(), error), (RefusalCode::UnknownEpoch, OpenError::UnknownEpoch));
}

#[test]
fn a_restarted_provider_opens_nothing_sealed_before() {
    let provider = Provider::new("a");
    let sealed = seal(header_at(BEGIN), b"hello", &[&provider], "client");
    let epoch = Epoch::begin(provider.identity, UnixMillis(BEGIN.0 + 1), &mut FixedRng::new("after the restart"));
    let mut ring = EpochRing::new(NETWORK, epoch);
    assert_eq!(try_at(&mut ring, &sealed, minutes(1)), Err(OpenError::UnknownEpoch));
}

#[test]
fn clocks_may_differ_by_ten_minutes_either_way_and_the_error_names_both() {
    let mut provider = Provider::new("a");
    let at = |provider: &Provider, now: i64| seal(header_at(minutes(30)), b"hello", &[provider], &now.to_string());
    for now in [20 * MINUTE, 40 * MINUTE, 30 * MINUTE] {
        let sealed = at(&provider, now);
        assert_eq!(try_at(&mut provider.ring, &sealed, UnixMillis(BEGIN.0 + now)), Ok(()));
    }
    for now in [20 * MINUTE - 1, 40 * MINUTE + 1] {
        let sealed = at(&provider, now);
        let now = UnixMillis(BEGIN.0 + now);
        let error = try_at(&mut provider.ring, &sealed, now).unwrap_err();
        assert_eq!(error.code(), RefusalCode::ClockSkew);
        assert_eq!(error, OpenError::ClockSkew { sealed_at: minutes(30).0, now: now.0 });
        assert!(
            error.to_string().contains(&now.0.to_string()) && error.to_string().contains(&minutes(30).0.to_string())
        );
    }
    for far in [i64::MIN, i64::MAX] {
        let sealed = seal(header_at(UnixMillis(far)), b"hello", &[&provider], "far");
        assert_eq!(try_at(&mut provider.ring, &sealed, BEGIN).unwrap_err().code(), RefusalCode::ClockSkew);
    }
}

#[test]
fn a_request_for_another_network_is_refused() {
    let mut provider = Provider::new("a");
    let header = SealedHeader { network: NetworkId([0x99; 32]), ..header_at(BEGIN) };
    let sealed = seal(header, b"hello", &[&provider], "client");
    let error = try_at(&mut provider.ring, &sealed, BEGIN).unwrap_err();
    assert_eq!((error.code(), error), (RefusalCode::WrongNetwork, OpenError::WrongNetwork));
    assert_eq!(provider.ring.network(), NETWORK);
}

#[test]
fn epochs_of_one_machine_share_nothing() {
    let mut provider = Provider::new("a");
    let [first, second] = [provider.current(), provider.rotate("a2", BEGIN)];
    assert_ne!(provider.sealing_key(&first), provider.sealing_key(&second));
    let receipt_key = |id| provider.ring.by_id(id).unwrap().receipt_key().verifying_key().to_bytes();
    assert_ne!(receipt_key(&first), receipt_key(&second));
    assert_eq!(format!("{:?}", provider.ring.current()), format!("Epoch({second})"));
}
