//! What takes a full replay set to see: filling one by opening would take 131,072 requests.

use darkbloom_types::{NanoDollars, OperationId, ProviderId, RequestId, SecretBytes, Tier, TokenCount};
use darkbloom_wire::{RequestKind, Suite};

use super::*;
use crate::request::{Recipient, RequestSeal, seal_request};

const NETWORK: NetworkId = NetworkId([1; 32]);
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// Enough of a generator for keys that only tests use: SHA-256 over a counter.
struct Counter(u64);

impl rand_core::TryRng for Counter {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        self.try_next_u64().map(|number| u32::try_from(number >> 32).unwrap())
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        self.0 += 1;
        Ok(u64::from_be_bytes(Digest::of(&[&self.0.to_be_bytes()]).0[..8].try_into().unwrap()))
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for byte in bytes {
            *byte = self.try_next_u64()?.to_be_bytes()[0];
        }
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Counter {}

fn ring(remembered: usize) -> EpochRing {
    let mut epoch = Epoch::begin([4; 65], NOW, &mut Counter(0));
    epoch.seen = (0..remembered).map(|number| Digest::of(&[&number.to_be_bytes()]).0).collect();
    EpochRing::new(NETWORK, epoch)
}

fn sealed(ring: &EpochRing, number: u64) -> RequestSeal {
    let header = SealedHeader {
        network: NETWORK,
        suite: Suite::XWingAes256Gcm,
        request: RequestId([2; 16]),
        operation: OperationId([3; 16]),
        model: CatalogueDigest([4; 32]),
        kind: RequestKind::Chat,
        stream: true,
        input_ceiling: TokenCount(256),
        output_ceiling: TokenCount(128),
        price_version: 1,
        price_max: NanoDollars(1),
        tier_min: Tier::None,
        affinity: [5; 16],
        sealed_at: NOW,
        recipients: Digest([0; 32]),
        key_commitment: Digest([0; 32]),
    };
    let current = ring.current();
    let to = Recipient { provider: ProviderId([6; 32]), epoch: current.id, sealing_key: &current.sealing_key };
    seal_request(header, &SecretBytes::new(b"hello".to_vec()), &[to], &mut Counter(number << 32)).unwrap()
}

fn open(ring: &mut EpochRing, sealed: &RequestSeal) -> Result<(), OpenError> {
    ring.open(&sealed.submit.header, &sealed.submit.body, &sealed.submit.wraps.0[0], NOW).map(drop)
}

#[test]
fn a_nearly_full_epoch_is_rotated_at_once() {
    let nearly = REPLAYS_MAX / 8 * 7;
    assert_eq!(ring(nearly - 1).rotate_at(), NOW.after(Millis::from_minutes(50)));
    assert_eq!(ring(nearly).rotate_at(), NOW, "now, whatever the time is");
}

#[test]
fn a_full_epoch_opens_no_more_and_forgets_nothing() {
    let mut ring = ring(REPLAYS_MAX - 1);
    let (last, next) = (sealed(&ring, 1), sealed(&ring, 2));
    assert_eq!(open(&mut ring, &last), Ok(()));
    let error = open(&mut ring, &next).unwrap_err();
    assert_eq!((error.code(), error), (RefusalCode::UnknownEpoch, OpenError::EpochFull));
    assert_eq!(open(&mut ring, &last), Err(OpenError::Replayed), "a replay is still named one");
    assert_eq!(ring.current().seen.len(), REPLAYS_MAX);

    ring.rotate(Epoch::begin([4; 65], NOW, &mut Counter(9)), NOW);
    let fresh = sealed(&ring, 3);
    assert_eq!(open(&mut ring, &fresh), Ok(()));
}

#[test]
fn what_does_not_open_is_not_remembered() {
    let mut ring = ring(0);
    let request = sealed(&ring, 1);
    let mut rubbish = request.submit.wraps.0[0].clone();
    rubbish.ciphertext[0] ^= 1;
    for _ in 0..3 {
        assert!(ring.open(&request.submit.header, &request.submit.body, &rubbish, NOW).is_err());
    }
    assert!(ring.current().seen.is_empty());
    assert_eq!(open(&mut ring, &request), Ok(()));
    assert_eq!(ring.current().seen.len(), 1);
}

#[test]
fn after_hours_offline_a_ring_turns_to_an_epoch_that_lives() {
    let mut ring = ring(0);
    let (first, later) = (ring.current().id(), NOW.after(Millis::from_minutes(3 * 60)));
    assert!(ring.turn(later, &mut Counter(1), &OnHeap));
    let statement = ring.current().statement(NETWORK, vec![], vec![], "");
    assert_eq!((statement.not_before, statement.use_until), (later, later.after(EPOCH_USE)));
    assert!(ring.by_id(&first).is_none(), "what nobody may open any more is erased");
    assert!(!ring.turn(later, &mut Counter(2), &OnHeap), "once");
}

#[test]
fn a_ring_turns_when_its_epoch_is_due_and_not_before() {
    let mut ring = ring(0);
    let first = ring.current().id();
    let due = NOW.after(Millis::from_minutes(50));
    assert!(!ring.turn(UnixMillis(due.0 - 1), &mut Counter(1), &OnHeap));
    assert_eq!(ring.current().id(), first);
    assert!(ring.turn(due, &mut Counter(1), &OnHeap));
    assert_ne!(ring.current().id(), first);
    assert!(ring.by_id(&first).is_some(), "what is in flight still opens");
}

#[test]
fn an_epoch_of_a_clock_that_ran_ahead_is_replaced() {
    let mut ring = ring(0);
    let (first, skew) = (ring.current().id(), i64::try_from(limits::CLOCK_SKEW_MAX.0).unwrap());
    assert!(!ring.turn(UnixMillis(NOW.0 - skew), &mut Counter(1), &OnHeap), "a verifier allows as much");
    let earlier = UnixMillis(NOW.0 - skew - 1);
    assert!(ring.turn(earlier, &mut Counter(1), &OnHeap));
    assert_eq!(ring.current().statement(NETWORK, vec![], vec![], "").not_before, earlier);
    assert!(ring.by_id(&first).is_some());
}
