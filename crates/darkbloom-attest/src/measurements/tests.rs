//! Which releases are accepted, and what is no list of them.

use super::*;

fn snp() -> SnpFindings {
    SnpFindings {
        root: "CN=ARK-Genoa".to_owned(),
        product: Product::Genoa,
        levels: SnpLevels { bootloader: 10, tee: 1, snp: 23, microcode: 84 },
        measurement: [9; 48],
        host_data: [1; 32],
    }
}

fn tpm(secure_boot: Option<bool>, booted: Option<Vec<[u8; 32]>>) -> Measured {
    Measured::Tpm { registers: vec![(11, [11; 32])], log: BootLog { secure_boot, booted } }
}

#[track_caller]
fn judged(accepted: &str, measured: &[Measured]) -> Option<Tier> {
    let hash = |digit: &str, bytes: usize| digit.repeat(2 * bytes);
    let text = accepted.replace("M9", &"09".repeat(48)).replace("H1", &"01".repeat(32)).replace("P0", &hash("0", 32));
    let text = text.replace("R11", &"0b".repeat(32)).replace("P1", &hash("1", 32));
    let measurements = Measurements::parse(&format!("[[accepted]]\nrelease = \"r\"\n{text}")).unwrap();
    measurements.judge(measured).map(|(tier, release)| {
        assert_eq!(release, "r");
        tier
    })
}

#[test]
fn a_guest_is_its_measurement_at_a_level_of_firmware() {
    let accepted = "snp = { product = \"genoa\", measurement = \"M9\", minimum = { bootloader = 10, tee = 1, snp = 23, microcode = 84 } }";
    let found = || Measured::Snp(snp());
    assert_eq!(judged(accepted, &[found()]), Some(Tier::Confidential));
    for wrong in [
        accepted.replace("genoa", "milan"),
        accepted.replace("M9", &"08".repeat(48)),
        accepted.replace("bootloader = 10", "bootloader = 11"),
        accepted.replace("tee = 1", "tee = 2"),
        accepted.replace("snp = 23", "snp = 24"),
        accepted.replace("microcode = 84", "microcode = 85"),
        accepted.replace("minimum", "host_data = \"R11\", minimum"),
    ] {
        assert_eq!(judged(&wrong, &[found()]), None, "{wrong}");
    }
    assert_eq!(
        judged(&accepted.replace("minimum", "host_data = \"H1\", minimum"), &[found()]),
        Some(Tier::Confidential)
    );
    assert_eq!(judged(accepted, &[tpm(None, None)]), None);
    assert_eq!(judged(accepted, &[]), None);
}

#[test]
fn a_machine_is_all_that_is_said_of_it() {
    let program = |byte: u8| [byte; 32];
    let (p0, p1) = (program(0x00), program(0x11));
    let booted = |programs: &[[u8; 32]]| tpm(Some(true), Some(programs.to_vec()));
    let accepted = "tpm = { secure_boot = true, booted = [\"P0\", \"P1\"], registers = { \"11\" = \"R11\" } }";
    assert_eq!(judged(accepted, &[booted(&[p0, p1])]), Some(Tier::Measured));
    assert_eq!(judged(accepted, &[booted(&[p1])]), Some(Tier::Measured));
    for (measured, why) in [
        (booted(&[p0, program(2)]), "something else was booted too"),
        (booted(&[]), "nothing was"),
        (tpm(Some(true), None), "nobody knows what was booted"),
        (tpm(Some(false), Some(vec![p0])), "Secure Boot was off"),
        (tpm(None, Some(vec![p0])), "nobody knows about Secure Boot"),
    ] {
        assert_eq!(judged(accepted, &[measured]), None, "{why}");
    }
    assert_eq!(judged(&accepted.replace("R11", "H1"), &[booted(&[p0])]), None, "another register");
    let by_registers = "tpm = { registers = { \"11\" = \"R11\" } }";
    assert_eq!(judged(by_registers, &[tpm(None, None)]), Some(Tier::Measured));
    // What reaches more counts.
    let both = format!(
        "{by_registers}\nsnp = {{ product = \"genoa\", measurement = \"M9\", minimum = {{ bootloader = 0, tee = 0, snp = 0, microcode = 0 }} }}"
    );
    assert_eq!(judged(&both, &[tpm(None, None), Measured::Snp(snp())]), Some(Tier::Confidential));
}

#[test]
fn what_was_measured_is_written_as_what_accepts_it() {
    let whole = tpm(Some(true), Some(vec![[1; 32], [2; 32]]));
    for measured in [Measured::Snp(snp()), whole, tpm(Some(false), None), tpm(None, Some(vec![]))] {
        let accepted = measured.as_accepted();
        assert_eq!(judged(&accepted, std::slice::from_ref(&measured)), Some(measured.tier()), "{accepted}");
    }
    let unlike = tpm(Some(true), Some(vec![[3; 32]]));
    assert_eq!(judged(&tpm(Some(true), Some(vec![[1; 32]])).as_accepted(), &[unlike]), None);
    // A machine into whose registers nothing was measured is like any other.
    let bare = Measured::Tpm { registers: vec![(4, [0; 32])], log: BootLog::default() };
    let text = format!("[[accepted]]\nrelease = \"r\"\n{}", bare.as_accepted());
    assert!(Measurements::parse(&text).unwrap_err().to_string().contains("would accept everything"));
}

#[test]
fn what_is_no_list_is_said_with_where() {
    let long = "0".repeat(MEASUREMENTS_BYTES_MAX + 1);
    let wrong = [
        ("", "accepted"),
        ("accepted = []", "no release is accepted"),
        (
            "[[accepted]]\nrelease = \"r\"\nactive = false\ntpm = { registers = { \"1\" = \"HASH\" } }",
            "no release is accepted",
        ),
        ("[[accepted]]\nrelease = \"\"\ntpm = { registers = { \"1\" = \"HASH\" } }", "it has no name"),
        ("[[accepted]]\nrelease = \"r\"", "neither `tpm` nor `snp`"),
        ("[[accepted]]\nrelease = \"r\"\ntpm = {}", "would accept everything"),
        ("[[accepted]]\nrelease = \"r\"\ntpm = { secure_boot = true }", "would accept everything"),
        ("[[accepted]]\nrelease = \"r\"\ntpm = { registers = { \"24\" = \"HASH\" } }", "registers are 0 to 23"),
        ("[[accepted]]\nrelease = \"r\"\ntpm = { registers = { \"04\" = \"HASH\" } }", "registers are 0 to 23"),
        ("[[accepted]]\nrelease = \"r\"\ntpm = { registers = { \"4\" = \"00\" } }", "64 hex digits, not `00`"),
        ("[[accepted]]\nrelease = \"r\"\ntpm = { booted = [\"00\"] }", "64 hex digits"),
        ("[[accepted]]\nrelease = \"r\"\nsnp = { product = \"genoa\", measurement = \"HASH\" }", "minimum"),
        (
            "[[accepted]]\nrelease = \"r\"\nsnp = { product = \"genoa\", measurement = \"HASH\", minimum = { bootloader = 0, tee = 0, snp = 0, microcode = 0 } }",
            "96 hex digits",
        ),
        ("[[accepted]]\nrelease = \"r\"\nsnp = { product = \"rome\" }", "rome"),
        ("[[accepted]]\nrelease = \"r\"\ntpn = {}", "tpn"),
        (&*long, "at most"),
    ];
    for (text, said) in wrong {
        let error = Measurements::parse(&text.replace("HASH", &"0".repeat(64))).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}
