//! Who is admitted, what is verified, and what is held against whom when it does not hold.

use darkbloom_attest::{
    Assessment, OpenedStatement, StatementError, TrustPolicy, Verdict, verify_challenge, verify_epoch_proof,
    verify_opened, verify_presence,
};
use darkbloom_host::clock;
use darkbloom_store::{KeyKind, KeyRecord, SuccessionError, SuccessionRefusal};
use darkbloom_types::{Distrust, ProviderId, Refusal, RefusalCode, SecretString, Standing, Tier, armed};
use darkbloom_wire::{ChallengeAnswer, Evidence, Hello, Statement, Succession, challenge_digest};

use crate::auth;
use crate::state::{Connection, Shared, lock};

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
fn verify(shared: &Shared, statement: OpenedStatement) -> Result<Verdict, StatementError> {
    let policy = TrustPolicy {
        network: shared.network,
        tier_min: Tier::None,
        pinned: std::collections::BTreeSet::new(),
        hardware: shared.activation.trust(),
    };
    verify_opened(statement, &policy, clock::now())
}

/// The same on a connection, with what the provider's hardware said there when it was asked last.
pub fn verify_on(shared: &Shared, connection: &Connection, statement: &[u8]) -> Result<Verdict, StatementError> {
    verify_opened_on(shared, connection, OpenedStatement::open(statement)?)
}

fn verify_opened_on(
    shared: &Shared,
    connection: &Connection,
    statement: OpenedStatement,
) -> Result<Verdict, StatementError> {
    let mut verdict = verify(shared, statement)?;
    verdict.presence = Some(connection.presence());
    Ok(verdict)
}

/// What is proven of whoever introduces himself, in the order of what it costs to find out.
pub fn introduced(
    shared: &Shared,
    connection: &Connection,
    statement: OpenedStatement,
    hello: &Hello,
    nonce: &[u8; 32],
) -> Result<Verdict, StatementError> {
    // His key first: evidence takes longest, and is looked at for whoever has that.
    verify_challenge(&hello.proof, statement.said(), &[*nonce], &connection.id)?;
    let mut verdict = verify(shared, statement)?;
    verify_epoch_proof(&hello.epoch_proof, &verdict.statement, nonce, &connection.id)?;
    present(shared, connection, &verdict.statement, nonce, &hello.presence.0);
    verdict.presence = Some(connection.presence());
    Ok(verdict)
}

/// Notes what a provider's hardware says about its proof over this nonce. What does not hold is held against nobody: it is not
/// there.
pub fn present(
    shared: &Shared,
    connection: &Connection,
    statement: &Statement,
    nonce: &[u8; 32],
    evidence: &[Evidence],
) {
    let challenge = challenge_digest(&statement.network, nonce, &connection.id, &statement.epoch());
    connection.present(verify_presence(statement, evidence, &challenge, &shared.activation.trust(), clock::now()));
}

/// What is held against an identity now. One that another has the place of counts as revoked.
pub fn standing(shared: &Shared, provider: ProviderId) -> Standing {
    if !armed!("standing_stored") {
        return Standing::Clean;
    }
    if shared.store.successor(provider).is_some() { Standing::Revoked } else { shared.store.standing(provider) }
}

/// The operator wants an identity no more.
pub fn by_operator() -> Refusal {
    Refusal::new(RefusalCode::IdentityRevoked, "the operator revoked it")
}

/// Why an identity counts no more.
pub fn revoked(shared: &Shared, provider: ProviderId) -> Refusal {
    shared.store.successor(provider).map_or_else(by_operator, |successor| {
        let detail = format!("its owner rotated the key: {successor} has its place");
        Refusal::new(RefusalCode::IdentityRevoked, detail)
    })
}

fn opened(statement: &[u8]) -> Result<OpenedStatement, Refusal> {
    OpenedStatement::open(statement).map_err(|error| refusal(&error))
}

/// Whether somebody could be admitted at all: nobody without a name or a token has chains of certificates followed for him. The
/// statement, of which nothing but its signature was looked at.
pub fn may_join(shared: &Shared, hello: &Hello) -> Result<OpenedStatement, Refusal> {
    let opened = opened(&hello.statement)?;
    let statement = opened.said();
    let known = |point: &[u8; 65]| shared.store.provider_known(ProviderId::of_public_key(point));
    let heir = || {
        let words = statement.successions.0.iter().filter_map(|word| Succession::open_self_signed(word).ok());
        words.into_iter().any(|word| known(&word.old))
    };
    if !known(&statement.identity) && !heir() {
        join_token(shared, hello)?;
    }
    // Said by its name: what it proves is about its own network, and would not hold here.
    if statement.network == shared.network { Ok(opened) } else { Err(refusal(&StatementError::OtherNetwork)) }
}

fn join_token(shared: &Shared, hello: &Hello) -> Result<KeyRecord, Refusal> {
    let token = hello.join_token.as_ref().map(SecretString::expose);
    auth::lookup(&shared.store, token.ok_or_else(|| Refusal::from(RefusalCode::InvalidApiKey))?, KeyKind::Join)
}

/// A new identity needs a join token; a known one does not. One that was revoked, or whose owner has another in its place,
/// is refused, whatever it proves.
pub async fn admit(shared: &Shared, hello: &Hello, verdict: &Verdict) -> Result<(), Refusal> {
    let provider = verdict.provider;
    if standing(shared, provider) == Standing::Revoked {
        return Err(revoked(shared, provider));
    }
    take_over(shared, verdict).await?;
    if shared.store.provider_known(provider) {
        return Ok(());
    }
    let key = join_token(shared, hello)?;
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
        if shared.store.successor(*old) == Some(new) {
            continue;
        }
        if shared.store.standing(*old) == Standing::Revoked {
            return Err(Refusal::new(RefusalCode::IdentityRevoked, SuccessionRefusal::Revoked.to_string()));
        }
        // Who is not known has nothing to pass on, and nobody here to take it from.
        if !shared.store.provider_known(*old) {
            continue;
        }
        let stands = match shared.store.succeed(*old, new, signed.clone(), clock::now()).await {
            Ok(stands) => stands,
            Err(SuccessionError::Refused(refusal)) => {
                let code = if refusal == SuccessionRefusal::Revoked {
                    RefusalCode::IdentityRevoked
                } else {
                    RefusalCode::SuccessionRefused
                };
                return Err(Refusal::new(code, format!("{refusal} ({old})")));
            }
            Err(SuccessionError::Store(error)) => {
                tracing::error!(%error, "cannot note that an identity took over from another");
                return Err(RefusalCode::Internal.into());
            }
        };
        tracing::info!(%old, %new, "an identity took over from another");
        let (now, wall) = (shared.mono(), clock::now());
        let connection = shared.with_registry(|registry| registry.succeeded(old, &new, stands, now, wall));
        if let Some(connection) = connection.and_then(|id| shared.connection(&id)) {
            connection.replace();
            connection.send(super::replaced());
        }
        keep(shared, new).await;
    }
    Ok(())
}

/// Checks the answer to a challenge. One that does not hold is held against the identity: who answers has proven that it has
/// the key.
pub async fn challenge_answer(
    shared: &Shared,
    connection: &Connection,
    answer: &ChallengeAnswer,
) -> Result<(), Refusal> {
    let (known, statement) = shared
        .with_registry(|registry| (registry.known_challenges(&connection.id), registry.statement(&connection.id)));
    let Some(statement) = statement.filter(|_| !known.is_empty()) else {
        return Err(Refusal::new(RefusalCode::InvalidRequest, "an answer without a challenge"));
    };
    let said = opened(&statement)?;
    match verify_challenge(&answer.proof, said.said(), &known, &connection.id) {
        Ok(nonce) => {
            present(shared, connection, said.said(), &nonce, &answer.presence.0);
            // It held when it came, so what fails now is its time.
            let verdict = verify_opened_on(shared, connection, said).map_err(|error| refusal(&error))?;
            let (now, wall) = (shared.mono(), clock::now());
            let changed = shared.with_registry(|registry| {
                // What held when it came need not hold now: an activator's word has an end.
                let Assessment { tier, shut, shadow } = shared.policy().assess(&verdict);
                registry.reassess(&connection.id, &statement, tier, (shut, shadow), now, wall);
                registry.challenge_answered(&connection.id, &nonce, now, wall)
            });
            if let Some(provider) = changed {
                keep(shared, provider).await;
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
    let error = match verify_on(shared, connection, statement) {
        Ok(verdict) if verdict.provider == provider => {
            // What it says of others counts as much as in its introduction.
            take_over(shared, &verdict).await?;
            return Ok(verdict);
        }
        Ok(_) => Refusal::new(RefusalCode::VerificationFailed, "the statement is another identity's"),
        Err(error) => refusal(&error),
    };
    // A clock that is wrong is nobody's lie.
    if error.code != RefusalCode::ClockSkew {
        failed(shared, connection, Distrust::StatementFailed).await;
    }
    Err(error)
}

/// Has a provider asked soon whose statement says more of its hardware than that said when it was asked last: evidence that
/// came later, such as with an activator's word, should not wait for the next challenge.
pub fn ask_again(shared: &Shared, connection: &Connection, verdict: &Verdict) {
    let policy = shared.policy();
    let alone = Verdict { presence: None, ..verdict.clone() };
    if policy.assess(&alone) != policy.assess(verdict) {
        shared.with_registry(|registry| registry.challenge_soon(&connection.id, shared.mono()));
    }
}

async fn failed(shared: &Shared, connection: &Connection, reason: Distrust) {
    if !armed!("failures_count") {
        return;
    }
    let (now, wall) = (shared.mono(), clock::now());
    let changed = shared.with_registry(|registry| registry.failed_check(&connection.id, reason, now, wall));
    if let Some(provider) = changed {
        keep(shared, provider).await;
    }
}

/// Writes down what is held against an identity, and tells the operator. What cannot be written now is tried again.
pub async fn keep(shared: &Shared, provider: ProviderId) {
    match shared.with_registry(|registry| registry.standing(&provider)) {
        Some(Standing::Distrusted(failed)) => tracing::warn!(
            %provider, reason = failed.reason.name(), until = failed.until.0, times = failed.times,
            "a provider is distrusted: {}", failed.reason.sentence()
        ),
        Some(standing @ (Standing::Clean | Standing::Recovered(_) | Standing::Revoked)) => {
            tracing::info!(%provider, standing = standing.name(), "what is held against a provider changed");
        }
        None => {}
    }
    lock(&shared.unkept).insert(provider);
    write_down(shared, provider).await;
}

/// Writes what the registry holds against an identity until that is what is written: it may change meanwhile, and others may
/// write.
pub async fn write_down(shared: &Shared, provider: ProviderId) {
    let now = || shared.with_registry(|registry| registry.standing(&provider));
    // That another has an identity's place is known by that: only its operator revokes one.
    while let Some(standing) = now().filter(|standing| *standing != Standing::Revoked) {
        if let Err(error) = shared.store.standing_put(provider, standing, clock::now(), None).await {
            return tracing::error!(%provider, %error, "cannot write down what is held against a provider");
        }
        if now() == Some(standing) {
            break;
        }
    }
    lock(&shared.unkept).remove(&provider);
}
