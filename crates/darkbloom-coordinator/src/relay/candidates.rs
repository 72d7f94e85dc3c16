//! What clients are told about a model's candidates: a signed list when they ask for one, what changed with an answer.

use darkbloom_registry::CandidateView;
use darkbloom_types::{Millis, Price, UnixMillis};
use darkbloom_wire::{Candidate, CandidateList, CandidateNow, CandidateUpdate, SignError};

use super::Relay;
use crate::catalogue::Item;
use crate::state::Shared;
use darkbloom_host::clock;

/// A client that heard of the candidates this short a time ago is told nothing: loads change by the second, and updates
/// should be few beside answers.
const UPDATE_AGE: Millis = Millis::from_secs(5);
/// Statements in one update: at 32 KiB each, a quarter of a megabyte. A client that lacks more asks for a list.
const UPDATE_STATEMENTS_MAX: usize = 8;

/// A fresh signed list of a model's candidates.
pub fn candidate_list(shared: &Shared, item: &Item) -> Result<Vec<u8>, SignError> {
    let now = clock::now();
    let found =
        shared.with_registry(|registry| registry.candidates(&item.digest, shared.mono(), now, &mut clock::rng()));
    let candidates: Vec<_> = found
        .into_iter()
        .map(|view| Candidate {
            statement: view.statement.to_vec(),
            rows_free: view.rows_free,
            waiting: view.waiting,
            row_tokens: view.row_tokens,
        })
        .collect();
    let list = CandidateList {
        network: shared.network,
        time: now,
        entry: item.signed.clone(),
        price: item.price,
        candidates: candidates.into(),
        activator: shared.activation.key(),
    };
    list.sign(&*shared.key)
}

impl Relay {
    /// What changed among the candidates since the client last heard of them, if it wants to hear and that is a while ago.
    pub(super) fn candidate_update(&self) -> Option<CandidateUpdate> {
        let now = clock::now();
        let as_of = since(self.request.submit.candidates_as_of?, now)?;
        let model = self.request.header.model;
        // The price may have changed while the answer ran; a model that is no longer offered has none.
        let price = self.shared.catalogue().by_digest_for(&model, self.request.account)?.price;
        let found = self
            .shared
            .with_registry(|registry| registry.candidates(&model, self.shared.mono(), now, &mut clock::rng()));
        Some(update(found, price, as_of, now))
    }
}

/// Since when there may be news for a client whose list says `as_of`; none when that is too short a time ago.
fn since(as_of: UnixMillis, now: UnixMillis) -> Option<UnixMillis> {
    if as_of > now {
        // The clock was set back: what is newer than the list cannot be told by time.
        return Some(UnixMillis(i64::MIN));
    }
    (now.since(as_of) > UPDATE_AGE).then_some(as_of)
}

fn update(found: Vec<CandidateView>, price: Price, as_of: UnixMillis, now: UnixMillis) -> CandidateUpdate {
    let mut statements = 0;
    let mut candidate = |view: CandidateView| {
        // One that became known in the very millisecond of the list may be missing in it.
        let tell = view.known_at >= as_of && statements < UPDATE_STATEMENTS_MAX;
        statements += usize::from(tell);
        CandidateNow {
            provider: view.provider,
            epoch: view.epoch,
            rows_free: view.rows_free,
            waiting: view.waiting,
            row_tokens: view.row_tokens,
            statement: tell.then(|| view.statement.to_vec()),
        }
    };
    let candidates: Vec<_> = found.into_iter().map(&mut candidate).collect();
    CandidateUpdate { time: now, price, candidates: candidates.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darkbloom_types::{EpochId, ProviderId, TokenCount};
    use darkbloom_wire::{RelayedFinal, limits};

    const PRICE: Price = Price { version: 3, input_nano_per_token: 1, output_nano_per_token: 2 };
    const AS_OF: UnixMillis = UnixMillis(100_000);

    fn view(n: u8, known_at: i64) -> CandidateView {
        CandidateView {
            provider: ProviderId([n; 32]),
            epoch: EpochId([n; 16]),
            statement: vec![n; limits::STATEMENT_BYTES_MAX].into(),
            known_at: UnixMillis(known_at),
            rows_free: u32::from(n),
            waiting: 1,
            row_tokens: TokenCount(1_024),
        }
    }

    #[test]
    fn a_list_of_up_to_five_seconds_ago_is_not_updated() {
        assert_eq!(since(AS_OF, AS_OF), None);
        assert_eq!(since(AS_OF, UnixMillis(AS_OF.0 + 5_000)), None);
        assert_eq!(since(AS_OF, UnixMillis(AS_OF.0 + 5_001)), Some(AS_OF));
        assert!(since(AS_OF, UnixMillis(AS_OF.0 - 1)) < Some(UnixMillis(0)), "a clock that was set back hides nothing");
    }

    #[test]
    fn only_statements_that_the_client_cannot_know_are_told() {
        let found = vec![view(3, 99_999), view(2, 100_000), view(1, 100_001)];
        let now = UnixMillis(200_000);
        let told = update(found, PRICE, AS_OF, now);
        assert_eq!((told.time, told.price), (now, PRICE));
        let told: Vec<_> =
            told.candidates.0.iter().map(|one| (one.provider.0[0], one.rows_free, one.statement.is_some())).collect();
        assert_eq!(told, [(3, 3, false), (2, 2, true), (1, 1, true)], "in the order that they came");
    }

    #[test]
    fn an_update_has_at_most_eight_statements_and_its_frame_is_far_from_the_limit() {
        let found = (0..32).map(|n| view(n, 100_001)).collect();
        let told = update(found, PRICE, AS_OF, UnixMillis(200_000));
        let with: Vec<_> = told.candidates.0.iter().map(|one| one.statement.is_some()).collect();
        assert_eq!((with.len(), with.iter().filter(|with| **with).count()), (32, 8));
        assert!(with[..8].iter().all(|with| *with), "the best come first");
        let (receipt, bill) = (vec![0; limits::RECEIPT_BYTES_MAX], vec![0; limits::RECEIPT_BYTES_MAX]);
        let frame = darkbloom_wire::Relayed::from(RelayedFinal { receipt, bill, update: Some(told) }).encode();
        assert!(frame.len() < limits::FRAME_BYTES_MAX / 2, "{} bytes", frame.len());
    }
}
