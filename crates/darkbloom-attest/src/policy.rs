//! An operator's policy: what must be so before a provider gets work. Each gate is off, in shadow (shown, and nothing
//! more), or enforced.
//!
//! ```toml
//! [tier]
//! gate = "enforce"
//! minimum = "hardware"
//!
//! [version]
//! gate = "shadow"
//! minimum = "0.2.0"
//!
//! [claims]
//! gate = "enforce"
//! required = [
//!     { name = "tpm_identity_key" },
//!     { name = "hardening", value = "system_calls", providers_word = true },
//! ]
//!
//! [measurements]
//! gate = "shadow"
//! accepted = [
//!     { release = "image-7", tpm = { firmware = ["77ab…"], secure_boot = true, booted = ["3d45…"] } },
//!     { release = "guest-3", active = false, snp = { … } },
//! ]
//! ```

use darkbloom_types::{Gate, Tier, armed};
use serde::Deserialize;

use crate::measurements::{Accepted, Measured, Measurements, MeasurementsError};
use crate::statement::{ClaimSource, Verdict};

/// Largest policy, in bytes: thousands of values.
pub const POLICY_BYTES_MAX: usize = 48 << 10;
/// Claims of what was measured, which mean something only together.
const MEASURED: [&str; 7] =
    ["measured_release", "booted", "secure_boot", "tpm_boot", "snp_measurement", "tdx_measurement", "tdx_registers"];
/// A claim that cannot be so on a machine of this kind.
const NOT_APPLICABLE: &str = "not_applicable";

/// Why a text is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PolicyError(String);

/// What becomes of a gate that is shut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing: it is not looked at.
    #[default]
    Off,
    /// It is shown.
    Shadow,
    /// The provider gets no work.
    Enforce,
}

/// What an operator demands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    tier: (Mode, Tier0),
    version: (Mode, Version),
    claims: (Mode, Vec<Required>),
    measurements: (Mode, Measurements),
    /// Whether a provider of which no hardware measured anything passes.
    unmeasured_pass: bool,
}

/// The least tier; nothing by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tier0(Tier);

impl Default for Tier0 {
    fn default() -> Self {
        Self(Tier::None)
    }
}

/// A release's number: major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Version([u32; 3]);

impl Version {
    fn read(text: &str) -> Option<Self> {
        let mut numbers = [0; 3];
        let mut parts = text.split('.');
        for number in &mut numbers {
            let part = parts.next()?;
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            *number = part.parse().ok().filter(|_| digits)?;
        }
        parts.next().is_none().then_some(Self(numbers))
    }

    /// Of a program that says that it is `darkbloom/1.2.3`, with or without what follows the numbers.
    fn of_release(release: &str) -> Option<Self> {
        let (_, version) = release.split_once('/')?;
        Self::read(version.split(['-', '+', ' ']).next()?)
    }
}

/// A claim that must be there.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Required {
    /// Its name, as verdicts show it.
    name: String,
    /// A word that its value must have; any value where there is none.
    value: Option<String>,
    /// Whether the provider's own word is enough. It raises nothing; it can only be missing.
    #[serde(default)]
    providers_word: bool,
    /// Whether it is enough that the claim says that it cannot be so on this kind of machine.
    #[serde(default)]
    or_not_applicable: bool,
}

impl Required {
    fn is_met(&self, verdict: &Verdict) -> bool {
        verdict.claims.iter().filter(|claim| claim.name == self.name).any(|claim| {
            let words = || claim.value.split([',', ' ']).map(str::trim);
            let says = match &self.value {
                None => claim.value != NOT_APPLICABLE,
                Some(wanted) => claim.value == *wanted || words().any(|word| word == wanted),
            };
            let by_whom = self.providers_word || claim.source != ClaimSource::Provider;
            by_whom && (says || (self.or_not_applicable && claim.value == NOT_APPLICABLE))
        })
    }
}

/// What a policy comes to for one provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    /// What is proven, with what the operator accepts of what was measured.
    pub tier: Tier,
    /// The gates that keep it from work.
    pub shut: Vec<Gate>,
    /// Those that would if they were enforced.
    pub shadow: Vec<Gate>,
}

impl Policy {
    /// Reads a policy in TOML.
    ///
    /// # Errors
    /// [`PolicyError`] says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(PolicyError(format!("a policy has at most {POLICY_BYTES_MAX} bytes")));
        }
        let written: Written = toml::from_str(text).map_err(|error| PolicyError(error.to_string()))?;
        written.checked()
    }

    /// What it comes to for a provider.
    #[must_use]
    pub fn assess(&self, verdict: &Verdict) -> Assessment {
        let accepted = |measured: &[Measured]| self.measurements.1.judge(measured).map(|(tier, _)| tier);
        let reached = |proven: Tier, accepted: Option<Tier>| accepted.map_or(proven, |accepted| accepted.max(proven));
        let mut measured_as = accepted(&verdict.measured);
        let mut tier = reached(verdict.proven, measured_as);
        // What it said about the epoch's keys counts as far as it says the same when it is asked.
        if let Some(presence) = verdict.presence.as_ref().filter(|_| armed!("presence")) {
            let now = accepted(&presence.measured);
            tier = tier.min(reached(presence.proven, now));
            measured_as = measured_as.min(now);
        }
        let measured = measured_as.is_some() || (verdict.measured.is_empty() && self.unmeasured_pass);
        let newest = || Version::of_release(&verdict.statement.release);
        let gates = [
            (Gate::Tier, self.tier.0, tier >= self.tier.1.0),
            (Gate::Version, self.version.0, newest().is_some_and(|version| version >= self.version.1)),
            (Gate::Claims, self.claims.0, self.claims.1.iter().all(|required| required.is_met(verdict))),
            (Gate::Measurements, self.measurements.0, measured),
        ];
        let shut =
            |wanted| gates.iter().filter(move |(_, mode, open)| *mode == wanted && !open).map(|(gate, ..)| *gate);
        Assessment { tier, shut: shut(Mode::Enforce).collect(), shadow: shut(Mode::Shadow).collect() }
    }
}

/// A policy as people write it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Written {
    tier: Least,
    version: Least,
    claims: Claims,
    measurements: Gated,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Least {
    gate: Mode,
    minimum: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Claims {
    gate: Mode,
    required: Vec<Required>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Gated {
    gate: Mode,
    or_not_applicable: bool,
    accepted: Vec<Accepted>,
}

impl Written {
    fn checked(self) -> Result<Policy, PolicyError> {
        // A gate that is on and demands nothing is a mistake: it would pass everybody, or nobody.
        let missing = |gate: &str, what: &str| PolicyError(format!("[{gate}]: a gate that is not off needs `{what}`"));
        let tier = match (self.tier.gate, self.tier.minimum) {
            (Mode::Off, None) => Tier0::default(),
            (_, Some(text)) => Tier0(text.parse().map_err(|error| PolicyError(format!("[tier]: {error}")))?),
            (_, None) => return Err(missing("tier", "minimum")),
        };
        let version = match (self.version.gate, self.version.minimum) {
            (Mode::Off, None) => Version::default(),
            (_, Some(text)) => Version::read(&text)
                .ok_or_else(|| PolicyError(format!("[version]: `{text}` is no version such as 1.2.3")))?,
            (_, None) => return Err(missing("version", "minimum")),
        };
        if self.claims.required.iter().any(|required| required.name.is_empty() || required.value.as_deref() == Some(""))
        {
            return Err(PolicyError("[claims]: a name or value is not empty".to_owned()));
        }
        for Required { name, .. } in &self.claims.required {
            // Alone they say little: root extends registers with what he likes, and firmware and levels count as well.
            if MEASURED.contains(&name.as_str()) {
                return Err(PolicyError(format!("[claims]: `{name}` is for [measurements] to demand")));
            }
            if name.starts_with("apple_") {
                return Err(PolicyError(format!(
                    "[claims]: `{name}` is in shadow: whoever has one Mac can show it for others"
                )));
            }
        }
        if self.claims.gate != Mode::Off && self.claims.required.is_empty() {
            return Err(missing("claims", "required"));
        }
        let Gated { gate, or_not_applicable: unmeasured_pass, accepted } = self.measurements;
        let accepted = Measurements::checked(accepted)
            .map_err(|MeasurementsError(error)| PolicyError(format!("[measurements]: {error}")))?;
        if gate != Mode::Off && accepted.is_empty() {
            return Err(missing("measurements", "accepted"));
        }
        Ok(Policy {
            tier: (self.tier.gate, tier),
            version: (self.version.gate, version),
            claims: (self.claims.gate, self.claims.required),
            measurements: (gate, accepted),
            unmeasured_pass,
        })
    }
}

#[cfg(test)]
mod tests;
