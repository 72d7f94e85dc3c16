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
    /// Verifies a proof. `policy` says which network it must be of.
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

/// What the coordinator charged for this receipt: never more than it offered.
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
    let (asked, offered) = (bill.price, list.price);
    if asked.input_nano_per_token > offered.input_nano_per_token
        || asked.output_nano_per_token > offered.output_nano_per_token
    {
        return Err(lie("the bill has a higher price than the list that was sealed by"));
    }
    Ok(bill)
}

/// Where proofs are kept.
#[derive(Debug, Clone)]
pub(crate) struct ProofFolder(PathBuf);

impl ProofFolder {
    /// A folder, made where it is not there.
    pub fn open(path: &Path) -> Result<Self, Refusal> {
        fs::create_dir_all(path).map_err(|error| {
            Refusal::new(RefusalCode::Internal, format!("cannot use the folder {} for proofs: {error}", path.display()))
        })?;
        Ok(Self(path.to_owned()))
    }

    /// Writes a proof under its receipt's name. Whole or not at all: a file that is half written would be called a lie.
    pub fn keep(&self, proof: &AnswerProof) -> std::io::Result<PathBuf> {
        let path = self.0.join(format!("{}.receipt", receipt_id(&proof.receipt)));
        let half = path.with_extension("half");
        let mut file = fs::File::create(&half)?;
        file.write_all(&proof.encode())?;
        fs::rename(&half, &path)?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests;
