//! Who is admitted, what is verified, and what is held against whom when it does not hold.

use darkbloom_attest::{StatementError, TrustPolicy, Verdict, verify_challenge, verify_statement};
use darkbloom_host::clock;
use darkbloom_store::{KeyKind, SuccessionError, SuccessionRefusal};
use darkbloom_types::{Distrust, ProviderId, Refusal, RefusalCode, SecretString, Standing, Tier};
use darkbloom_wire::Hello;

use crate::auth;
use crate::state::{Connection, Shared};

/// Why a statement or proof is refused.
pub fn refusal(error: &StatementError) -> Refusal {
    let code = match error {
        StatementError::Expired { .. } | StatementError::Future { .. } => RefusalCode::ClockSkew,
        StatementError::OtherNetwork => RefusalCode::WrongNetwork,
        StatementError::Signature(_)
        | StatementError::Times
        | StatementError::SealingKey
        | StatementError::Succession
        | StatementError::Challenge => RefusalCode::VerificationFailed,
    };
    Refusal::new(code, error.to_string())
}

/// What a statement proves. The coordinator pins nobody: its verdict is what evidence proves.
pub fn verify(shared: &Shared, statement: &[u8]) -> Result<Verdict, StatementError> {
    let policy = TrustPolicy {
        network: shared.network,
        tier_min: Tier::None,
        pinned: std::collections::BTreeSet::new(),
        hardware: shared.activation.trust(),
    };
    verify_statement(statement, &policy, clock::now())
}

/// A new identity needs a join token; a known one does not. One that was revoked, or whose owner has another in its place,
/// is refused, whatever it proves.
pub async fn admit(shared: &Shared, hello: &Hello, verdict: &Verdict) -> Result<(), Refusal> {
    let provider = verdict.provider;
    if shared.store.standing(provider) == Standing::Revoked {
        return Err(Refusal::new(RefusalCode::IdentityRevoked, "the operator revoked it"));
    }
    if let Some(successor) = shared.store.successor(provider) {
        let detail = format!("its owner rotated the key: {successor} has its place");
        return Err(Refusal::new(RefusalCode::IdentityRevoked, detail));
    }
    take_over(shared, verdict).await?;
    if shared.store.provider_known(provider) {
        return Ok(());
    }
    let token =
        hello.join_token.as_ref().map(SecretString::expose).ok_or_else(|| Refusal::from(RefusalCode::InvalidApiKey))?;
    let key = auth::lookup(&shared.store, token, KeyKind::Join)?;
    let seen = shared.store.provider_seen(provider, key.id, clock::now()).await;
    seen.map_err(|error| {
        tracing::error!(%error, "cannot note a new provider");
        Refusal::from(RefusalCode::Internal)
    })
}

/// An identity that shows whom it took over from has that one's place, history and standing from now on.
async fn take_over(shared: &Shared, verdict: &Verdict) -> Result<(), Refusal> {
    let predecessors = verdict.predecessors.iter();
    let heirs = std::iter::once(verdict.provider).chain(predecessors.clone().map(|(id, _)| *id));
    let chain: Vec<_> = predecessors.zip(heirs).collect();
    for ((old, signed), new) in chain.into_iter().rev() {
        if shared.store.standing(*old) == Standing::Revoked {
            return Err(Refusal::new(RefusalCode::IdentityRevoked, SuccessionRefusal::Revoked.to_string()));
        }
        // Whoever is known already has a history, and who is not has none to pass on.
        if shared.store.provider_known(new) || !shared.store.provider_known(*old) {
            continue;
        }
        match shared.store.succeed(*old, new, signed.clone(), clock::now()).await {
            Ok(()) => {}
            Err(SuccessionError::Refused(refusal)) => {
                return Err(Refusal::new(RefusalCode::IdentityRevoked, refusal.to_string()));
            }
            Err(SuccessionError::Store(error)) => {
                tracing::error!(%error, "cannot note that an identity took over from another");
                return Err(RefusalCode::Internal.into());
            }
        }
        tracing::info!(%old, %new, "an identity took over from another");
        let (now, wall) = (shared.mono(), clock::now());
        let connection = shared.with_registry(|registry| registry.succeeded(old, &new, now, wall));
        if let Some(connection) = connection.and_then(|id| shared.connection(&id)) {
            connection.replace();
            connection.send(super::replaced());
        }
    }
    Ok(())
}

/// Checks the answer to a challenge. One that does not hold is held against the identity: who answers has proven that it has
/// the key.
pub async fn challenge_answer(shared: &Shared, connection: &Connection, proof: &[u8]) -> Result<(), Refusal> {
    let (open, statement) =
        shared.with_registry(|registry| (registry.open_challenges(&connection.id), registry.statement(&connection.id)));
    let Some(statement) = statement.filter(|_| !open.is_empty()) else {
        return Err(Refusal::new(RefusalCode::InvalidRequest, "an answer without a challenge"));
    };
    // It held when it came, so what fails now is its time.
    let verdict = verify(shared, &statement).map_err(|error| refusal(&error))?;
    match verify_challenge(proof, &verdict, &open, &connection.id) {
        Ok(nonce) => {
            let (now, wall) = (shared.mono(), clock::now());
            let changed =
                shared.with_registry(|registry| registry.challenge_answered(&connection.id, &nonce, now, wall));
            if let Some((provider, standing)) = changed {
                keep(shared, provider, standing).await;
            }
            Ok(())
        }
        Err(error) => {
            failed(shared, connection, Distrust::ChallengeFailed).await;
            Err(refusal(&error))
        }
    }
}

/// Checks the statement of a provider's next epoch.
pub async fn next_statement(
    shared: &Shared,
    connection: &Connection,
    provider: ProviderId,
    statement: &[u8],
) -> Result<Verdict, Refusal> {
    let error = match verify(shared, statement) {
        Ok(verdict) if verdict.provider == provider => return Ok(verdict),
        Ok(_) => Refusal::new(RefusalCode::VerificationFailed, "the statement is another identity's"),
        Err(error) => refusal(&error),
    };
    // A clock that is wrong is nobody's lie.
    if error.code != RefusalCode::ClockSkew {
        failed(shared, connection, Distrust::StatementFailed).await;
    }
    Err(error)
}

async fn failed(shared: &Shared, connection: &Connection, reason: Distrust) {
    let (now, wall) = (shared.mono(), clock::now());
    let changed = shared.with_registry(|registry| registry.failed_check(&connection.id, reason, now, wall));
    if let Some((provider, standing)) = changed {
        keep(shared, provider, standing).await;
    }
}

/// Writes down what is held against an identity, and tells the operator.
pub async fn keep(shared: &Shared, provider: ProviderId, standing: Standing) {
    match standing {
        Standing::Distrusted(failed) => tracing::warn!(
            %provider, reason = failed.reason.name(), until = failed.until.0, times = failed.times,
            "a provider is distrusted: {}", failed.reason.sentence()
        ),
        Standing::Clean | Standing::Recovered(_) | Standing::Revoked => {
            tracing::info!(%provider, standing = standing.name(), "what is held against a provider changed");
        }
    }
    // The registry has it for as long as this process runs.
    if let Err(error) = shared.store.standing_put(provider, standing, clock::now(), None).await {
        tracing::error!(%provider, %error, "cannot write down what is held against a provider");
    }
}
