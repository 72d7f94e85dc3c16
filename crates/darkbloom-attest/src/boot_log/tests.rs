//! Logs that lead to what was quoted, and those that do not.

use proptest::prelude::*;

use super::*;

fn event(pcr: u32, digest: [u8; 32]) -> BootEvent {
    BootEvent { pcr, digest }
}

/// An entry whose digest is of these bytes.
fn of(pcr: u32, data: &[u8]) -> BootEvent {
    event(pcr, Sha256::digest(data).into())
}

fn separator(pcr: u32) -> BootEvent {
    of(pcr, &[0; 4])
}

fn secure(on: bool) -> BootEvent {
    event(SECURE_BOOT, if on { KNOWN.secure } else { KNOWN.insecure })
}

/// The registers that a log gives, from zero.
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
        event(DRIVERS, [9; 32]),
        separator(DRIVERS),
        secure(true),
        of(SECURE_BOOT, b"keys"),
        separator(SECURE_BOOT),
        of(SECURE_BOOT, b"by which key"),
        of(BOOTED, GOING_ON[0].as_bytes()),
        separator(BOOTED),
        event(BOOTED, [1; 32]),
        event(BOOTED, [2; 32]),
    ]
}

fn read(log: &[BootEvent]) -> BootLog {
    BootLog::replay(log, &quoted(log))
}

#[test]
fn a_log_counts_for_the_registers_that_it_leads_to() {
    let log = good();
    let all = BootLog { secure_boot: Some(true), booted: Some(vec![[9; 32], [1; 32], [2; 32]]) };
    assert_eq!(read(&log), all);
    // Something extended a register further: nothing is known of what that one is about.
    for (pcr, expected) in [
        (DRIVERS, BootLog { booted: None, ..all.clone() }),
        (BOOTED, BootLog { booted: None, ..all.clone() }),
        (SECURE_BOOT, BootLog { secure_boot: None, ..all }),
    ] {
        let mut registers = quoted(&log);
        registers.iter_mut().find(|(index, _)| *index == pcr).unwrap().1[0] ^= 1;
        assert_eq!(BootLog::replay(&log, &registers), expected, "register {pcr}");
    }
    assert_eq!(BootLog::replay(&[], &quoted(&log)), BootLog::default());
    assert_eq!(BootLog::replay(&log, &[]), BootLog::default());
    // Registers that nothing extended, and a log that says nothing of them.
    assert_eq!(BootLog::replay(&[], &[(2, [0; 32]), (4, [0; 32]), (7, [0; 32])]), BootLog::default());
}

#[test]
fn a_log_that_was_changed_says_nothing_of_that_register() {
    let registers = quoted(&good());
    let says = |log: &[BootEvent], pcr: u32| {
        let BootLog { secure_boot, booted } = BootLog::replay(log, &registers);
        if pcr == SECURE_BOOT { secure_boot.is_some() } else { booted.is_some() }
    };
    for at in 0..good().len() {
        let mut shorter = good();
        let gone = shorter.remove(at);
        assert!(says(&good(), gone.pcr) && !says(&shorter, gone.pcr), "without entry {at}");
        let mut other = good();
        other[at].digest[0] ^= 1;
        assert!(!says(&other, gone.pcr), "another digest of entry {at}");
        let mut longer = good();
        longer.insert(at, good()[at].clone());
        assert!(!says(&longer, gone.pcr), "entry {at} twice");
    }
    let mut swapped = good();
    let last = swapped.len() - 1;
    swapped.swap(last - 1, last);
    assert!(!says(&swapped, BOOTED));
}

#[test]
fn secure_boot_is_what_stands_first() {
    let state = |log: &[BootEvent]| read(log).secure_boot;
    assert_eq!(state(&[secure(true), separator(7)]), Some(true));
    assert_eq!(state(&[secure(false), separator(7)]), Some(false));
    // Root extends the register with what the firmware would have, after the machine booted without.
    assert_eq!(state(&[secure(false), separator(7), secure(true), separator(7)]), Some(false));
    assert_eq!(state(&[of(7, b"?"), secure(true), separator(7)]), None);
    assert_eq!(state(&[separator(7), secure(true)]), None, "after the separator");
    for said in OPEN {
        assert_eq!(state(&[secure(true), of(7, said.as_bytes()), separator(7)]), None, "{said}");
        assert_eq!(state(&[secure(true), separator(7), of(7, said.as_bytes())]), Some(true), "too late to be so");
    }
    let name: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut variable = [&GLOBAL[..], &10_u64.to_le_bytes(), &1_u64.to_le_bytes(), &name, &[1]].concat();
    assert_eq!(state(&[of(7, &variable), separator(7)]), Some(true), "it is the digest of that variable");
    variable[0] ^= 1;
    assert_eq!(state(&[of(7, &variable), separator(7)]), None, "and of no other namespace's");
}

#[test]
fn what_was_booted_is_everything_that_is_not_known_to_be_words() {
    let booted = |of_2: &[BootEvent], of_4: &[BootEvent]| read(&[of_2, of_4].concat()).booted;
    let program = event(4, [4; 32]);
    assert_eq!(booted(&[separator(2)], &[separator(4), program.clone()]), Some(vec![[4; 32]]));
    assert_eq!(booted(&[separator(2)], &[separator(4)]), None, "nothing was started");
    assert_eq!(booted(&[separator(2), event(2, [3; 32])], &[separator(4)]), None, "nothing but a driver was");
    assert_eq!(booted(&[], &[separator(4), program.clone()]), None, "drivers are not known");
    assert_eq!(booted(&[separator(2)], &[]), None);
    let driver = event(2, [3; 32]);
    assert_eq!(booted(&[separator(2), driver], &[separator(4), program.clone()]), Some(vec![[3; 32], [4; 32]]));
    // An open machine may have started anything else.
    let open = of(7, OPEN[0].as_bytes());
    assert_eq!(read(&[open, separator(7), separator(2), separator(4), program]).booted, None);
    // Whatever the log would call it: a driver, a sentence of somebody's own, what root extended afterwards.
    let sentence = of(4, b"Calling EFI Application from my Option");
    let digest = sentence.digest;
    assert_eq!(booted(&[separator(2)], &[separator(4), sentence]), Some(vec![digest]));
    let [calling, returning] = GOING_ON.map(|words| of(4, words.as_bytes()));
    assert_eq!(booted(&[separator(2)], &[calling, event(4, [4; 32]), returning]), Some(vec![[4; 32]]));
}

proptest! {
    /// One changed register, or one digest more, and the log is about another machine.
    #[test]
    fn no_other_log_leads_to_the_same_registers(
        entries in prop::collection::vec((prop::sample::select(vec![2_u32, 4, 7]), any::<[u8; 32]>()), 1..20),
        at in any::<prop::sample::Index>(), bit in 0..256_usize,
    ) {
        let log: Vec<_> = entries.into_iter().map(|(pcr, digest)| event(pcr, digest)).collect();
        let registers = quoted(&log);
        let both = log.iter().any(|event| event.pcr == 2) && log.iter().any(|event| event.pcr == 4);
        prop_assert_eq!(BootLog::replay(&log, &registers).booted.is_some(), both);
        let mut other = log;
        let at = at.index(other.len());
        other[at].digest[bit / 8] ^= 1 << (bit % 8);
        let changed = BootLog::replay(&other, &registers);
        let silent = if other[at].pcr == 7 { changed.secure_boot.is_none() } else { changed.booted.is_none() };
        prop_assert!(silent);
    }
}
