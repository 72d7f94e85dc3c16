//! What a provider's new connection knows of its epochs, and what a wrong answer to a challenge is held against.

use super::*;

use darkbloom_attest::{HardwareTrust, OpenedStatement, Policy};
use darkbloom_keys::{IdentityKey as _, SoftwareKey};
use darkbloom_seal::Epoch;
use darkbloom_store::Store;
use darkbloom_types::{Digest, EpochId, Millis, NetworkId, Tier};
use darkbloom_wire::{
    ChallengeAnswer, ChallengeProof, Evidence, SNP_EVIDENCE, Statement, challenge_digest, epoch_nonce, presence_nonce,
};

use crate::activation::Activation;

#[allow(dead_code, reason = "other tests need more of it")]
#[path = "../../../darkbloom-attest/tests/shared/chip.rs"]
mod chip;
use chip::{Chip, MEASUREMENT};

const PROVIDER: ProviderId = ProviderId([9; 32]);

fn epoch(n: u8) -> KnownEpoch {
    KnownEpoch { id: EpochId([n; 16]), receipt_key: [n; 32] }
}

async fn shared(folder: &std::path::Path) -> Shared {
    believing(folder, HardwareTrust::default()).await
}

async fn believing(folder: &std::path::Path, trust: HardwareTrust) -> Shared {
    let store = Store::open(folder).unwrap();
    let identity = Box::new(SoftwareKey::in_memory().unwrap());
    Shared::new(
        store,
        identity,
        NetworkId([8; 32]),
        Tier::None,
        Activation::believing(trust),
        crate::rates::Limits::default(),
    )
    .await
    .unwrap()
}

/// A coordinator that accepts a chip's guest, and what that chip says about a nonce.
async fn believing_a_chip(folder: &std::path::Path) -> (Shared, impl Fn(&Digest) -> Vec<Evidence>) {
    let chip = Chip::new();
    let trust = HardwareTrust { amd_roots: chip.roots().into(), ..HardwareTrust::default() };
    let shared = believing(folder, trust).await;
    shared.set_policy(policy());
    let said = move |nonce: &Digest| {
        let bytes = chip.evidence(Chip::report(&Chip::asked(nonce))).encode();
        vec![Evidence { format: SNP_EVIDENCE.to_owned(), bytes }]
    };
    (shared, said)
}

/// A provider that is connected and was challenged; what it is to sign, and with what.
async fn challenged(shared: &Shared) -> (Arc<Connection>, SoftwareKey, impl Fn(&[u8; 32]) -> ChallengeProof + use<>) {
    challenged_with(shared, &|_| Vec::new()).await
}

/// The same with evidence with a nonce about its epoch.
async fn challenged_with(
    shared: &Shared,
    evidence: &dyn Fn(&Digest) -> Vec<Evidence>,
) -> (Arc<Connection>, SoftwareKey, impl Fn(&[u8; 32]) -> ChallengeProof + use<>) {
    let key = SoftwareKey::in_memory().unwrap();
    let epoch = Epoch::begin(key.public_point(), clock::now(), &mut clock::rng());
    let mut statement = epoch.statement(shared.network, Vec::new(), Vec::new(), "test");
    let Statement { sealing_key, receipt_key, identity, not_before, .. } = &statement;
    statement.evidence = evidence(&epoch_nonce(sealing_key, receipt_key, identity, *not_before)).into();
    let statement = statement.sign(&key).unwrap();
    let (connection, _sent) = Connection::new(ConnectionId([1; 16]));
    let verdict = trust::verify_on(shared, &connection, &statement).unwrap();
    shared.add_connection(Arc::clone(&connection));
    let registration = Registration {
        provider: verdict.provider,
        connection: connection.id,
        number: connection.number,
        stated: stated(shared, statement, &verdict),
        models: Vec::new(),
        standing: Standing::Clean,
        hardware: None,
    };
    let later = shared.mono().after(Millis::from_minutes(7));
    shared.with_registry(|registry| {
        registry.register(registration, shared.mono(), clock::now(), &mut clock::rng()).unwrap();
        assert_eq!(registry.challenges_due(later, &mut clock::rng()).len(), 1);
    });
    let (network, id) = (shared.network, connection.id);
    let proof =
        move |nonce: &[u8; 32]| ChallengeProof { digest: challenge_digest(&network, nonce, &id, &verdict.epoch) };
    (connection, key, proof)
}

/// An operator's policy that accepts the chip's guest.
fn policy() -> Policy {
    let measurement = MEASUREMENT.map(|byte| format!("{byte:02x}")).concat();
    let minimum = "{ bootloader = 0, tee = 0, snp = 0, microcode = 0 }";
    let guest = format!("{{ product = \"genoa\", measurement = \"{measurement}\", minimum = {minimum} }}");
    let accepted = format!("[{{ release = \"guest\", snp = {guest} }}]");
    Policy::parse(&format!("[measurements]\ngate = \"enforce\"\naccepted = {accepted}")).unwrap()
}

/// An answer from a machine whose hardware says nothing.
fn bare(proof: Vec<u8>) -> ChallengeAnswer {
    ChallengeAnswer { proof, presence: Vec::new().into() }
}

#[tokio::test]
async fn a_challenge_that_is_answered_wrong_is_held_against_the_identity() {
    let folder = tempfile::tempdir().unwrap();
    let shared = shared(folder.path()).await;
    let (connection, key, proof) = challenged(&shared).await;
    let open = shared.with_registry(|registry| registry.open_challenges(&connection.id))[0];
    let provider = ProviderId::of_public_key(&key.public_point());
    let other = SoftwareKey::in_memory().unwrap();
    let wrong = [proof(&open).sign(&other).unwrap(), proof(&[0; 32]).sign(&key).unwrap(), Vec::new()];
    for (times, answer) in (1..).zip(wrong) {
        let refusal = trust::challenge_answer(&shared, &connection, &bare(answer)).await.unwrap_err();
        assert_eq!(refusal.code, RefusalCode::VerificationFailed);
        let failed = shared.store.standing(provider).distrust().expect("it is written down");
        assert_eq!((failed.reason, failed.times), (darkbloom_types::Distrust::ChallengeFailed, 1), "answer {times}");
    }
    // A right answer before its time is over changes nothing either.
    trust::challenge_answer(&shared, &connection, &bare(proof(&open).sign(&key).unwrap())).await.unwrap();
    assert!(shared.store.standing(provider).distrust().is_some());
    let again =
        trust::challenge_answer(&shared, &connection, &bare(proof(&open).sign(&key).unwrap())).await.unwrap_err();
    assert_eq!(again.code, RefusalCode::InvalidRequest, "it was sent once");
}

#[tokio::test]
async fn a_challenge_that_is_answered_right_is_held_against_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let shared = shared(folder.path()).await;
    let (connection, key, proof) = challenged(&shared).await;
    let open = shared.with_registry(|registry| registry.open_challenges(&connection.id))[0];
    trust::challenge_answer(&shared, &connection, &bare(proof(&open).sign(&key).unwrap())).await.unwrap();
    assert_eq!(shared.store.standing(ProviderId::of_public_key(&key.public_point())), Standing::Clean);
    assert!(shared.with_registry(|registry| registry.open_challenges(&connection.id)).is_empty());
}

/// What hardware said about an epoch counts once it says so when it is asked, and no longer than it does.
#[tokio::test]
async fn hardware_counts_as_long_as_it_answers() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, said) = believing_a_chip(folder.path()).await;
    let (connection, key, proof) = challenged_with(&shared, &said).await;
    let stands = || shared.provider_views()[0].tier;
    let nothing = Tier::SelfSigned;
    assert_eq!(stands(), nothing, "its machine was not asked");
    let mut later = shared.mono();
    let mut answer = async |presence: &dyn Fn(&Digest) -> Vec<Evidence>| {
        later = later.after(Millis::from_minutes(7));
        shared.with_registry(|registry| registry.challenges_due(later, &mut clock::rng()));
        let open = *shared.with_registry(|registry| registry.open_challenges(&connection.id)).last().unwrap();
        let proof = proof(&open);
        let presence = presence(&proof.digest).into();
        let answer = ChallengeAnswer { proof: proof.sign(&key).unwrap(), presence };
        trust::challenge_answer(&shared, &connection, &answer).await.unwrap();
        stands()
    };
    let confidential = Tier::Confidential;
    assert_eq!(answer(&|digest| said(&presence_nonce(digest))).await, confidential);
    assert_eq!(answer(&|_| said(&presence_nonce(&Digest([7; 32])))).await, nothing, "said to another question");
    assert_eq!(answer(&|digest| said(&presence_nonce(digest))).await, confidential, "it recovers with the next answer");
    assert_eq!(answer(&|_| Vec::new()).await, nothing, "it says nothing any more");
    assert!(shared.store.standing(ProviderId::of_public_key(&key.public_point())) == Standing::Clean);
}

/// A machine is asked when it introduces itself, and again at once where its statement comes to more than it said then.
#[tokio::test]
async fn hardware_is_asked_at_the_door() {
    let folder = tempfile::tempdir().unwrap();
    let (shared, said) = believing_a_chip(folder.path()).await;
    let key = SoftwareKey::in_memory().unwrap();
    let epoch = Epoch::begin(key.public_point(), clock::now(), &mut clock::rng());
    let mut statement = epoch.statement(shared.network, Vec::new(), Vec::new(), "test");
    let Statement { sealing_key, receipt_key, identity, not_before, .. } = &statement;
    statement.evidence = said(&epoch_nonce(sealing_key, receipt_key, identity, *not_before)).into();
    let nonce = [3; 32];
    let introduced = |number: u8, presence: &dyn Fn(&Digest) -> Vec<Evidence>| {
        let (connection, _sent) = Connection::new(ConnectionId([number; 16]));
        let digest = challenge_digest(&shared.network, &nonce, &connection.id, &epoch.id());
        let hello = Hello {
            statement: statement.sign(&key).unwrap(),
            proof: ChallengeProof { digest }.sign(&key).unwrap(),
            join_token: None,
            models: Vec::new().into(),
            capabilities: Vec::new().into(),
            epoch_proof: ChallengeProof { digest }.sign(&*epoch.receipt_key()).unwrap(),
            presence: presence(&digest).into(),
            hardware: None,
        };
        let opened = OpenedStatement::open(&hello.statement).unwrap();
        let verdict = trust::introduced(&shared, &connection, opened, &hello, &nonce).unwrap();
        shared.add_connection(Arc::clone(&connection));
        shared.with_registry(|registry| {
            let registration = Registration {
                provider: verdict.provider,
                connection: connection.id,
                number: connection.number,
                stated: stated(&shared, hello.statement, &verdict),
                models: Vec::new(),
                standing: Standing::Clean,
                hardware: None,
            };
            registry.register(registration, shared.mono(), clock::now(), &mut clock::rng()).unwrap();
        });
        trust::ask_again(&shared, &connection, &verdict);
        let asked = shared.with_registry(|registry| registry.challenges_due(shared.mono(), &mut clock::rng()));
        (shared.provider_views()[0].tier, asked.len())
    };
    assert_eq!(introduced(1, &|digest| said(&presence_nonce(digest))), (Tier::Confidential, 0));
    assert_eq!(introduced(2, &|_| Vec::new()), (Tier::SelfSigned, 1));
    assert_eq!(introduced(3, &|digest| said(digest)), (Tier::SelfSigned, 1), "said to another question");
}

#[tokio::test]
async fn a_new_connection_knows_the_epochs_of_the_one_it_replaces() {
    let folder = tempfile::tempdir().unwrap();
    let shared = shared(folder.path()).await;
    let (old, _sent) = Connection::new(ConnectionId([1; 16]));
    for n in 1..=8 {
        old.learn_epoch(epoch(n));
    }
    let until = clock::now().after(Millis::from_minutes(10));
    let stated = Stated {
        tier: Tier::None,
        shut: Vec::new(),
        shadow: Vec::new(),
        statement: Vec::new().into(),
        epoch: epoch(8).id,
        use_until: until,
        open_until: until,
        models: Vec::new(),
        known_at: clock::now(),
    };
    let (models, standing, hardware) = (Vec::new(), Standing::Clean, None);
    let (connection, number) = (old.id, old.number);
    let registration = Registration { provider: PROVIDER, connection, number, stated, models, standing, hardware };
    shared.add_connection(Arc::clone(&old));
    shared.with_registry(|registry| {
        registry.register(registration, shared.mono(), clock::now(), &mut clock::rng()).unwrap();
    });
    let (new, _sent) = Connection::new(ConnectionId([2; 16]));
    new.learn_epoch(epoch(9));
    inherit(&shared, &new, ProviderId([1; 32]));
    assert_eq!(new.receipt_key(&epoch(8).id), None, "another provider's are not its");
    inherit(&shared, &new, PROVIDER);
    let known = (1..=9).filter(|n| new.receipt_key(&epoch(*n).id) == Some([*n; 32]));
    assert_eq!(known.collect::<Vec<_>>(), [2, 3, 4, 5, 6, 7, 8, 9], "the oldest gives way, its own never");
}
