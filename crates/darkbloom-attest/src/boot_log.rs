//! What firmware logged of what it booted (TCG PC Client Platform Firmware Profile 1.06, section 10).
//!
//! Anybody can write a log. It counts for a register that it leads to: extended with the log's entries, in their order, it has
//! the value that the TPM quoted.

use darkbloom_types::armed;
use darkbloom_wire::BootEvent;
use sha2::{Digest as _, Sha256};

/// Kinds of entries.
const EV_SEPARATOR: u32 = 0x0000_0004;
const EV_EFI_VARIABLE_DRIVER_CONFIG: u32 = 0x8000_0001;
const EV_EFI_BOOT_SERVICES_APPLICATION: u32 = 0x8000_0003;
const EV_EFI_ACTION: u32 = 0x8000_0007;

/// The register of what was booted: the loader and all that it had the firmware load.
const BOOTED: u32 = 4;
/// The register of Secure Boot.
const SECURE_BOOT: u32 = 7;
/// A variable's entry (`UEFI_VARIABLE_DATA`): the namespace of those that UEFI defines, as bytes.
const GLOBAL: [u8; 16] =
    [0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c];

/// What a log says of the registers that it leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootLog {
    /// Whether Secure Boot was on; nothing where register 7 is not led to, or its log does not say, or says both.
    pub secure_boot: Option<bool>,
    /// What was booted, in order: the Authenticode digests (SHA-256) of programs that the firmware started. Nothing where
    /// register 4 is not led to, or was extended with something else too.
    pub booted: Option<Vec<[u8; 32]>>,
}

impl BootLog {
    /// Replays a log against the registers that were quoted.
    #[must_use]
    pub fn replay(log: &[BootEvent], quoted: &[(u32, [u8; 32])]) -> Self {
        let of = |pcr: u32| {
            let events: Vec<_> = log.iter().filter(|event| event.pcr == pcr).collect();
            let leads = quoted.contains(&(pcr, replayed(&events))) || !armed!("boot_log_replay");
            (leads && !events.is_empty()).then_some(events)
        };
        Self {
            secure_boot: of(SECURE_BOOT).and_then(|events| secure_boot(&events)),
            booted: of(BOOTED).and_then(|events| booted(&events)),
        }
    }
}

/// The value that entries give a register, which starts with zeros.
fn replayed(events: &[&BootEvent]) -> [u8; 32] {
    let extended = |value: [u8; 32], event: &&BootEvent| {
        Sha256::new().chain_update(value).chain_update(event.digest).finalize().into()
    };
    events.iter().fold([0; 32], extended)
}

/// Whether an entry's contents are what its digest is of.
fn holds(event: &BootEvent) -> bool {
    !armed!("boot_log_data") || Sha256::digest(&event.data)[..] == event.digest
}

fn secure_boot(events: &[&BootEvent]) -> Option<bool> {
    // The state that counts is the one before anything was started: the separator ends that.
    let before = || events.iter().take_while(|event| event.kind != EV_SEPARATOR);
    // Firmware says here in words that its debugger is on, or that devices may write to memory.
    if before().any(|event| event.kind == EV_EFI_ACTION) {
        return None;
    }
    let variables = before().filter(|event| event.kind == EV_EFI_VARIABLE_DRIVER_CONFIG && holds(event));
    let mut states = variables.filter_map(|event| {
        let (name, value) = global_variable(&event.data)?;
        (name == utf16("SecureBoot")).then_some(value == [1])
    });
    let state = states.next()?;
    states.next().is_none().then_some(state)
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

/// Name and value of one of UEFI's own variables: namespace, two lengths of 8 bytes (in characters and in bytes), both.
fn global_variable(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let data = data.strip_prefix(&GLOBAL)?;
    let (name_chars, data) = data.split_first_chunk()?;
    let (value_bytes, data) = data.split_first_chunk()?;
    let name_bytes = usize::try_from(u64::from_le_bytes(*name_chars)).ok()?.checked_mul(2)?;
    let (name, value) = data.split_at_checked(name_bytes)?;
    (u64::from_le_bytes(*value_bytes) == value.len() as u64).then_some((name, value))
}

fn booted(events: &[&BootEvent]) -> Option<Vec<[u8; 32]>> {
    let mut booted = Vec::new();
    for event in events {
        match event.kind {
            EV_EFI_BOOT_SERVICES_APPLICATION => booted.push(event.digest),
            // What the firmware says about its own going on, in words.
            EV_EFI_ACTION | EV_SEPARATOR if holds(event) => {}
            _ => return None,
        }
    }
    Some(booted)
}

#[cfg(test)]
mod tests;
