//! What firmware logged of what it booted (TCG PC Client Platform Firmware Profile 1.06, section 10).
//!
//! Anybody can write a log. It counts for a register that it leads to: extended with the log's digests, in their order, it has
//! the value that the TPM quoted. Nothing but digests is believed: what kind of entry one is of, and what it is a digest of, is
//! in no register, and whoever has the machine can extend one further with whatever he likes. So what counts is digests that
//! are known beforehand, and where they stand.

use std::sync::LazyLock;

use darkbloom_types::armed;
use darkbloom_wire::BootEvent;
use sha2::{Digest as _, Sha256};

/// The register of drivers that the firmware started: those on cards, and those that its settings name.
const DRIVERS: u32 = 2;
/// The register of what was booted: the loader, and all that it had the firmware start.
const BOOTED: u32 = 4;
/// The register of Secure Boot.
const SECURE_BOOT: u32 = 7;

/// UEFI's own variables have this namespace (`8be4df61-93ca-11d2-aa0d-00e098032b8c`).
const GLOBAL: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];
/// What the firmware says in words of its going on, in the register of what was booted.
const GOING_ON: [&str; 2] =
    ["Calling EFI Application from Boot Option", "Returning from EFI Application from Boot Option"];
/// What it says of a machine that is open: its debugger is on, or devices may write to memory.
const OPEN: [&str; 2] = ["UEFI Debug Mode", "DMA Protection Disabled"];

/// Digests that mean something wherever they stand.
struct Known {
    separator: [u8; 32],
    secure: [u8; 32],
    insecure: [u8; 32],
    going_on: [[u8; 32]; 2],
    open: [[u8; 32]; 2],
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let digest = |bytes: &[u8]| <[u8; 32]>::from(Sha256::digest(bytes));
    // A variable's entry (`UEFI_VARIABLE_DATA`): namespace, characters of the name, bytes of the value, name, value.
    let secure_boot = |value: u8| {
        let name: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
        digest(&[&GLOBAL[..], &10_u64.to_le_bytes(), &1_u64.to_le_bytes(), &name, &[value]].concat())
    };
    let words = |texts: [&str; 2]| texts.map(|text| digest(text.as_bytes()));
    Known {
        separator: digest(&[0; 4]),
        secure: secure_boot(1),
        insecure: secure_boot(0),
        going_on: words(GOING_ON),
        open: words(OPEN),
    }
});

/// What a log says of the registers that it leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootLog {
    /// Whether Secure Boot was on; nothing where register 7 is not led to, or does not begin with its state, or where the
    /// firmware says that the machine was open. Whose keys it asks for is the owner's choice: it says nothing by itself.
    pub secure_boot: Option<bool>,
    /// The digests of everything that the firmware started, drivers first: of programs their Authenticode digests (SHA-256).
    /// Nothing where registers 2 and 4 are not led to, where no program was started, or where register 7 says that the machine
    /// was open. What was extended afterwards by others is among them.
    pub booted: Option<Vec<[u8; 32]>>,
}

impl BootLog {
    /// Replays a log against the registers that were quoted.
    #[must_use]
    pub fn replay(log: &[BootEvent], quoted: &[(u32, [u8; 32])]) -> Self {
        let of = |pcr: u32| {
            let digests: Vec<[u8; 32]> =
                log.iter().filter(|event| event.pcr == pcr).map(|event| event.digest).collect();
            let leads = quoted.contains(&(pcr, replayed(&digests))) || !armed!("boot_log_replay");
            (leads && !digests.is_empty()).then_some(digests)
        };
        let secure = of(SECURE_BOOT);
        let open = secure.as_ref().is_some_and(|digests| is_open(digests));
        let booted = || {
            let (drivers, programs) = (started(&of(DRIVERS)?), started(&of(BOOTED)?));
            (!open && !programs.is_empty()).then(|| [drivers, programs].concat())
        };
        Self { booted: booted(), secure_boot: secure.filter(|_| !open).and_then(|digests| secure_boot(&digests)) }
    }
}

/// The value that digests give a register, which starts with zeros.
fn replayed(digests: &[[u8; 32]]) -> [u8; 32] {
    let extended =
        |value: [u8; 32], digest: &[u8; 32]| Sha256::new().chain_update(value).chain_update(digest).finalize();
    digests.iter().fold([0; 32], |value, digest| extended(value, digest).into())
}

/// Whether the firmware said, before it started anything, that the machine was open.
fn is_open(digests: &[[u8; 32]]) -> bool {
    let mut before = digests.iter().take_while(|digest| **digest != KNOWN.separator);
    before.any(|digest| KNOWN.open.contains(digest))
}

/// The state stands first: no program runs before it, so nobody can put one there.
fn secure_boot(digests: &[[u8; 32]]) -> Option<bool> {
    let first = if armed!("boot_log_first") { digests.first() } else { digests.last() };
    match *first? {
        digest if digest == KNOWN.secure => Some(true),
        digest if digest == KNOWN.insecure => Some(false),
        _ => None,
    }
}

/// Everything but the firmware's words about its own going on, of which no program is the digest.
fn started(digests: &[[u8; 32]]) -> Vec<[u8; 32]> {
    let words = |digest: &&[u8; 32]| **digest != KNOWN.separator && !KNOWN.going_on.contains(*digest);
    digests.iter().filter(words).copied().collect()
}

#[cfg(test)]
mod tests;
