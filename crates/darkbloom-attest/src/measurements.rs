//! What may run on a provider's machine: accepted releases, as hardware measures them.
//!
//! Whoever verifies decides for himself what he accepts: a client in a file of its own, an operator in the policy. A provider
//! passes with any release that is active, and reaches the tier of what measured it.
//!
//! ```toml
//! [[accepted]]
//! release = "image-7"
//! tpm = { firmware = ["77ab…"], secure_boot = true, booted = ["3d45…"], registers = { "12" = "0000…", "13" = "0000…" } }
//!
//! [[accepted]]
//! release = "guest-3"
//! snp = { product = "genoa", measurement = "09ef…", minimum = { bootloader = 10, tee = 0, snp = 23, microcode = 84 } }
//!
//! [[accepted]]
//! release = "guest-3-on-intel"
//! tdx = { measurement = "91eb…", registers = { "0" = "44c0…", "1" = "0084…", "2" = "d833…" }, evaluation = 17 }
//! ```

use std::collections::BTreeMap;

use darkbloom_types::{Digest, Tier, armed};
use serde::Deserialize;

use crate::boot_log::BootLog;
use crate::snp::{Product, SnpBits, SnpFindings, SnpLevels};
use crate::tdx::{TdxFindings, TdxStatus};

/// Largest file of accepted releases, in bytes: thousands of values.
pub const MEASUREMENTS_BYTES_MAX: usize = 48 << 10;
/// Registers that nobody can set back before the next start: the others count for nothing.
const PCRS: u32 = 16;
/// The register of the firmware itself: another firmware could extend the others with whatever it likes.
const FIRMWARE: u32 = 0;
/// The registers of what the firmware started.
const STARTED: [u32; 2] = [2, 4];
/// The registers of what a unified kernel image was given beside what it holds: another command line, credentials, extensions.
/// Zeros say that it was given nothing.
const GIVEN: [u32; 2] = [12, 13];
/// Registers from here on are for what was started: in one of zeros nothing was measured, which may be as it should.
const SYSTEM: u32 = 8;
/// Registers of an Intel machine that say what was started: its settings, its kernel, and what that one was given. The fourth
/// is for what the machine itself adds.
const RTMRS: [usize; 3] = [0, 1, 2];

/// Why a text says nothing about releases.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MeasurementsError(pub(crate) String);

/// What hardware measured of a machine. Its evidence holds; whether it is any good is another question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measured {
    /// A TPM quoted these registers, of which the log explains some.
    Tpm {
        /// SHA-256 of the TPM's certificate.
        endorsement: Digest,
        /// Registers of the SHA-256 bank.
        registers: Vec<(u32, [u8; 32])>,
        /// What firmware and loader wrote about them.
        log: BootLog,
    },
    /// An AMD processor measured a guest.
    Snp(SnpFindings),
    /// An Intel processor measured a machine.
    Tdx(TdxFindings),
}

impl Measured {
    /// The tier that it reaches where it is accepted.
    #[must_use]
    pub fn tier(&self) -> Tier {
        match self {
            Self::Tpm { .. } => Tier::Measured,
            Self::Snp(_) | Self::Tdx(_) => Tier::Confidential,
        }
    }

    /// What would accept exactly this, as it stands in a table `[[accepted]]`: for whoever has looked at how it was made.
    #[must_use]
    pub fn as_accepted(&self) -> String {
        match self {
            Self::Tpm { registers, log, .. } => {
                let value = |pcr: u32| registers.iter().find(|(index, _)| *index == pcr).map(|(_, value)| value);
                let firmware = value(FIRMWARE).map_or_else(String::new, hex::encode);
                let mut demands = vec![format!("firmware = [\"{firmware}\"]")];
                if log.secure_boot == Some(true) {
                    demands.push("secure_boot = true".to_owned());
                }
                if let Some(booted) = log.booted.as_ref().filter(|booted| !booted.is_empty()) {
                    let booted: Vec<_> = booted.iter().map(|program| format!("\"{}\"", hex::encode(program))).collect();
                    demands.push(format!("booted = [{}]", booted.join(", ")));
                }
                // What nothing was measured into says nothing, but for what an image was given.
                let says = |(pcr, value): &&(u32, [u8; 32])| *value != [0; 32] || GIVEN.contains(pcr);
                let extended = registers.iter().filter(|(pcr, _)| *pcr != FIRMWARE).filter(says);
                let register = |(pcr, value): &(u32, [u8; 32])| format!("\"{pcr}\" = \"{}\"", hex::encode(value));
                let extended: Vec<_> = extended.map(register).collect();
                demands.push(format!("registers = {{ {} }}", extended.join(", ")));
                format!("tpm = {{ {} }}", demands.join(", "))
            }
            Self::Snp(SnpFindings { product, measurement, levels, platform, .. }) => {
                let SnpLevels { bootloader, tee, snp, microcode } = levels;
                format!(
                    "snp = {{ product = \"{}\", measurement = \"{}\", minimum = {{ bootloader = {bootloader}, tee = {tee}, snp = {snp}, microcode = {microcode} }}{} }}",
                    product.name(),
                    hex::encode(measurement),
                    if platform.has(SnpBits::ALIAS_CHECK) { "" } else { ", alias_check = false" }
                )
            }
            Self::Tdx(TdxFindings { measurement, registers, config, evaluation, .. }) => {
                // Of the fourth register nothing need be known, and what nothing was measured into says nothing.
                let says = |(number, value): &(usize, &[u8; 48])| RTMRS.contains(number) || **value != [0; 48];
                let register =
                    |(number, value): (usize, &[u8; 48])| format!("\"{number}\" = \"{}\"", hex::encode(value));
                let registers: Vec<_> = registers.iter().enumerate().filter(says).map(register).collect();
                let config =
                    if *config == [0; 48] { String::new() } else { format!(", config = \"{}\"", hex::encode(config)) };
                format!(
                    "tdx = {{ measurement = \"{}\", registers = {{ {} }}, evaluation = {evaluation}{config} }}",
                    hex::encode(measurement),
                    registers.join(", ")
                )
            }
        }
    }
}

/// Releases that a verifier accepts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measurements(Vec<Release>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Release {
    name: String,
    tpm: Option<Tpm>,
    snp: Option<Snp>,
    tdx: Option<Tdx>,
}

/// What a TPM must say, all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tpm {
    /// TPMs by their certificates, any of them; any at all where there are none.
    endorsements: Vec<Digest>,
    /// Values of register 0, any of them.
    firmware: Vec<[u8; 32]>,
    secure_boot: bool,
    booted: Vec<[u8; 32]>,
    registers: BTreeMap<u32, [u8; 32]>,
}

impl Tpm {
    fn accepts(&self, endorsement: &Digest, registers: &[(u32, [u8; 32])], log: &BootLog) -> bool {
        let has = |pcr: &u32, value: &[u8; 32]| registers.iter().any(|(index, is)| index == pcr && is == value);
        let booted = || match &log.booted {
            Some(booted) => !booted.is_empty() && booted.iter().all(|program| self.booted.contains(program)),
            None => false,
        };
        let firmware = registers.iter().any(|(pcr, value)| *pcr == FIRMWARE && self.firmware.contains(value));
        firmware
            && (self.endorsements.is_empty() || self.endorsements.contains(endorsement))
            && (!self.secure_boot || log.secure_boot == Some(true))
            && (self.booted.is_empty() || booted())
            && self.registers.iter().all(|(pcr, value)| has(pcr, value))
    }
}

/// What an AMD processor must say, all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Snp {
    product: Product,
    measurement: [u8; 48],
    host_data: Option<[u8; 32]>,
    minimum: SnpLevels,
    alias_check: bool,
}

impl Snp {
    fn accepts(&self, found: &SnpFindings) -> bool {
        found.product == self.product
            && (found.measurement == self.measurement || !armed!("snp_measurement"))
            && self.host_data.is_none_or(|data| data == found.host_data)
            && (found.levels.reaches(&self.minimum) || !armed!("snp_levels"))
            && (!self.alias_check || found.platform.has(SnpBits::ALIAS_CHECK) || !armed!("snp_aliases"))
    }
}

/// What an Intel processor must say, all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tdx {
    measurement: [u8; 48],
    registers: BTreeMap<usize, [u8; 48]>,
    config: Option<[u8; 48]>,
    evaluation: u32,
}

impl Tdx {
    fn accepts(&self, found: &TdxFindings) -> bool {
        let mut registers = self.registers.iter();
        let same = found.measurement == self.measurement
            && registers.all(|(number, value)| found.registers.get(*number) == Some(value))
            && self.config.is_none_or(|config| config == found.config);
        // The same firmware is judged anew with each evaluation: an older one may not know yet what is wrong with it.
        let sound = found.status == TdxStatus::UpToDate && found.evaluation >= self.evaluation;
        if armed!("tdx_measurement") && !same {
            return false;
        }
        sound || !armed!("tdx_level")
    }
}

impl Measurements {
    /// Reads accepted releases in TOML.
    ///
    /// # Errors
    /// [`MeasurementsError`] says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, MeasurementsError> {
        if text.len() > MEASUREMENTS_BYTES_MAX {
            return Err(MeasurementsError(format!("accepted releases have at most {MEASUREMENTS_BYTES_MAX} bytes")));
        }
        let written: Written = toml::from_str(text).map_err(|error| MeasurementsError(error.to_string()))?;
        let measurements = Self::checked(written.accepted)?;
        if measurements.is_empty() {
            return Err(MeasurementsError("no release is accepted, so nothing would be".to_owned()));
        }
        Ok(measurements)
    }

    pub(crate) fn checked(accepted: Vec<Accepted>) -> Result<Self, MeasurementsError> {
        let releases = accepted.into_iter().map(|accepted| (accepted.active, accepted.checked()));
        // Those that are not active are checked too: they may be tomorrow.
        let read = |(active, release): (bool, Result<_, _>)| release.map(|release| active.then_some(release));
        Ok(Self(releases.map(read).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect()))
    }

    /// Whether nothing is accepted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The highest tier that something of what was measured reaches, and the release that it is.
    #[must_use]
    pub fn judge(&self, measured: &[Measured]) -> Option<(Tier, &str)> {
        let accepted = |measured: &Measured| {
            let release = self.0.iter().find(|release| match measured {
                Measured::Tpm { endorsement, registers, log } => {
                    release.tpm.as_ref().is_some_and(|tpm| tpm.accepts(endorsement, registers, log))
                }
                Measured::Snp(found) => release.snp.as_ref().is_some_and(|snp| snp.accepts(found)),
                Measured::Tdx(found) => release.tdx.as_ref().is_some_and(|tdx| tdx.accepts(found)),
            })?;
            Some((measured.tier(), release.name.as_str()))
        };
        measured.iter().filter_map(accepted).max_by_key(|(tier, _)| *tier)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    accepted: Vec<Accepted>,
}

/// A release as people write it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Accepted {
    release: String,
    #[serde(default = "yes")]
    active: bool,
    tpm: Option<WrittenTpm>,
    snp: Option<WrittenSnp>,
    tdx: Option<WrittenTdx>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTpm {
    #[serde(default)]
    endorsements: Vec<String>,
    firmware: Vec<String>,
    #[serde(default)]
    secure_boot: bool,
    #[serde(default)]
    booted: Vec<String>,
    #[serde(default)]
    registers: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSnp {
    product: Product,
    measurement: String,
    host_data: Option<String>,
    minimum: SnpLevels,
    #[serde(default = "yes")]
    alias_check: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenTdx {
    measurement: String,
    registers: BTreeMap<String, String>,
    config: Option<String>,
    evaluation: u32,
}

fn yes() -> bool {
    true
}

fn digits<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).map_err(|_| format!("a value has {} hex digits, not `{text}`", 2 * N))?;
    Ok(bytes)
}

/// A register's value that something was measured into.
fn register(text: &str) -> Result<[u8; 32], String> {
    let value: [u8; 32] = digits(text)?;
    if value == [0x00; 32] || value == [0xff; 32] {
        return Err("a register of zeros or ones is one that nothing was measured into".to_owned());
    }
    Ok(value)
}

impl Accepted {
    fn checked(self) -> Result<Release, MeasurementsError> {
        let wrong = |what: String| MeasurementsError(format!("release `{}`: {what}", self.release));
        if self.release.is_empty() {
            return Err(wrong("it has no name".to_owned()));
        }
        if self.tpm.is_none() && self.snp.is_none() && self.tdx.is_none() {
            return Err(wrong("none of `tpm`, `snp` and `tdx` says how it is known".to_owned()));
        }
        let tpm = self.tpm.map(WrittenTpm::checked).transpose().map_err(wrong)?;
        let snp = self.snp.map(WrittenSnp::checked).transpose().map_err(wrong)?;
        let tdx = self.tdx.map(WrittenTdx::checked).transpose().map_err(wrong)?;
        Ok(Release { name: self.release, tpm, snp, tdx })
    }
}

impl WrittenTpm {
    fn checked(self) -> Result<Tpm, String> {
        let mut registers = BTreeMap::new();
        for (pcr, value) in &self.registers {
            let number = pcr.parse().ok().filter(|number: &u32| *number < PCRS && number.to_string() == *pcr);
            let pcr = number.ok_or("registers are 0 to 15: others can be set back")?;
            registers.insert(pcr, if pcr < SYSTEM { register(value)? } else { digits(value)? });
        }
        let firmware = self.firmware.iter().map(|value| register(value)).collect::<Result<Vec<_>, _>>()?;
        if firmware.is_empty() {
            return Err("`firmware` is empty: another firmware extends registers with whatever it likes".to_owned());
        }
        // What is extended later can be extended with anything by whatever was started, and Secure Boot says whose signatures
        // the firmware asks for, and nothing about what has one.
        if self.booted.is_empty() && !STARTED.iter().all(|pcr| registers.contains_key(pcr)) {
            return Err("neither `booted` nor both registers 2 and 4 say what was started".to_owned());
        }
        if !self.booted.is_empty() && !GIVEN.iter().all(|pcr| registers.contains_key(pcr)) {
            return Err(
                "beside `booted`, registers 12 and 13 say what an image was given that it does not hold".to_owned()
            );
        }
        let booted = self.booted.iter().map(|program| digits(program)).collect::<Result<_, _>>()?;
        let endorsements = self.endorsements.iter().map(|tpm| digits(tpm).map(Digest)).collect::<Result<_, _>>()?;
        Ok(Tpm { endorsements, firmware, secure_boot: self.secure_boot, booted, registers })
    }
}

impl WrittenSnp {
    fn checked(self) -> Result<Snp, String> {
        let host_data = self.host_data.as_deref().map(digits).transpose()?;
        let WrittenSnp { product, measurement, minimum, alias_check, .. } = self;
        Ok(Snp { product, measurement: digits(&measurement)?, host_data, minimum, alias_check })
    }
}

impl WrittenTdx {
    fn checked(self) -> Result<Tdx, String> {
        let mut registers = BTreeMap::new();
        for (number, value) in &self.registers {
            let read = ["0", "1", "2", "3"].iter().position(|known| known == number);
            registers.insert(read.ok_or("registers are 0 to 3")?, digits(value)?);
        }
        // The measurement is of the first pages alone: what those started stands in the registers.
        if !RTMRS.iter().all(|number| registers.contains_key(number)) {
            return Err("registers 0, 1 and 2 say what was started: all of them are needed".to_owned());
        }
        let config = self.config.as_deref().map(digits).transpose()?;
        Ok(Tdx { measurement: digits(&self.measurement)?, registers, config, evaluation: self.evaluation })
    }
}

#[cfg(test)]
mod tests;
