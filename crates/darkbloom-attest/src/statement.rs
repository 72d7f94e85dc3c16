//! Statements and challenge proofs.

use std::collections::BTreeSet;

use darkbloom_types::{ConnectionId, EpochId, Millis, NetworkId, ProviderId, Tier, UnixMillis, armed};
use darkbloom_wire::{ChallengeProof, PublicKey, Statement, Succession, VerifyError, challenge_digest, limits};

use crate::evidence::{self, Presence};
use crate::limits::{Defence, Undefended, undefended};
use crate::measurements::Measured;
use crate::tpm::{ActivatorKind, HardwareTrust};

/// Longest epoch that a statement may claim: 70 minutes, so that forward secrecy begins within a stated time.
const EPOCH_MAX: Millis = Millis::from_minutes(70);
/// An X-Wing public key: one of ML-KEM-768 (1,184), then one of X25519 (32).
const SEALING_KEY_BYTES: usize = 1_216;
/// Of these, the bytes that hold ML-KEM's coefficients, twelve bits each.
const COEFFICIENT_BYTES: usize = 1_152;
/// ML-KEM's modulus.
const MODULUS: u16 = 3_329;

/// Why a statement proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Signature or encoding.
    #[error("the statement does not verify: {0}")]
    Signature(#[from] VerifyError),
    /// For another network.
    #[error("the statement is for another network")]
    OtherNetwork,
    /// Its epoch is over.
    #[error("the statement's epoch ended at {use_until} ms, the clock says {now} ms")]
    Expired {
        /// When clients stop using it.
        use_until: i64,
        /// The verifier's clock.
        now: i64,
    },
    /// Its epoch begins further in the future than clocks may differ.
    #[error("the statement's epoch begins at {not_before} ms, the clock says {now} ms")]
    Future {
        /// When it begins.
        not_before: i64,
        /// The verifier's clock.
        now: i64,
    },
    /// Times out of order, or an epoch longer than allowed.
    #[error("the statement's times are not valid")]
    Times,
    /// The sealing key has the wrong length, or encodes no ML-KEM key.
    #[error("the statement's sealing key is not valid")]
    SealingKey,
    /// It says that its identity took over from another, and that one's word is missing or about others.
    #[error("the statement's successions do not lead to its identity")]
    Succession,
    /// A challenge was answered for something else.
    #[error("the challenge proof is for another challenge")]
    Challenge,
}

/// Whose word a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimSource {
    /// The verifier checked it itself.
    Verified,
    /// Hardware said so, and a chain to its maker was checked.
    Hardware,
    /// An activator said so that the verifier pinned, whoever runs it.
    IndependentActivator,
    /// The network's own activator said so, which its operator could have lie.
    CoordinatorActivator,
    /// The client's own configuration says so.
    Pinned,
    /// The provider says so; it raises nothing.
    Provider,
}

impl ClaimSource {
    /// The value in verdicts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Verified => "verified",
            Self::Hardware => "hardware",
            Self::IndependentActivator => "independent_activator",
            Self::CoordinatorActivator => "coordinator_activator",
            Self::Pinned => "pinned",
            Self::Provider => "provider",
        }
    }
}

/// How old a claim may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It is about this epoch's keys, and so no older than they are. How old that is nothing shows: whoever has the keys says
    /// when they begin to count.
    Epoch,
    /// It was seen then, and need not have been true since.
    Seen(UnixMillis),
    /// Nothing says when.
    Unstated,
}

/// One thing that is said about a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What.
    pub name: &'static str,
    /// The value, for a person.
    pub value: String,
    /// Whose word it is.
    pub source: ClaimSource,
    /// How old it may be.
    pub freshness: Freshness,
}

/// Why a client trusts an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// The client pinned it.
    Pinned,
    /// Nothing but possession of the key is known.
    Unpinned,
}

impl Trust {
    /// The word that people see. Never "attested" for a pinned key.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pinned => "pinned",
            Self::Unpinned => "unpinned",
        }
    }
}

/// What a verifier demands.
#[derive(Debug, Clone)]
pub struct TrustPolicy {
    /// The network.
    pub network: NetworkId,
    /// The least tier.
    pub tier_min: Tier,
    /// Identities that the verifier's own configuration names. They are accepted at any tier, and so is an identity that took
    /// over from one of them and has its word.
    pub pinned: BTreeSet<ProviderId>,
    /// Whom it believes about hardware.
    pub hardware: HardwareTrust,
}

impl TrustPolicy {
    /// This policy for a network whose coordinator says that this is its activator. Whoever pinned one relies on that one
    /// alone: a coordinator that lies about a provider would have its own lie too.
    #[must_use]
    pub fn with_network_activator(&self, key: Option<[u8; 65]>) -> Self {
        let mut policy = self.clone();
        if policy.hardware.activators.is_empty() || !armed!("activators_pinned_alone") {
            policy.hardware.activators.extend(key.map(|key| (key, ActivatorKind::Coordinator)));
        }
        policy
    }

    /// Whether a verdict is good enough to seal to. A `self_signed` identity that is not pinned is anybody's, so it takes
    /// a policy that asks for no more than `none`.
    #[must_use]
    pub fn admits(&self, verdict: &Verdict) -> bool {
        match verdict.trust {
            Trust::Pinned => true,
            Trust::Unpinned if armed!("admits_pinned_only") && verdict.tier == Tier::SelfSigned => {
                self.tier_min == Tier::None
            }
            Trust::Unpinned => verdict.tier >= self.tier_min || !armed!("admits_tier"),
        }
    }
}

/// What is known about a provider after its statement was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Who.
    pub provider: ProviderId,
    /// The epoch.
    pub epoch: EpochId,
    /// What is proven, with what the verifier accepts of what was measured.
    pub tier: Tier,
    /// What is proven to everybody who believes the same makers, whatever they accept.
    pub proven: Tier,
    /// Why this identity is trusted.
    pub trust: Trust,
    /// The identities that it took over from, which signed that; the last first. Each has the signed word.
    pub predecessors: Vec<(ProviderId, Vec<u8>)>,
    /// What hardware measured of it, whether or not that is accepted.
    pub measured: Vec<Measured>,
    /// What its hardware says when it is asked, for whoever asks: nothing for those who have the statement alone.
    pub presence: Option<Presence>,
    /// When the epoch is over, or earlier: when the word of an activator that this relies on is.
    pub holds_until: UnixMillis,
    /// Everything that is said, with its source.
    pub claims: Vec<Claim>,
    /// The statement itself.
    pub statement: Statement,
    /// The same as it was signed.
    pub signed: Vec<u8>,
}

impl Verdict {
    /// What this verdict does not defend. Where the tier's limits depend on who vouches, they are decided.
    #[must_use]
    pub fn undefended(&self) -> Undefended {
        let limits = undefended(self.tier);
        // What a TPM proves, it proves with an activator's word; what a processor proves, with its own.
        if !matches!(self.tier, Tier::Hardware | Tier::Measured) {
            return limits;
        }
        let by_coordinator = self.claims.iter().any(|claim| claim.source == ClaimSource::CoordinatorActivator);
        let dishonest_coordinator = if by_coordinator { Defence::NotDefended } else { Defence::Defended };
        Undefended { dishonest_coordinator, ..limits }
    }
}

/// Verifies a provider's statement.
///
/// # Errors
/// [`StatementError`] says what does not hold; then nothing about the provider is known.
pub fn verify_statement(bytes: &[u8], policy: &TrustPolicy, now: UnixMillis) -> Result<Verdict, StatementError> {
    verify_opened(OpenedStatement::open(bytes)?, policy, now)
}

/// A statement of which nothing was looked at but that the identity in it signed it.
#[derive(Debug, Clone)]
pub struct OpenedStatement {
    statement: Statement,
    signed: Vec<u8>,
}

impl OpenedStatement {
    /// Looks at the signature.
    ///
    /// # Errors
    /// [`StatementError::Signature`].
    pub fn open(bytes: &[u8]) -> Result<Self, StatementError> {
        Ok(Self { statement: Statement::open_self_signed(bytes)?, signed: bytes.to_vec() })
    }

    /// What it says.
    #[must_use]
    pub fn said(&self) -> &Statement {
        &self.statement
    }
}

/// Verifies the rest of a provider's statement.
///
/// # Errors
/// [`StatementError`] says what does not hold; then nothing about the provider is known.
pub fn verify_opened(
    opened: OpenedStatement,
    policy: &TrustPolicy,
    now: UnixMillis,
) -> Result<Verdict, StatementError> {
    let OpenedStatement { statement, signed } = opened;
    if armed!("statement_network") && statement.network != policy.network {
        return Err(StatementError::OtherNetwork);
    }
    let (begin, used, opened) = (statement.not_before, statement.use_until, statement.open_until);
    if begin >= used || used > opened || (armed!("statement_length") && opened.since(begin) > EPOCH_MAX) {
        return Err(StatementError::Times);
    }
    if armed!("statement_expired") && now >= used {
        return Err(StatementError::Expired { use_until: used.0, now: now.0 });
    }
    if armed!("statement_future") && begin > now.after(limits::CLOCK_SKEW_MAX) {
        return Err(StatementError::Future { not_before: begin.0, now: now.0 });
    }
    if armed!("statement_sealing_key") && !is_sealing_key(&statement.sealing_key) {
        return Err(StatementError::SealingKey);
    }
    let provider = statement.provider();
    let predecessors = predecessors(&statement)?;
    let pinned = policy.pinned.contains(&provider);
    let pinned_before = predecessors.iter().find(|(id, _)| policy.pinned.contains(id)).filter(|_| !pinned);
    let trust = if pinned || pinned_before.is_some() { Trust::Pinned } else { Trust::Unpinned };
    let mut claims = vec![
        Claim {
            name: "key_possession",
            value: "P-256 signature verifies".to_owned(),
            source: ClaimSource::Verified,
            freshness: Freshness::Epoch,
        },
        Claim {
            name: "release",
            value: statement.release.clone(),
            source: ClaimSource::Provider,
            freshness: Freshness::Epoch,
        },
    ];
    if !statement.hardening.0.is_empty() {
        claims.push(Claim {
            name: "hardening",
            value: statement.hardening.0.join(", "),
            source: ClaimSource::Provider,
            freshness: Freshness::Epoch,
        });
    }
    if !statement.key_home.is_empty() {
        claims.push(Claim {
            name: "key_home",
            value: statement.key_home.clone(),
            source: ClaimSource::Provider,
            freshness: Freshness::Epoch,
        });
    }
    if let Some(program) = &statement.program {
        let said =
            |name, value: String| Claim { name, value, source: ClaimSource::Provider, freshness: Freshness::Epoch };
        claims.push(said("executable", program.executable.to_string()));
        claims.push(said("libraries", program.libraries.to_string()));
        claims.push(said("system", program.system.clone()));
    }
    for (predecessor, _) in &predecessors {
        claims.push(Claim {
            name: "took_over",
            value: format!("signed by the key of {predecessor}"),
            source: ClaimSource::Verified,
            freshness: Freshness::Unstated,
        });
    }
    if trust == Trust::Pinned {
        let value = pinned_before.map_or_else(
            || "identity named in the client's configuration".to_owned(),
            |(id, _)| format!("it took over from {id}, which the client's configuration names"),
        );
        let (source, freshness) = (ClaimSource::Pinned, Freshness::Unstated);
        claims.push(Claim { name: "identity", value, source, freshness });
    }
    let evidence::Findings { tier, proven, measured, until } =
        evidence::examine(&statement, &policy.hardware, now, &mut claims);
    let holds_until = until.map_or(used, |until| until.min(used));
    Ok(Verdict {
        provider,
        epoch: statement.epoch(),
        tier,
        proven,
        trust,
        predecessors,
        measured,
        presence: None,
        holds_until,
        claims,
        statement,
        signed,
    })
}

/// The identities that a statement's own took over from, the last first: each signed that the next one has its place.
fn predecessors(statement: &Statement) -> Result<Vec<(ProviderId, Vec<u8>)>, StatementError> {
    let mut heir = statement.identity;
    let mut found = Vec::new();
    for signed in statement.successions.0.iter().rev() {
        let succession = Succession::open_self_signed(signed).map_err(|_| StatementError::Succession)?;
        if armed!("statement_successions") && (succession.new != heir || succession.old == succession.new) {
            return Err(StatementError::Succession);
        }
        heir = succession.old;
        found.push((ProviderId::of_public_key(&heir), signed.clone()));
    }
    Ok(found)
}

/// Whether a client can encapsulate to it: length and modulus check of FIPS 203 section 7.2. Without it, one provider with
/// a malformed key would make every request fail that is sealed to it and to others.
fn is_sealing_key(key: &[u8]) -> bool {
    key.len() == SEALING_KEY_BYTES
        && key[..COEFFICIENT_BYTES].chunks_exact(3).all(|three| {
            let [a, b, c] = [three[0], three[1], three[2]].map(u16::from);
            (a | (b & 0x0f) << 8) < MODULUS && (b >> 4 | c << 4) < MODULUS
        })
}

/// Verifies that whoever introduces a statement on this connection also has its epoch's keys: anybody can have the statement,
/// and who has a copy of the identity key alone must not pass for the process that made it.
///
/// # Errors
/// [`StatementError`] says what does not hold.
pub fn verify_epoch_proof(
    proof: &[u8],
    statement: &Statement,
    nonce: &[u8; 32],
    connection: &ConnectionId,
) -> Result<(), StatementError> {
    let proof = ChallengeProof::open(proof, &PublicKey::Ed25519(statement.receipt_key))?;
    let expected = challenge_digest(&statement.network, nonce, connection, &statement.epoch());
    if armed!("epoch_proof") && proof.digest != expected { Err(StatementError::Challenge) } else { Ok(()) }
}

/// Verifies that the holder of a statement's identity answered one of these challenges on this connection in this epoch, and
/// says which. It takes one signature, so it comes before the statement's evidence.
///
/// # Errors
/// [`StatementError`] says what does not hold.
pub fn verify_challenge(
    proof: &[u8],
    statement: &Statement,
    nonces: &[[u8; 32]],
    connection: &ConnectionId,
) -> Result<[u8; 32], StatementError> {
    let key = PublicKey::P256(statement.identity);
    let proof = ChallengeProof::open(proof, &key)?;
    if !armed!("challenge_digest") {
        return nonces.first().copied().ok_or(StatementError::Challenge);
    }
    let answers =
        |nonce: &&[u8; 32]| proof.digest == challenge_digest(&statement.network, nonce, connection, &statement.epoch());
    nonces.iter().find(answers).copied().ok_or(StatementError::Challenge)
}
