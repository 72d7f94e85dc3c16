//! What makes two answers to one request two: a salt that nobody has seen before.

use std::collections::HashSet;

use darkbloom_types::{StreamId, TokenCount};
use darkbloom_wire::ProviderFrame;

use crate::coordinator::{Coordinator, within};

#[tokio::test]
async fn every_acceptance_has_a_salt_of_its_own() {
    let coordinator = Coordinator::start().await;
    let (provider, mut line, introduced) = coordinator.serving().await;
    let mut salts = HashSet::from([[0; 32]]);
    for stream in 1..=4 {
        line.send(introduced.offer(stream, 3)).await;
        let salt = line.until("an acceptance", |frame| match frame {
            ProviderFrame::Accepted(accepted) if accepted.stream == StreamId(stream) => Some(accepted.salt),
            _ => None,
        });
        assert!(salts.insert(salt.await), "the salt of acceptance {stream} was used before");
        assert_eq!(line.answer(stream).await, Ok(3));
    }
    within("the provider stops", provider.stop()).await;
}

#[tokio::test]
async fn every_sealed_refusal_has_a_salt_of_its_own() {
    let coordinator = Coordinator::start().await;
    let (provider, mut line, introduced) = coordinator.serving().await;
    let mut salts = HashSet::from([vec![0; 32]]);
    for stream in 1..=4 {
        line.send(introduced.offer_with(stream, 3, |header, _| header.input_ceiling = TokenCount(1))).await;
        let words = line.until("a refusal", |frame| match frame {
            ProviderFrame::Refused(refused) if refused.stream == StreamId(stream) => refused.sealed,
            _ => None,
        });
        let words = words.await;
        assert!(salts.insert(words[..32].to_vec()), "the salt of refusal {stream} was used before");
    }
    within("the provider stops", provider.stop()).await;
}
