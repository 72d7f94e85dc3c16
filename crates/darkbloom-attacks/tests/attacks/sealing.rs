//! Attacks on sealed requests and answers: changed headers, replays, spliced and reordered streams.

use darkbloom_attacks::attacks;
use darkbloom_host::clock::rng;
use darkbloom_seal::{
    Acceptance, AnswerOpener, AnswerSealer, Epoch, EpochRing, Recipient, RequestSeal, SealedFrame, frame_size,
    open_refusal, seal_refusal, seal_request,
};
use darkbloom_session::ClientSession;
use darkbloom_types::{
    AttemptNumber, CatalogueDigest, Digest, EpochId, MonoMillis, NanoDollars, NetworkId, OperationId, ProviderId,
    RequestId, SecretBytes, Tier, TokenCount, UnixMillis,
};
use darkbloom_wire::{CoordinatorTiming, Relayed, RelayedAccepted, RelayedData, RequestKind, SealedHeader, Suite};

use crate::forge::{NETWORK, NOW, key, minutes};

const PROVIDER: ProviderId = ProviderId([7; 32]);

/// A provider's epochs and a request that is sealed to it.
pub struct Scene {
    ring: EpochRing,
    seal: RequestSeal,
}

impl Scene {
    fn new() -> Self {
        Self::of(NETWORK, NOW)
    }

    /// A request for this network, sealed then.
    fn of(network: NetworkId, sealed_at: UnixMillis) -> Self {
        Self::in_epoch(Epoch::begin(key(7).1, NOW, &mut rng()), network, sealed_at)
    }

    /// A request in this epoch.
    pub fn in_epoch(epoch: Epoch, network: NetworkId, sealed_at: UnixMillis) -> Self {
        let ring = EpochRing::new(NETWORK, epoch);
        let epoch = ring.current();
        let statement = epoch.statement(NETWORK, Vec::new(), Vec::new(), "1");
        let header = SealedHeader {
            network,
            suite: Suite::XWingAes256Gcm,
            request: RequestId([1; 16]),
            operation: OperationId([2; 16]),
            model: CatalogueDigest([3; 32]),
            kind: RequestKind::Chat,
            stream: false,
            input_ceiling: TokenCount(100),
            output_ceiling: TokenCount(100),
            price_version: 1,
            price_max: NanoDollars(1_000),
            tier_min: Tier::Hardware,
            affinity: [0; 16],
            sealed_at,
            recipients: Digest([0; 32]),
            key_commitment: Digest([0; 32]),
        };
        let to = Recipient { provider: PROVIDER, epoch: epoch.id(), sealing_key: &statement.sealing_key };
        let seal = seal_request(header, &SecretBytes::from(b"hello".to_vec()), &[to], &mut rng()).unwrap();
        Self { ring, seal }
    }

    pub fn opens(&mut self, now: UnixMillis) -> bool {
        let submit = &self.seal.submit;
        self.ring.open(&submit.header, &submit.body, &submit.wraps.0[0], now).is_ok()
    }

    /// Changes the clear header on its way.
    fn change(&mut self, change: impl Fn(&mut SealedHeader)) -> &mut Self {
        let mut header = SealedHeader::decode(&self.seal.submit.header).unwrap();
        change(&mut header);
        self.seal.submit.header = header.encode();
        self
    }

    /// Both ends of one acceptance.
    fn accepted(&self, attempt: u32, salt: u8) -> (AnswerSealer, AnswerOpener) {
        let epoch = self.ring.current().id();
        let secret = self.seal.response_secret(&PROVIDER, &epoch).unwrap();
        let of = Acceptance {
            request_digest: self.seal.request_digest,
            provider: PROVIDER,
            epoch,
            attempt: AttemptNumber(attempt),
            salt: [salt; 32],
        };
        (AnswerSealer::new(secret, &of), AnswerOpener::new(secret, &of))
    }
}

fn frames(sealer: &mut AnswerSealer, counts: &[u32], end: bool) -> Vec<SealedFrame> {
    let last = counts.len() - 1;
    let seal = |(at, count): (usize, &u32)| sealer.seal(b"word", frame_size(1), TokenCount(*count), end && at == last);
    counts.iter().enumerate().map(seal).collect::<Result<_, _>>().unwrap()
}

/// Whether these open one after the other.
fn open(opener: &mut AnswerOpener, frames: &[&SealedFrame]) -> bool {
    frames.iter().all(|frame| opener.open(frame).is_ok())
}

/// Who accepts a request, as a coordinator relays it.
fn acceptance(provider: u8) -> Relayed {
    RelayedAccepted {
        provider: ProviderId([provider; 32]),
        epoch: EpochId([provider; 16]),
        attempt: AttemptNumber(u32::from(provider)),
        salt: [provider; 32],
        attempts: Vec::new().into(),
        timing: CoordinatorTiming::NONE,
    }
    .into()
}

/// The parts of a request: header and body, which are bound to what carries the key, and that: encapsulation and sealed key.
const PARTS: [fn(&mut RequestSeal) -> &mut Vec<u8>; 4] = [
    |seal| &mut seal.submit.header,
    |seal| &mut seal.submit.body,
    |seal| &mut seal.submit.wraps.0[0].encapsulation,
    |seal| &mut seal.submit.wraps.0[0].ciphertext,
];
const HEADER: usize = 0;
const BODY: usize = 1;
const ENCAPSULATION: usize = 2;
const SEALED_KEY: usize = 3;

/// Whether a request opens after this was done to one of its parts.
fn opens_after(part: usize, change: impl Fn(&mut Vec<u8>)) -> bool {
    let mut scene = Scene::new();
    change(PARTS[part](&mut scene.seal));
    scene.opens(NOW)
}

/// Whether it opens with one of eight bits of a part changed: one that is in the body's first letter, behind its length, and
/// others all over the part.
fn opens_changed(part: usize) -> bool {
    (0..8).any(|eighth| {
        opens_after(part, |bytes| {
            let at = (4 + bytes.len() / 8 * eighth).min(bytes.len() - 1);
            bytes[at] ^= 1 << eighth;
        })
    })
}

/// Whether it opens with a part cut.
fn opens_cut(part: usize) -> bool {
    (0..10).any(|tenth| opens_after(part, |bytes| bytes.truncate(bytes.len() * tenth / 10)))
}

/// What carries the key is HPKE's, which looks at its tags itself: no check of ours could be switched off.
#[test]
fn a_wrap_that_was_changed_or_cut_opens_nothing() {
    assert!(Scene::new().opens(NOW));
    for part in [ENCAPSULATION, SEALED_KEY] {
        assert!(!opens_changed(part) && !opens_cut(part));
    }
    assert!(!opens_cut(HEADER), "a header that was cut is none");
}

/// Whether a header is read that names any suite but the only one.
fn another_suite_is_read() -> bool {
    let header = Scene::new().seal.submit.header;
    // Behind the map's head and the network, 32 bytes under key 1: key 2, and the number of the only suite.
    assert_eq!(header[36..38], [2, 1]);
    (0..24).filter(|other| *other != 1).any(|other| {
        let mut header = header.clone();
        header[37] = other;
        SealedHeader::decode(&header).is_ok()
    })
}

attacks! {
    /// A coordinator has two providers answer, and hands on words of one and then of the other.
    attack_two_providers_answer_one_request against "session_one_acceptance": || {
        let content = RelayedData { sequence: 0, tokens: TokenCount(1), end: false, ciphertext: vec![0; 80] };
        let mut session = ClientSession::submitted(MonoMillis(0));
        let mut goes_on = |frame: Relayed| session.handle(frame, MonoMillis(1)).is_ok();
        goes_on(acceptance(1)) && goes_on(content.clone().into()) && goes_on(acceptance(2)) && goes_on(content.into())
    };
    attack_one_bit_of_a_sealed_requests_header_is_changed against "seal_header": || opens_changed(HEADER);
    attack_one_bit_of_a_sealed_requests_body_is_changed against "seal_body": || opens_changed(BODY);
    attack_a_sealed_requests_body_is_cut against "seal_body": || opens_cut(BODY);
    attack_a_header_names_a_suite_that_is_broken against "seal_suite": another_suite_is_read;
    attack_one_bit_of_an_answer_is_changed against "answer_tag": || {
        let (mut sealer, mut opener) = Scene::new().accepted(1, 1);
        let mut sealed = frames(&mut sealer, &[1], true);
        // The first letter of its text, behind the length.
        sealed[0].ciphertext[4] ^= 1;
        open(&mut opener, &[&sealed[0]])
    };
    /// A coordinator that would rather not relay the rest.
    attack_a_frame_is_called_the_last against "answer_tag": || {
        let (mut sealer, mut opener) = Scene::new().accepted(1, 1);
        let mut sealed = frames(&mut sealer, &[1, 2], true);
        sealed[0].end = true;
        open(&mut opener, &[&sealed[0]]) && opener.ended()
    };
    attack_one_bit_of_a_refusals_words_is_changed against "refusal_tag": || {
        let scene = Scene::new();
        let secret = scene.seal.response_secret(&PROVIDER, &scene.ring.current().id()).unwrap();
        let digest = scene.seal.request_digest;
        let mut sealed = seal_refusal(secret, &digest, &[1; 32], b"no room").unwrap();
        assert!(open_refusal(secret, &digest, &sealed).is_ok());
        // Behind the salt and the length.
        sealed[36] ^= 1;
        open_refusal(secret, &digest, &sealed).is_ok()
    };
    attack_a_headers_least_tier_is_lowered_on_the_way against "seal_header": || {
        Scene::new().change(|header| header.tier_min = Tier::None).opens(NOW)
    };
    attack_a_headers_highest_price_is_raised_on_the_way against "seal_header": || {
        Scene::new().change(|header| header.price_max = NanoDollars(1_000_000)).opens(NOW)
    };
    attack_a_sealed_request_is_replayed against "seal_replays": || {
        let mut scene = Scene::new();
        assert!(scene.opens(NOW), "once it opens");
        scene.opens(NOW)
    };
    attack_a_request_of_another_network_is_brought_along against "seal_network": || {
        Scene::of(NetworkId([9; 32]), NOW).opens(NOW)
    };
    attack_a_request_is_kept_for_later against "seal_time": || Scene::of(NETWORK, NOW).opens(minutes(11));
    attack_an_epoch_is_used_after_its_end against "seal_epoch_over": || {
        Scene::of(NETWORK, minutes(70)).opens(minutes(70))
    };
    attack_a_frame_is_left_out against "answer_order": || {
        let (mut sealer, mut opener) = Scene::new().accepted(1, 1);
        let sealed = frames(&mut sealer, &[1, 2, 3], true);
        open(&mut opener, &[&sealed[0], &sealed[2]])
    };
    attack_two_frames_change_places against "answer_order": || {
        let (mut sealer, mut opener) = Scene::new().accepted(1, 1);
        let sealed = frames(&mut sealer, &[1, 1], false);
        open(&mut opener, &[&sealed[1], &sealed[0]])
    };
    attack_a_frame_is_repeated against "answer_order": || {
        let (mut sealer, mut opener) = Scene::new().accepted(1, 1);
        let sealed = frames(&mut sealer, &[1], false);
        open(&mut opener, &[&sealed[0], &sealed[0]])
    };
    /// A provider that seals twice with one acceptance.
    attack_an_answer_goes_on_after_its_end against "answer_after_end": || {
        let scene = Scene::new();
        let (mut sealer, mut opener) = scene.accepted(1, 1);
        let (mut other, _) = scene.accepted(1, 1);
        let (ended, goes_on) = (frames(&mut sealer, &[1], true), frames(&mut other, &[1, 2], true));
        open(&mut opener, &[&ended[0], &goes_on[1]])
    };
    attack_tokens_are_counted_backwards against "answer_count": || {
        let scene = Scene::new();
        let (mut sealer, mut opener) = scene.accepted(1, 1);
        let (mut other, _) = scene.accepted(1, 1);
        let (more, fewer) = (frames(&mut sealer, &[5], false), frames(&mut other, &[1, 2], false));
        open(&mut opener, &[&more[0], &fewer[1]])
    };
    attack_a_frame_of_an_earlier_attempt_is_spliced_in against "answer_acceptance": || {
        let scene = Scene::new();
        let (mut earlier, _) = scene.accepted(1, 1);
        let (_, mut opener) = scene.accepted(2, 2);
        open(&mut opener, &[&frames(&mut earlier, &[1], false)[0]])
    };
}

#[test]
fn a_request_and_its_answer_open_when_nobody_touches_them() {
    let mut scene = Scene::new();
    assert!(scene.opens(NOW));
    let (mut sealer, mut opener) = scene.accepted(1, 1);
    let sealed = frames(&mut sealer, &[1, 2, 3], true);
    assert!(open(&mut opener, &sealed.iter().collect::<Vec<_>>()) && opener.ended());
}
