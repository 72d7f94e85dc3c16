//! What Intel says about platforms and its quoting enclave (Intel SGX and Intel TDX services of the Provisioning Certification
//! Service, version 4: "Get TDX TCB Info", "Get TD QE Identity").

use serde::Deserialize;
use serde::de::DeserializeOwned;
use x509_cert::der::DateTime;

use super::platform::PARTS;
use super::quote::has_signed;
use super::*;

/// How errors name the two.
const LEVELS: &str = "the levels of platforms";
const ENCLAVES: &str = "the quoting enclave";

/// What Intel says about a level, the better first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum TdxStatus {
    /// Nothing is known against it.
    UpToDate,
    /// Sound if the software in it does what an advisory says.
    #[serde(rename = "SWHardeningNeeded")]
    SoftwareHardeningNeeded,
    /// Sound if the platform is set up as an advisory says.
    ConfigurationNeeded,
    /// Both.
    #[serde(rename = "ConfigurationAndSWHardeningNeeded")]
    ConfigurationAndSoftwareHardeningNeeded,
    /// Older than what is sound.
    OutOfDate,
    /// That, and not set up as an advisory says.
    OutOfDateConfigurationNeeded,
    /// Its keys are known to be broken.
    Revoked,
}

impl TdxStatus {
    /// The name in claims.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::UpToDate => "up to date",
            Self::SoftwareHardeningNeeded => "software hardening needed",
            Self::ConfigurationNeeded => "configuration needed",
            Self::ConfigurationAndSoftwareHardeningNeeded => "configuration and software hardening needed",
            Self::OutOfDate => "out of date",
            Self::OutOfDateConfigurationNeeded => "out of date, configuration needed",
            Self::Revoked => "revoked",
        }
    }
}

/// What is known about some levels.
#[derive(Debug)]
pub(super) struct Levels {
    pub status: TdxStatus,
    pub advisories: Vec<String>,
}

impl Levels {
    /// The worse of two, with what is known against both.
    pub(super) fn worse(mut self, other: Self) -> Self {
        self.status = self.status.max(other.status);
        self.advisories.extend(other.advisories);
        self.advisories.sort();
        self.advisories.dedup();
        self
    }
}

/// Something that Intel signed for a month.
#[derive(Debug)]
struct Signed<T> {
    says: T,
    until: UnixMillis,
}

/// A time as Intel writes it.
fn time(text: &str) -> Option<UnixMillis> {
    let time = text.parse::<DateTime>().ok()?.unix_duration();
    i64::try_from(time.as_millis()).ok().map(UnixMillis)
}

/// Until when a word of Intel's counts, of which nothing is verified.
pub(super) fn end_of(json: &[u8]) -> Option<UnixMillis> {
    serde_json::from_slice::<Issue>(json).ok().and_then(|issue| time(&issue.next_update))
}

/// When it counts.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Issue {
    issue_date: String,
    next_update: String,
}

impl<T: DeserializeOwned> Signed<T> {
    fn read(
        what: &'static str,
        json: &[u8],
        signature: &[u8; 64],
        signer: &Certificate,
        now: UnixMillis,
    ) -> Result<Self, TdxError> {
        let point = signer.p256_point().ok_or(TdxError::Signature(what))?;
        if armed!("tdx_collateral") && !has_signed(&point, json, signature) {
            return Err(TdxError::Signature(what));
        }
        let unreadable = || TdxError::Collateral(what);
        let Issue { issue_date, next_update } = serde_json::from_slice(json).map_err(|_| unreadable())?;
        let says = serde_json::from_slice(json).map_err(|_| unreadable())?;
        let (since, until) = time(&issue_date).zip(time(&next_update)).ok_or_else(unreadable)?;
        if armed!("tdx_collateral_time") && !(since..=until).contains(&now) {
            return Err(TdxError::CollateralTime(what));
        }
        Ok(Self { says, until })
    }
}

/// One level of something, and what is known about it.
#[derive(Debug, Deserialize)]
struct Level<T> {
    tcb: T,
    #[serde(rename = "tcbStatus")]
    status: TdxStatus,
    #[serde(rename = "advisoryIDs", default)]
    advisories: Vec<String>,
}

/// The first level that is reached: Intel lists the newest first.
fn reached<T>(levels: &[Level<T>], is_reached: impl Fn(&T) -> bool) -> Result<Levels, TdxError> {
    let level = levels.iter().find(|level| is_reached(&level.tcb)).ok_or(TdxError::Level)?;
    Ok(Levels { status: level.status, advisories: level.advisories.clone() })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PlatformsJson {
    id: String,
    version: u32,
    fmspc: String,
    pce_id: String,
    tcb_type: u32,
    tcb_evaluation_data_number: u32,
    tdx_module: ModuleJson,
    #[serde(default)]
    tdx_module_identities: Vec<NamedModuleJson>,
    tcb_levels: Vec<Level<PartsJson>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ModuleJson {
    mrsigner: String,
    attributes: String,
    attributes_mask: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NamedModuleJson {
    id: String,
    mrsigner: String,
    attributes: String,
    attributes_mask: String,
    tcb_levels: Vec<Level<EnclaveLevelJson>>,
}

#[derive(Debug, Deserialize)]
struct PartsJson {
    sgxtcbcomponents: [PartJson; PARTS],
    pcesvn: u16,
    tdxtcbcomponents: [PartJson; PARTS],
}

#[derive(Debug, Deserialize)]
struct PartJson {
    svn: u8,
}

#[derive(Debug, Deserialize)]
struct EnclaveLevelJson {
    isvsvn: u16,
}

/// Hexadecimal digits of either case.
fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok().map(|()| bytes)
}

/// Levels of a line of platforms.
pub(super) struct Platforms(Signed<PlatformsJson>);

impl Platforms {
    pub(super) fn read(
        json: &[u8],
        signature: &[u8; 64],
        signer: &Certificate,
        now: UnixMillis,
    ) -> Result<Self, TdxError> {
        let read: Signed<PlatformsJson> = Signed::read(LEVELS, json, signature, signer, now)?;
        let PlatformsJson { id, version, tcb_type, .. } = &read.says;
        if id == "TDX" && *version == 3 && *tcb_type == 0 { Ok(Self(read)) } else { Err(TdxError::Collateral(LEVELS)) }
    }

    pub(super) fn until(&self) -> UnixMillis {
        self.0.until
    }

    pub(super) fn evaluation(&self) -> u32 {
        self.0.says.tcb_evaluation_data_number
    }

    /// What is known about this platform and the module that runs there.
    pub(super) fn judge(&self, platform: &Platform, quote: &Quote<'_>) -> Result<Levels, TdxError> {
        let says = &self.0.says;
        let same = digits(&says.fmspc) == Some(platform.line) && digits(&says.pce_id) == Some(platform.certification);
        if armed!("tdx_platform") && !same {
            return Err(TdxError::OtherCollateral(LEVELS));
        }
        let levels = quote.levels();
        // The second byte is the module's version; modules that have one have their own levels, and the first two bytes count
        // there.
        let skipped = if levels[1] == 0 { 0 } else { 2 };
        let of_platform = reached(&says.tcb_levels, |least| {
            let parts = platform.parts.iter().zip(&least.sgxtcbcomponents).all(|(is, least)| *is >= least.svn);
            let module = levels.iter().zip(&least.tdxtcbcomponents).skip(skipped);
            parts && platform.level >= least.pcesvn && module.into_iter().all(|(is, least)| *is >= least.svn)
        })?;
        if levels[1] == 0 {
            let ModuleJson { mrsigner, attributes, attributes_mask } = &says.tdx_module;
            check_module(quote, mrsigner, attributes, attributes_mask)?;
            return Ok(of_platform);
        }
        let name = format!("TDX_{:02X}", levels[1]);
        let module = says.tdx_module_identities.iter().find(|module| module.id == name);
        let module = module.ok_or(TdxError::OtherCollateral(LEVELS))?;
        check_module(quote, &module.mrsigner, &module.attributes, &module.attributes_mask)?;
        let of_module = reached(&module.tcb_levels, |least| u16::from(levels[0]) >= least.isvsvn)?;
        Ok(of_platform.worse(of_module))
    }
}

fn check_module(quote: &Quote<'_>, signer: &str, attributes: &str, mask: &str) -> Result<(), TdxError> {
    let (wanted, mask) = digits(attributes).zip(digits(mask)).ok_or(TdxError::Collateral(LEVELS))?;
    let (wanted, mask) = (u64::from_le_bytes(wanted), u64::from_le_bytes(mask));
    let same = digits(signer) == Some(quote.module_signer()) && quote.module_attributes() & mask == wanted;
    if same || !armed!("tdx_module") { Ok(()) } else { Err(TdxError::OtherCollateral(LEVELS)) }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EnclavesJson {
    id: String,
    version: u32,
    tcb_evaluation_data_number: u32,
    miscselect: String,
    miscselect_mask: String,
    attributes: String,
    attributes_mask: String,
    mrsigner: String,
    isvprodid: u16,
    tcb_levels: Vec<Level<EnclaveLevelJson>>,
}

/// Which enclave is Intel's quoting enclave, and its levels.
pub(super) struct Enclaves(Signed<EnclavesJson>);

impl Enclaves {
    pub(super) fn read(
        json: &[u8],
        signature: &[u8; 64],
        signer: &Certificate,
        now: UnixMillis,
    ) -> Result<Self, TdxError> {
        let read: Signed<EnclavesJson> = Signed::read(ENCLAVES, json, signature, signer, now)?;
        if read.says.id == "TD_QE" && read.says.version == 2 {
            Ok(Self(read))
        } else {
            Err(TdxError::Collateral(ENCLAVES))
        }
    }

    pub(super) fn until(&self) -> UnixMillis {
        self.0.until
    }

    pub(super) fn evaluation(&self) -> u32 {
        self.0.says.tcb_evaluation_data_number
    }

    /// What is known about the enclave that made a quote.
    pub(super) fn judge(&self, quote: &Quote<'_>) -> Result<Levels, TdxError> {
        let says = &self.0.says;
        let masked = || {
            let (saved, saved_mask) = digits(&says.miscselect).zip(digits(&says.miscselect_mask))?;
            let (saved, saved_mask) = (u32::from_le_bytes(saved), u32::from_le_bytes(saved_mask));
            let (attributes, mask) = digits(&says.attributes).zip(digits(&says.attributes_mask))?;
            let (attributes, mask) = (u128::from_be_bytes(attributes), u128::from_be_bytes(mask));
            Some(quote.enclave_saved() & saved_mask == saved && quote.enclave_attributes() & mask == attributes)
        };
        let (product, level) = quote.enclave_product();
        let same = masked().ok_or(TdxError::Collateral(ENCLAVES))?
            && digits(&says.mrsigner) == Some(quote.enclave_signer())
            && says.isvprodid == product;
        if armed!("tdx_enclave") && !same {
            return Err(TdxError::OtherCollateral(ENCLAVES));
        }
        reached(&says.tcb_levels, |least| level >= least.isvsvn)
    }
}
