//! Logs that lead to what was quoted, and those that do not.

use proptest::prelude::*;

use super::*;

/// An entry of which the digest is of the contents.
fn event(pcr: u32, kind: u32, data: &[u8]) -> BootEvent {
    BootEvent { pcr, kind, digest: Sha256::digest(data).into(), data: data.to_vec() }
}

fn separator(pcr: u32) -> BootEvent {
    event(pcr, EV_SEPARATOR, &[0; 4])
}

fn program(byte: u8) -> BootEvent {
    BootEvent { pcr: BOOTED, kind: EV_EFI_BOOT_SERVICES_APPLICATION, digest: [byte; 32], data: Vec::new() }
}

fn variable(name: &str, value: &[u8]) -> BootEvent {
    let name = utf16(name);
    let lengths = [name.len() as u64 / 2, value.len() as u64].map(u64::to_le_bytes).concat();
    event(SECURE_BOOT, EV_EFI_VARIABLE_DRIVER_CONFIG, &[&GLOBAL[..], &lengths, &name, value].concat())
}

/// The registers that a log's entries give, from zero.
fn quoted(log: &[BootEvent]) -> Vec<(u32, [u8; 32])> {
    let mut registers = std::collections::BTreeMap::new();
    for event in log {
        let value: &mut [u8; 32] = registers.entry(event.pcr).or_insert([0; 32]);
        *value = Sha256::digest([&value[..], &event.digest].concat()).into();
    }
    registers.into_iter().collect()
}

fn good() -> Vec<BootEvent> {
    vec![
        variable("SecureBoot", &[1]),
        variable("PK", &[7; 40]),
        separator(SECURE_BOOT),
        event(BOOTED, EV_EFI_ACTION, b"Calling EFI Application from Boot Option"),
        separator(BOOTED),
        program(1),
        program(2),
    ]
}

fn read(log: &[BootEvent]) -> BootLog {
    BootLog::replay(log, &quoted(log))
}

#[test]
fn a_log_counts_for_the_registers_that_it_leads_to() {
    let log = good();
    let all = BootLog { secure_boot: Some(true), booted: Some(vec![[1; 32], [2; 32]]) };
    assert_eq!(read(&log), all);
    // Something extended a register further.
    let mut registers = quoted(&log);
    registers[0].1 = [9; 32];
    assert_eq!(BootLog::replay(&log, &registers), BootLog { booted: None, ..all });
    assert_eq!(BootLog::replay(&[], &registers), BootLog::default());
    assert_eq!(BootLog::replay(&log, &[]), BootLog::default());
    // A register that nothing extended, and a log that says nothing of it.
    assert_eq!(BootLog::replay(&[], &[(4, [0; 32]), (7, [0; 32])]), BootLog::default());
}

#[test]
fn a_log_that_was_changed_says_nothing_of_that_register() {
    let registers = quoted(&good());
    let says = |log: &[BootEvent], pcr: u32| {
        let BootLog { secure_boot, booted } = BootLog::replay(log, &registers);
        if pcr == BOOTED { booted.is_some() } else { secure_boot.is_some() }
    };
    for at in 0..good().len() {
        let mut shorter = good();
        let gone = shorter.remove(at);
        assert!(says(&good(), gone.pcr) && !says(&shorter, gone.pcr), "without entry {at}");
        let mut other = good();
        other[at].digest[0] ^= 1;
        assert!(!says(&other, gone.pcr), "another digest of entry {at}");
    }
    let mut swapped = good();
    let last = swapped.len() - 1;
    swapped.swap(last - 1, last);
    assert!(!says(&swapped, BOOTED));
}

#[test]
fn secure_boot_is_what_the_log_said_before_anything_was_started() {
    let state = |log: &[BootEvent]| read(log).secure_boot;
    assert_eq!(state(&[variable("SecureBoot", &[0]), separator(7)]), Some(false));
    assert_eq!(state(&[variable("SecureBoot", &[1, 1]), separator(7)]), Some(false));
    assert_eq!(state(&[variable("SecureBoot", &[]), separator(7)]), Some(false));
    assert_eq!(state(&[variable("SetupMode", &[1]), separator(7)]), None);
    assert_eq!(state(&[separator(7), variable("SecureBoot", &[1])]), None, "after the separator");
    let twice = [variable("SecureBoot", &[1]), variable("SecureBoot", &[1]), separator(7)];
    assert_eq!(state(&twice), None, "said twice");
    let debugger = [variable("SecureBoot", &[1]), event(7, EV_EFI_ACTION, b"UEFI Debug Mode"), separator(7)];
    assert_eq!(state(&debugger), None);
    // Contents that its digest is not of: the register was extended with "off", the log says "on".
    let mut lied = variable("SecureBoot", &[0]);
    lied.data = variable("SecureBoot", &[1]).data;
    assert_eq!(state(&[lied, separator(7)]), None);
    // Of another namespace.
    let mut data = variable("SecureBoot", &[1]).data;
    data[0] ^= 1;
    assert_eq!(state(&[event(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &data), separator(7)]), None);
}

#[test]
fn what_was_booted_is_programs_alone() {
    let driver = 0x8000_0004;
    assert_eq!(read(&[separator(4)]).booted, Some(vec![]));
    assert_eq!(read(&[separator(4), program(1), event(4, driver, b"driver")]).booted, None);
    let mut words = event(4, EV_EFI_ACTION, b"words");
    words.data = b"other words".to_vec();
    assert_eq!(read(&[words, separator(4), program(1)]).booted, None, "an entry whose contents are hidden");
}

proptest! {
    #[test]
    fn any_log_leads_to_no_more_than_was_quoted(
        entries in prop::collection::vec((0..8_u32, 0..9_u32, any::<[u8; 32]>(), prop::collection::vec(any::<u8>(), 0..64)), 0..40),
        registers in prop::collection::btree_map(0..8_u32, any::<[u8; 32]>(), 0..8),
    ) {
        let log: Vec<_> = entries.into_iter().map(|(pcr, kind, digest, data)| BootEvent { pcr, kind, digest, data }).collect();
        let registers: Vec<_> = registers.into_iter().collect();
        prop_assert_eq!(BootLog::replay(&log, &registers), BootLog::default());
    }
}
