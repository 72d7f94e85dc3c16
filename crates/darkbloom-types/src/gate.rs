//! What an operator may demand of providers before they get work.

/// One demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Gate {
    /// How much is proven.
    Tier,
    /// How new the program says that it is.
    Version,
    /// What is said about it, and by whom.
    Claims,
    /// What hardware measured of it.
    Measurements,
}

impl Gate {
    /// Every gate.
    pub const ALL: [Self; 4] = [Self::Tier, Self::Version, Self::Claims, Self::Measurements];

    /// The name in frames and on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tier => "policy_tier",
            Self::Version => "policy_version",
            Self::Claims => "policy_claims",
            Self::Measurements => "policy_measurements",
        }
    }

    /// What it means when it is shut.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Tier => "less is proven about the provider than the operator's policy demands",
            Self::Version => "the provider's program is older than the operator's policy allows",
            Self::Claims => "something that the operator's policy demands is not said about the provider",
            Self::Measurements => {
                "what hardware measured of the provider's machine is not among what the operator's policy accepts"
            }
        }
    }

    /// What to do.
    #[must_use]
    pub fn next_step(self) -> &'static str {
        match self {
            Self::Tier => {
                "move the key into the machine's TPM with `darkbloom key rotate --to tpm`, or ask the operator"
            }
            Self::Version => "update the program",
            Self::Claims => "compare `darkbloom verify provider` with what the operator demands",
            Self::Measurements => {
                "boot what the operator accepts, or ask the operator to accept what this machine boots"
            }
        }
    }
}
