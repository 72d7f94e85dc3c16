//! What a tier does not defend, word for word as people see it.

use darkbloom_types::Tier;

/// Whether an attacker of one kind is defended against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Defence {
    /// Not at all.
    NotDefended,
    /// Only for identities that the client pinned itself.
    PinnedIdentitiesOnly,
    /// Where the vendor chain can be checked offline or an independent activator is pinned.
    OfflineChainOrPinnedActivator,
    /// As far as the platform enforces it.
    AsFarAsThePlatformEnforces,
    /// In part; the platform's papers say which.
    Partly,
    /// Yes.
    Defended,
}

impl Defence {
    /// The value in verdicts.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NotDefended => "not_defended",
            Self::PinnedIdentitiesOnly => "pinned_identities_only",
            Self::OfflineChainOrPinnedActivator => "offline_chain_or_pinned_activator",
            Self::AsFarAsThePlatformEnforces => "as_far_as_the_platform_enforces",
            Self::Partly => "partly",
            Self::Defended => "defended",
        }
    }
}

/// A tier's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Undefended {
    /// An owner with administrator's rights on the provider's machine.
    pub owner_root: Defence,
    /// An owner with probes, a soldering iron or another disk.
    pub owner_physical_access: Defence,
    /// A coordinator that invents providers.
    pub dishonest_coordinator: Defence,
}

/// The limits of a tier: the table of tiers.
#[must_use]
pub fn undefended(tier: Tier) -> Undefended {
    let nothing = Defence::NotDefended;
    match tier {
        Tier::None => {
            Undefended { owner_root: nothing, owner_physical_access: nothing, dishonest_coordinator: nothing }
        }
        Tier::SelfSigned => Undefended {
            owner_root: nothing,
            owner_physical_access: nothing,
            dishonest_coordinator: Defence::PinnedIdentitiesOnly,
        },
        Tier::Hardware => Undefended {
            owner_root: nothing,
            owner_physical_access: nothing,
            dishonest_coordinator: Defence::OfflineChainOrPinnedActivator,
        },
        Tier::Measured => Undefended {
            owner_root: Defence::AsFarAsThePlatformEnforces,
            owner_physical_access: nothing,
            dishonest_coordinator: Defence::Defended,
        },
        Tier::Confidential => Undefended {
            owner_root: Defence::Defended,
            owner_physical_access: Defence::Partly,
            dishonest_coordinator: Defence::Defended,
        },
    }
}
