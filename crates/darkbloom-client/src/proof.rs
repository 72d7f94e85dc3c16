//! What proves an answer, in a file: enough to check who gave it, what it was made with and what it cost, long after and
//! without any network. There is no text in it, and nothing that opens one.
//!
//! ```text
//! coordinator's key ─▶ candidate list ─▶ catalogue entry, price, activator
//!        │             provider's statement ─▶ receipt ─▶ tokens, weights, digests of what was sent and came
//!        └───────────▶ bill ─▶ receipt
//! ```

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use darkbloom_attest::{TrustPolicy, Verdict, verify_statement};
use darkbloom_seal::{BillExpectation, ReceiptExpectation, check_bill, check_receipt};
use darkbloom_types::{Millis, NetworkId, Refusal, RefusalCode, UnixMillis};
use darkbloom_wire::{
    AnswerProof, Bill, CandidateList, CatalogueEntry, PublicKey, Receipt, Statement, catalogue_digest, limits,
    receipt_id,
};

/// How long after an epoch's keys are erased a request that it admitted may still run.
const RUNS_ON: Millis = Millis::from_minutes(30);
/// How much older than an answer the list may be that it was sealed by, and how much later the bill: a day. Clients ask for a
/// signed list twice a day, and late receipts settle for as long.
const APART_MAX: Millis = Millis::from_minutes(24 * 60);

/// An answer, as its proof shows it.
#[derive(Debug)]
pub struct Proven {
    /// The network.
    pub network: NetworkId,
    /// Who answered, as of the time of the answer.
    pub verdict: Verdict,
    /// Whether this client would have sealed to it.
    pub admitted: bool,
    /// The model, as the network's operator signed it.
    pub entry: CatalogueEntry,
    /// What the provider signed.
    pub receipt: Receipt,
    /// What the coordinator signed.
    pub bill: Bill,
}

fn lie(detail: impl Into<String>) -> Refusal {
    Refusal::new(RefusalCode::VerificationFailed, detail.into())
}

impl Proven {
    /// Verifies a proof. `policy` says which network it must be of. What it cannot show is what was agreed to before the answer,
    /// ceilings and highest price; and its times are those of provider and coordinator, who could lie about them together.
    ///
    /// # Errors
    /// [`Refusal`] says what does not hold.
    pub fn read(bytes: &[u8], policy: impl FnOnce(NetworkId) -> TrustPolicy) -> Result<Self, Refusal> {
        let proof = AnswerProof::decode(bytes).map_err(|error| lie(format!("no proof of an answer: {error}")))?;
        let network = NetworkId::of_coordinator_key(&proof.coordinator);
        let coordinator = PublicKey::P256(proof.coordinator);
        let policy = policy(network);
        if policy.network != network {
            let detail = format!("the proof is of {network}, pinned is {}", policy.network);
            return Err(Refusal::new(RefusalCode::WrongNetwork, detail));
        }
        let list = CandidateList::open(&proof.list, &coordinator)
            .map_err(|error| lie(format!("the candidate list: {error}")))?;
        let entry = CatalogueEntry::open(&list.entry, &coordinator)
            .map_err(|error| lie(format!("the catalogue entry: {error}")))?;
        if list.network != network || entry.network != network {
            return Err(RefusalCode::WrongNetwork.into());
        }
        let (verdict, receipt) = answered(&proof, &policy.with_network_activator(list.activator))?;
        let seen = ReceiptExpectation {
            request: receipt.request,
            request_id: receipt.request_id,
            attempt: receipt.attempt,
            transcript: None,
            model: catalogue_digest(&list.entry),
            weights: Some(entry.weights),
            provider: verdict.provider,
            epoch: verdict.epoch,
            input_ceiling: receipt.input_tokens,
            output_tokens: None,
        };
        check_receipt(&proof.receipt, &verdict.statement.receipt_key, &seen).map_err(|error| lie(error.to_string()))?;
        if !verdict.statement.models.0.contains(&seen.model) {
            return Err(lie("the provider's statement does not name the model"));
        }
        let bill = billed(&proof, &receipt, &list, &coordinator)?;
        let in_order = |earlier: UnixMillis, later: UnixMillis| {
            earlier <= later.after(limits::CLOCK_SKEW_MAX) && later.since(earlier) <= APART_MAX
        };
        if !in_order(list.time, receipt.finished_at) || !in_order(receipt.finished_at, bill.settled_at) {
            return Err(lie("list, receipt and bill are not of one time"));
        }
        let admitted = policy.admits(&verdict);
        Ok(Self { network, verdict, admitted, entry, receipt, bill })
    }
}

/// Who answered, verified as of the time of the answer, and the receipt.
fn answered(proof: &AnswerProof, policy: &TrustPolicy) -> Result<(Verdict, Receipt), Refusal> {
    let no_statement = |error: String| lie(format!("the provider's statement: {error}"));
    let statement = Statement::open_self_signed(&proof.statement).map_err(|error| no_statement(error.to_string()))?;
    let receipt = Receipt::open(&proof.receipt, &PublicKey::Ed25519(statement.receipt_key))
        .map_err(|error| lie(format!("the receipt: {error}")))?;
    let ended = receipt.finished_at;
    let (begun, over) = (statement.not_before, statement.open_until.after(RUNS_ON));
    if ended.after(limits::CLOCK_SKEW_MAX) < begun || ended > over.after(limits::CLOCK_SKEW_MAX) {
        return Err(lie("the answer ended outside the time in which its epoch may answer"));
    }
    // It was sealed while the epoch was in use; how long it took to answer is another matter.
    let in_use = UnixMillis(statement.use_until.0.saturating_sub(1));
    let verdict = verify_statement(&proof.statement, policy, ended.max(begun).min(in_use))
        .map_err(|error| no_statement(error.to_string()))?;
    Ok((verdict, receipt))
}

/// What the coordinator charged for this receipt: by the price that it offered, where that is still the same version. A price
/// of a later version was told with answers, which are not kept.
fn billed(
    proof: &AnswerProof,
    receipt: &Receipt,
    list: &CandidateList,
    coordinator: &PublicKey,
) -> Result<Bill, Refusal> {
    let bill = Bill::open(&proof.bill, coordinator).map_err(|error| lie(format!("the bill: {error}")))?;
    let agreed = BillExpectation {
        operation: bill.operation,
        request: receipt.request_id,
        receipt: Some(receipt_id(&proof.receipt)),
        price: bill.price,
        price_max: bill.hold,
        input_most: receipt.input_tokens,
        output_most: receipt.output_tokens,
    };
    let bill = check_bill(&proof.bill, coordinator, &agreed).map_err(|error| lie(error.to_string()))?;
    if bill.price.version == list.price.version && !list.price.allows(&bill.price) {
        return Err(lie("the bill has another price than the list, and calls it the same"));
    }
    Ok(bill)
}

/// Where proofs are kept.
#[derive(Debug, Clone)]
pub(crate) struct ProofFolder(PathBuf);

impl ProofFolder {
    /// A folder, made where it is not there.
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        let mut making = fs::DirBuilder::new();
        // Who asked whom and when, and what it cost, is nobody else's business.
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut making, 0o700);
        making.recursive(true).create(path).map_err(|error| {
            Refusal::new(RefusalCode::Internal, format!("cannot use the folder {} for proofs: {error}", path.display()))
        })?;
        Ok(Self(path.to_owned()))
    }

    /// Writes a proof under its receipt's name. Whole or not at all: a file that is half written would be called a lie.
    pub fn keep(&self, proof: &AnswerProof) -> std::io::Result<PathBuf> {
        let path = self.0.join(format!("{}.receipt", receipt_id(&proof.receipt)));
        let half = path.with_extension("half");
        let mut making = fs::OpenOptions::new();
        making.write(true).create(true).truncate(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut making, 0o600);
        let mut file = making.open(&half)?;
        file.write_all(&proof.encode())?;
        // Else a machine that loses power has the name of a proof and nothing in it.
        file.sync_all()?;
        fs::rename(&half, &path)?;
        Ok(path)
    }
}

// A fuzz target includes this file, and looks for these where it is.
#[cfg(test)]
#[path = "proof/tests.rs"]
mod tests;
#[cfg(test)]
#[path = "proof/vectors.rs"]
mod vectors;
