//! Whether a provider may get a request, and if not, why: one closed list.

use darkbloom_types::{CatalogueDigest, Distrust, Gate, MonoMillis, RefusalCode, Standing, Tier, UnixMillis, armed};

use crate::health::Blocked;
use crate::provider::{Provider, times};

/// Why a provider gets no work. The name, sentence and next step reach the provider's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ineligible {
    /// The operator wants its identity no more.
    Revoked,
    /// A check of it failed, and it has not recovered.
    Untrusted(Distrust),
    /// The operator's policy demands what is not so.
    Policy(Gate),
    /// It said that it takes no new work.
    Draining,
    /// It has not been heard for too long.
    Silent,
    /// It has not answered the last challenge in time.
    ChallengeMissed,
    /// Its epoch is over and no next statement came.
    EpochOver,
    /// Too many failures in a row; it is tried again after a pause.
    Failing,
    /// Too many failures in a row with this model; it is tried again after a pause.
    ModelFailing,
    /// It has failed, and one request tries whether it has recovered.
    Probing,
    /// It does not serve this model, or does not have it in memory now.
    ModelNotLoaded,
    /// Less is proven about it than the request demands.
    TierTooLow,
}

impl Ineligible {
    /// Every reason.
    pub const ALL: [Self; 18] = [
        Self::Untrusted(Distrust::TooManyEpochs),
        Self::Policy(Gate::Tier),
        Self::Policy(Gate::Version),
        Self::Policy(Gate::Claims),
        Self::Policy(Gate::Measurements),
        Self::Revoked,
        Self::Untrusted(Distrust::ChallengeFailed),
        Self::Untrusted(Distrust::StatementFailed),
        Self::Untrusted(Distrust::KeyShared),
        Self::Draining,
        Self::Silent,
        Self::ChallengeMissed,
        Self::EpochOver,
        Self::Failing,
        Self::ModelFailing,
        Self::Probing,
        Self::ModelNotLoaded,
        Self::TierTooLow,
    ];

    /// The name in frames and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Revoked => RefusalCode::IdentityRevoked.name(),
            Self::Untrusted(distrust) => distrust.name(),
            Self::Policy(gate) => gate.name(),
            Self::Draining => "draining",
            Self::Silent => "silent",
            Self::ChallengeMissed => "challenge_missed",
            Self::EpochOver => "epoch_over",
            Self::Failing => "failing",
            Self::ModelFailing => "model_failing",
            Self::Probing => "probing",
            Self::ModelNotLoaded => "model_not_loaded",
            Self::TierTooLow => "tier_too_low",
        }
    }

    /// What it means.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Revoked => RefusalCode::IdentityRevoked.sentence(),
            Self::Untrusted(distrust) => distrust.sentence(),
            Self::Policy(gate) => gate.sentence(),
            Self::Draining => "the provider is stopping and takes no new work",
            Self::Silent => "the provider has not been heard for too long",
            Self::ChallengeMissed => "the provider did not answer the last challenge in time",
            Self::EpochOver => "the provider's sealing key has expired and no next one came",
            Self::Failing => "the provider failed several requests in a row",
            Self::ModelFailing => "the provider failed several requests in a row with the only models that it serves",
            Self::Probing => "the provider failed, and one request tries whether it has recovered",
            Self::ModelNotLoaded => "the provider serves no model of this network's catalogue",
            Self::TierTooLow => "less is proven about the provider than the network demands",
        }
    }

    /// What to do.
    #[must_use]
    pub fn next_step(self) -> &'static str {
        match self {
            Self::Revoked => RefusalCode::IdentityRevoked.next_step(),
            Self::Untrusted(distrust) => distrust.next_step(),
            Self::Policy(gate) => gate.next_step(),
            Self::Draining => "start it again when you want it to work",
            Self::Silent => "check the machine's load and its network",
            Self::ChallengeMissed => "check that the identity key is usable; it recovers with the next answer",
            Self::EpochOver => "check the machine's clock; it recovers with the next statement",
            Self::Failing => "look at the provider's log; it is tried again within ten minutes",
            Self::ModelFailing => {
                "look at the provider's log and check the model's file; it is tried again within ten minutes"
            }
            Self::Probing => "nothing to do while the request runs; if it fails too, look at the provider's log",
            Self::ModelNotLoaded => "start it with a model file that the operator's catalogue names",
            Self::TierTooLow => {
                "prove more about this machine, or ask the operator to lower the coordinator's `tier_min`"
            }
        }
    }
}

/// What a provider is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work<'m> {
    /// Any model that it serves, in memory or not.
    Any,
    /// This model, which it has in memory.
    Loaded(&'m CatalogueDigest),
    /// This model, which it may have to load first.
    Served(&'m CatalogueDigest),
}

/// Whether the provider may get work of this kind at this tier: what routing, candidate lists, the queue, a provider's own
/// verdict and its operator's view all ask. Room is not asked here: it comes and goes.
pub(crate) fn eligible(
    provider: &Provider,
    work: Work<'_>,
    tier_min: Tier,
    now: MonoMillis,
    wall: UnixMillis,
) -> Result<(), Ineligible> {
    match provider.record.standing {
        Standing::Clean | Standing::Recovered(_) => {}
        Standing::Distrusted(failed) => return Err(Ineligible::Untrusted(failed.reason)),
        Standing::Revoked => return Err(Ineligible::Revoked),
    }
    if let Some(gate) = provider.registration.stated.shut.first()
        && armed!("policy_gates")
    {
        return Err(Ineligible::Policy(*gate));
    }
    if provider.draining {
        return Err(Ineligible::Draining);
    }
    if now.since(provider.heard) >= times::SILENCE {
        return Err(Ineligible::Silent);
    }
    if provider.challenge_missed(now) {
        return Err(Ineligible::ChallengeMissed);
    }
    if wall >= provider.registration.stated.use_until {
        return Err(Ineligible::EpochOver);
    }
    provider.record.health.check(now).map_err(|blocked| match blocked {
        Blocked::Pausing => Ineligible::Failing,
        Blocked::Probing => Ineligible::Probing,
    })?;
    with_model(provider, work, now)?;
    if provider.registration.stated.tier < tier_min {
        return Err(Ineligible::TierTooLow);
    }
    Ok(())
}

fn with_model(provider: &Provider, work: Work<'_>, now: MonoMillis) -> Result<(), Ineligible> {
    let healthy = |model: &CatalogueDigest| {
        provider.record.health_of(model).check(now).map_err(|blocked| match blocked {
            Blocked::Pausing => Ineligible::ModelFailing,
            Blocked::Probing => Ineligible::Probing,
        })
    };
    match work {
        Work::Any => {
            let mut each = provider.registration.models.iter().map(|load| healthy(&load.model));
            let first = each.next().unwrap_or(Err(Ineligible::ModelNotLoaded));
            if first.is_ok() || each.any(|one| one.is_ok()) { Ok(()) } else { first }
        }
        Work::Loaded(model) if provider.rows_max(model).is_some() => healthy(model),
        Work::Served(model) if provider.rows_max(model).is_some() || provider.could_load(model, now) => healthy(model),
        Work::Loaded(_) | Work::Served(_) => Err(Ineligible::ModelNotLoaded),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_words() {
        let names: std::collections::BTreeSet<_> = Ineligible::ALL.iter().map(|reason| reason.name()).collect();
        let steps: std::collections::BTreeSet<_> = Ineligible::ALL.iter().map(|reason| reason.next_step()).collect();
        assert_eq!((names.len(), steps.len()), (Ineligible::ALL.len(), Ineligible::ALL.len()));
    }
}
