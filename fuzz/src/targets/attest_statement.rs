//! Statements and challenge proofs: a verdict says no more than what was signed and what the policy allows.

#![no_main]

use std::collections::BTreeSet;
use std::sync::LazyLock;

use darkbloom_attest::{HardwareTrust, Trust, TrustPolicy, Verdict, verify_challenge, verify_statement};
use darkbloom_fuzz::{Input, memory, parties};
use darkbloom_types::{ConnectionId, Tier, UnixMillis};
use darkbloom_wire::{Domain, challenge_digest, limits, sign};
use libfuzzer_sys::fuzz_target;

static KEY: LazyLock<p256::ecdsa::SigningKey> = LazyLock::new(parties::p256);
static VERDICT: LazyLock<Verdict> = LazyLock::new(|| {
    let statement = parties::epoch().statement(parties::NETWORK, Vec::new(), Vec::new(), "fuzz");
    let signed = statement.sign(&*KEY).expect("software keys sign");
    verify_statement(&signed, &policy(false), parties::NOW).expect("it is a good one")
});

fn policy(pinned: bool) -> TrustPolicy {
    let pinned = if pinned { BTreeSet::from([parties::provider()]) } else { BTreeSet::new() };
    TrustPolicy { network: parties::NETWORK, tier_min: Tier::SelfSigned, pinned, hardware: HardwareTrust::default() }
}

fn statement(mut input: Input<'_>) {
    let pinned = input.byte().is_multiple_of(2);
    // Up to about three quarters of an hour before and after.
    let now = UnixMillis(parties::NOW.0 + (i64::from(input.byte()) - 128) * 20_000);
    let raw = input.byte().is_multiple_of(4);
    let bytes = input.rest();
    let signed = if raw { bytes.to_vec() } else { sign(Domain::Statement, &*KEY, bytes).expect("software keys sign") };
    let policy = policy(pinned);
    let Ok(verdict) = verify_statement(&signed, &policy, now) else { return };
    let said = &verdict.statement;
    assert_eq!(said.network, policy.network);
    assert!(now < said.use_until && said.not_before < said.use_until && said.use_until <= said.open_until);
    assert!(said.not_before <= now.after(limits::CLOCK_SKEW_MAX));
    assert_eq!((verdict.provider, verdict.epoch), (said.provider(), said.epoch()));
    assert_eq!(verdict.tier, Tier::SelfSigned, "nothing here proves more");
    assert_eq!(verdict.trust == Trust::Pinned, pinned && verdict.provider == parties::provider());
    assert_eq!(policy.admits(&verdict), verdict.trust == Trust::Pinned);
}

fn challenge(input: Input<'_>) {
    let (nonce, connection) = ([5; 32], ConnectionId([6; 16]));
    let signed = sign(Domain::Challenge, &*KEY, input.rest()).expect("software keys sign");
    if verify_challenge(&signed, &VERDICT.statement, &[nonce], &connection).is_ok() {
        let digest = challenge_digest(&parties::NETWORK, &nonce, &connection, &VERDICT.epoch);
        let proof =
            darkbloom_wire::ChallengeProof::open(&signed, &darkbloom_wire::PublicKey::P256(parties::identity()));
        assert_eq!(proof.map(|proof| proof.digest), Ok(digest));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let _ = &*VERDICT;
    let mut input = Input::new(bytes);
    let proof = input.byte().is_multiple_of(4);
    memory::within((64 << 10) + 24 * bytes.len(), || if proof { challenge(input) } else { statement(input) });
});
