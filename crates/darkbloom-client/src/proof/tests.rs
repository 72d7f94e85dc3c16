//! A proof that holds, and each of its parts forged, changed or of another answer.

use std::convert::Infallible;

use darkbloom_seal::Epoch;
use darkbloom_types::{
    AttemptNumber, Digest, Micros, NanoDollars, OperationId, Price, ProviderId, RequestId, Tier, TokenCount,
};

use super::*;
use crate::parties::{BEGIN, Operator, PRICE, key, minutes};

/// Randomness that repeats: SHA-256 over a label and a counter, block after block.
pub struct Fixed {
    label: &'static str,
    blocks: u64,
}

impl Fixed {
    pub fn new(label: &'static str) -> Self {
        Self { label, blocks: 0 }
    }
}

impl rand_core::TryRng for Fixed {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.try_next_u64().map(|number| number as u32)
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }
    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for piece in out.chunks_mut(32) {
            let block = Digest::of(&[self.label.as_bytes(), &self.blocks.to_be_bytes()]).0;
            piece.copy_from_slice(&block[..piece.len()]);
            self.blocks += 1;
        }
        Ok(())
    }
}
impl rand_core::TryCryptoRng for Fixed {}

/// What was signed by whom, before it is.
pub struct Scene {
    pub operator: Operator,
    epoch: Epoch,
    pub statement: Statement,
    pub receipt: Receipt,
    pub bill: Bill,
    list_price: Price,
    pub listed_at: UnixMillis,
}

impl Scene {
    pub fn new() -> Self {
        Self::drawn("epoch")
    }

    /// With an epoch of this randomness.
    fn drawn(label: &'static str) -> Self {
        let operator = Operator::new();
        let (_, identity) = key("provider");
        let epoch = Epoch::begin(identity, BEGIN, &mut Fixed::new(label));
        let statement = epoch.statement(operator.public.network, vec![operator.model], vec![], "test");
        let receipt = Receipt {
            request: Digest([1; 32]),
            request_id: RequestId([2; 16]),
            attempt: AttemptNumber(1),
            transcript: Digest([3; 32]),
            model: operator.model,
            weights: Digest([1; 32]),
            provider: ProviderId::of_public_key(&identity),
            epoch: epoch.id(),
            input_tokens: TokenCount(10),
            output_tokens: TokenCount(20),
            queue_us: Micros(0),
            prefill_us: Micros(0),
            decode_us: Micros(0),
            finished_at: minutes(5),
        };
        let bill = Bill {
            operation: OperationId([4; 16]),
            request: receipt.request_id,
            receipt: None,
            price: PRICE,
            hold: NanoDollars(10_000),
            charge: PRICE.cost(TokenCount(10), TokenCount(20)).unwrap(),
            input_tokens: TokenCount(10),
            output_tokens: TokenCount(20),
            settled_at: minutes(5),
        };
        Self { operator, epoch, statement, receipt, bill, list_price: PRICE, listed_at: minutes(4) }
    }

    /// All of it signed. A bill that names no receipt gets the name of this one.
    pub fn proof(&self) -> AnswerProof {
        let statement = self.statement.sign(&key("provider").0).unwrap();
        let receipt = self.receipt.sign(&*self.epoch.receipt_key()).unwrap();
        let mut bill = self.bill.clone();
        bill.receipt.get_or_insert(receipt_id(&receipt));
        let PublicKey::P256(coordinator) = self.operator.public.key else { unreachable!() };
        AnswerProof {
            coordinator,
            list: self.operator.list(self.listed_at, self.list_price, &[&statement]),
            statement,
            receipt,
            bill: bill.sign(&self.operator.key).unwrap(),
        }
    }

    pub fn read(&self, proof: &AnswerProof) -> Result<Proven, String> {
        Proven::read(&proof.encode(), |_| self.operator.anybody()).map_err(|refusal| refusal.detail)
    }

    /// Why a proof is none after this was changed before it was signed.
    #[track_caller]
    fn refused(change: impl Fn(&mut Self)) -> String {
        let mut scene = Self::new();
        change(&mut scene);
        scene.read(&scene.proof()).unwrap_err()
    }
}

#[test]
fn an_answer_is_proven_long_after() {
    let scene = Scene::new();
    let proven = scene.read(&scene.proof()).unwrap();
    assert_eq!((proven.verdict.provider, &proven.receipt), (scene.receipt.provider, &scene.receipt));
    assert_eq!((proven.bill.charge, &*proven.entry.name), (scene.bill.charge, crate::parties::MODEL));
    assert!(proven.admitted, "this reader takes anybody");
    let strict = |_| TrustPolicy { tier_min: Tier::Hardware, ..scene.operator.anybody() };
    assert!(!Proven::read(&scene.proof().encode(), strict).unwrap().admitted);
    let pinning = |own| TrustPolicy { pinned: [scene.receipt.provider].into(), ..strict(own) };
    assert!(Proven::read(&scene.proof().encode(), pinning).unwrap().admitted);
    let elsewhere = |_| TrustPolicy { network: NetworkId([9; 32]), ..scene.operator.anybody() };
    let refused = Proven::read(&scene.proof().encode(), elsewhere).unwrap_err();
    assert_eq!(refused.code, RefusalCode::WrongNetwork);
}

#[test]
fn what_does_not_fit_together_is_no_proof() {
    type Change<'a> = &'a dyn Fn(&mut Scene);
    let changes: [(Change<'_>, &str); 16] = [
        (&|scene| scene.receipt.provider = ProviderId([9; 32]), "provider"),
        (&|scene| scene.receipt.epoch.0[0] ^= 1, "epoch"),
        (&|scene| scene.receipt.weights = Digest([9; 32]), "weights"),
        (&|scene| scene.receipt.model.0[0] ^= 1, "model"),
        (&|scene| scene.receipt.finished_at = minutes(-20), "outside the time"),
        (&|scene| scene.receipt.finished_at = minutes(70 + 30 + 11), "outside the time"),
        (&|scene| scene.statement.models = vec![].into(), "does not name the model"),
        (&|scene| scene.bill.request = RequestId([9; 16]), "request"),
        (&|scene| scene.bill.receipt = Some(receipt_id(b"another")), "receipt"),
        (&|scene| scene.bill.charge = NanoDollars(scene.bill.charge.0 + 1), "charge"),
        (&|scene| scene.bill.input_tokens = TokenCount(11), "input token count"),
        (&|scene| scene.list_price.output_nano_per_token -= 1, "another price"),
        (&|scene| scene.listed_at = minutes(16), "not of one time"),
        (&|scene| scene.listed_at = minutes(5 - 24 * 60 - 1), "not of one time"),
        (&|scene| scene.bill.settled_at = minutes(-6), "not of one time"),
        (&|scene| scene.bill.settled_at = minutes(5 + 24 * 60 + 1), "not of one time"),
    ];
    for (change, said) in changes {
        let refused = Scene::refused(change);
        assert!(refused.contains(said), "{said}: {refused}");
    }
    // An answer that took until after its epoch was erased.
    let mut late = Scene::new();
    late.receipt.finished_at = minutes(95);
    late.bill.settled_at = minutes(95);
    assert!(late.read(&late.proof()).is_ok());
    // A price that came with an answer, after the list.
    let mut later = Scene::new();
    later.list_price.version -= 1;
    later.list_price.output_nano_per_token += 1;
    assert!(later.read(&later.proof()).is_ok());
}

#[test]
fn no_bit_of_a_proof_can_be_changed() {
    let scene = Scene::new();
    let proof = scene.proof();
    let forged = Operator { key: key("another").0, ..Operator::new() };
    let bytes = proof.encode();
    for at in (0..bytes.len()).step_by(7) {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(Proven::read(&changed, |_| scene.operator.anybody()).is_err(), "byte {at}");
    }
    for length in (0..bytes.len()).step_by(97) {
        assert!(Proven::read(&bytes[..length], |_| scene.operator.anybody()).is_err(), "{length} bytes");
    }
    let list = forged.list(minutes(4), PRICE, &[]);
    assert!(scene.read(&AnswerProof { list, ..proof.clone() }).unwrap_err().contains("candidate list"));
    let bill = scene.bill.sign(&forged.key).unwrap();
    assert!(scene.read(&AnswerProof { bill, ..proof.clone() }).unwrap_err().contains("bill"));
    let receipt = scene.receipt.sign(&*Scene::drawn("another").epoch.receipt_key()).unwrap();
    assert!(scene.read(&AnswerProof { receipt, ..proof }).unwrap_err().contains("receipt"));
}

#[test]
fn a_proof_is_kept_whole_under_its_receipts_name() {
    let folder = tempfile::tempdir().unwrap();
    let proofs = ProofFolder::open(&folder.path().join("made")).unwrap();
    let proof = Scene::new().proof();
    let path = proofs.keep(&proof).unwrap();
    assert_eq!(path, folder.path().join("made").join(format!("{}.receipt", receipt_id(&proof.receipt))));
    assert_eq!(fs::read(&path).unwrap(), proof.encode());
    assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no half of one is left");
    assert!(proofs.keep(&proof).is_ok(), "again");
    #[cfg(unix)]
    for (path, mode) in [(&*path, 0o600), (path.parent().unwrap(), 0o700)] {
        let permissions = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions());
        assert_eq!(permissions & 0o777, mode, "{}", path.display());
    }
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(ProofFolder::open(&folder.path().join("file").join("below")).is_err());
}
