//! Signed objects of every domain: as whole envelopes, and as payloads that this program signs itself.

#![no_main]

use std::sync::LazyLock;

use darkbloom_fuzz::{Input, memory, parties};
use darkbloom_wire::{
    Activation, AnswerProof, Bill, Bundle, CandidateList, CatalogueEntry, ChallengeProof, CoordinatorProof, Domain,
    ProviderList, PublicKey, Receipt, Signer, Statement, Succession, open_signed, sign,
};
use libfuzzer_sys::fuzz_target;

static ED25519: LazyLock<(ed25519_dalek::SigningKey, PublicKey)> = LazyLock::new(|| {
    let key = parties::ed25519();
    let public = PublicKey::Ed25519(key.verifying_key().to_bytes());
    (key, public)
});
static P256: LazyLock<(p256::ecdsa::SigningKey, PublicKey)> =
    LazyLock::new(|| (parties::p256(), PublicKey::P256(parties::identity())));

/// Both signers are deterministic, so an envelope that opens must be the very one that they make.
fn envelope(domain: Domain, bytes: &[u8]) {
    let signers: [(&dyn Signer, &PublicKey); 2] = [(&ED25519.0, &ED25519.1), (&P256.0, &P256.1)];
    for (signer, public) in signers {
        if let Ok(payload) = open_signed(domain, public, bytes, 1 << 20) {
            assert_eq!(sign(domain, signer, payload).as_deref(), Ok(bytes), "a second envelope is accepted");
        }
    }
    // What stands in files.
    if let Ok(read) = AnswerProof::decode(bytes) {
        assert_eq!(AnswerProof::decode(&read.encode()), Ok(read));
    }
    if let Ok(read) = Bundle::decode(bytes) {
        assert_eq!(Bundle::decode(&read.encode()), Ok(read));
    }
    let _ = Receipt::peek(bytes);
    let _ = Statement::open_self_signed(bytes);
    let _ = Succession::open_self_signed(bytes);
}

fn payload(domain: Domain, payload: &[u8]) {
    let (key, public) = (&ED25519.0, &ED25519.1);
    macro_rules! object {
        ($object:ident, $signer:expr, $public:expr) => {{
            let signed = sign(domain, $signer, payload).expect("software keys sign");
            let opened = $object::open(&signed, $public);
            if let Ok(object) = &opened {
                // Unknown keys from zero up are tolerated: the bytes may be longer than what is known of them.
                let again = object.sign($signer).expect("software keys sign");
                assert!(again.len() <= signed.len());
                assert!(again.len() < signed.len() || again == signed, "a second encoding is accepted");
                assert_eq!($object::open(&again, $public).as_ref(), Ok(object));
            }
            (signed, opened.ok())
        }};
    }
    match domain {
        Domain::Statement => {
            let (signed, opened) = object!(Statement, &P256.0, &P256.1);
            let own = Statement::open_self_signed(&signed).ok();
            assert_eq!(own, opened.filter(|statement| statement.identity == parties::identity()));
        }
        Domain::Challenge => drop(object!(ChallengeProof, key, public)),
        Domain::Coordinator => drop(object!(CoordinatorProof, key, public)),
        Domain::Receipt => {
            let (signed, opened) = object!(Receipt, key, public);
            assert_eq!(Receipt::peek(&signed).ok(), opened);
        }
        Domain::Bill => drop(object!(Bill, key, public)),
        Domain::CatalogueEntry => drop(object!(CatalogueEntry, key, public)),
        Domain::CandidateList => drop(object!(CandidateList, key, public)),
        Domain::ProviderList => drop(object!(ProviderList, key, public)),
        Domain::Succession => drop(object!(Succession, key, public)),
        Domain::Activation => {
            let (signed, opened) = object!(Activation, key, public);
            assert_eq!(Activation::peek(&signed).ok(), opened);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let (whole, domain) = (input.byte().is_multiple_of(2), Domain::ALL[usize::from(input.byte()) % Domain::ALL.len()]);
    let bytes = input.rest();
    memory::within(
        (64 << 10) + 24 * bytes.len(),
        || if whole { envelope(domain, bytes) } else { payload(domain, bytes) },
    );
});
