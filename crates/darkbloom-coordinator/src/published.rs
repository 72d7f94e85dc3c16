//! What anybody may check: the statements of connected providers, with their evidence, signed as a list.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use darkbloom_host::clock;
use darkbloom_types::{ProviderId, Refusal, RefusalCode};
use darkbloom_wire::{ListedProvider, ProviderList, limits};
use serde::Deserialize;

use crate::api::{FRAMES, Refused, internal};
use crate::state::Shared;

#[derive(Deserialize)]
pub struct Which {
    /// This one alone.
    provider: Option<String>,
    /// Those above this one.
    after: Option<String>,
}

/// `GET /v1/providers/attestation`: up to 32 providers, from the first or after one, or a single one.
pub async fn list(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<Which>, QueryRejection>,
) -> Result<Response, Refused> {
    let wrong = || Refusal::new(RefusalCode::InvalidRequest, "`provider` and `after` are provider ids: 64 hex digits");
    let Query(Which { provider, after }) = query.map_err(|_| wrong())?;
    let Ok(_place) = shared.published.try_acquire() else {
        return Err(Refusal::new(RefusalCode::NoCapacity, "others are being answered here").into());
    };
    let id = |text: Option<String>| text.map(|text| text.parse::<ProviderId>().map_err(|_| wrong())).transpose();
    let (provider, after) = (id(provider)?, id(after)?);
    // Ids are ordered, so a single one is the first after its predecessor.
    let (after, most) = match provider {
        Some(only) => (predecessor(only), 1),
        None => (after, limits::CANDIDATES_MAX + 1),
    };
    let (mono, wall) = (shared.mono(), clock::now());
    let mut found =
        shared.with_registry(|registry| registry.statements(after.as_ref(), most, shared.tier_min, mono, wall));
    if let Some(only) = provider {
        found.retain(|(id, ..)| *id == only);
        if found.is_empty() {
            return Err(Refusal::new(RefusalCode::NotFound, "this provider is not connected").into());
        }
    }
    let more = found.len() > limits::CANDIDATES_MAX;
    found.truncate(limits::CANDIDATES_MAX);
    let listed = |(_, statement, verdict): (_, Arc<[u8]>, Result<(), darkbloom_registry::Ineligible>)| ListedProvider {
        statement: statement.to_vec(),
        reason: verdict.err().map(|reason| reason.name().to_owned()),
    };
    let list = ProviderList {
        network: shared.network,
        time: wall,
        activator: shared.activation.key(),
        providers: found.into_iter().map(listed).collect::<Vec<_>>().into(),
        more,
    };
    let signed = list.sign(&*shared.key).map_err(internal)?;
    Ok(([(header::CONTENT_TYPE, FRAMES)], signed).into_response())
}

/// The greatest id below this one; nothing below the least.
fn predecessor(id: ProviderId) -> Option<ProviderId> {
    let mut bytes = *id.as_bytes();
    for byte in bytes.iter_mut().rev() {
        let (less, borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !borrowed {
            return Some(ProviderId(bytes));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_predecessor_is_the_next_below() {
        let id = |head: u8, tail: u8| {
            let mut bytes = [0; 32];
            (bytes[0], bytes[31]) = (head, tail);
            ProviderId(bytes)
        };
        assert_eq!(predecessor(id(3, 5)), Some(id(3, 4)));
        let mut below = [0xff; 32];
        below[0] = 2;
        assert_eq!(predecessor(id(3, 0)), Some(ProviderId(below)));
        assert_eq!(predecessor(id(0, 0)), None);
    }
}
