//! Which releases are accepted, and what is no list of them.

use super::*;

fn snp() -> SnpFindings {
    SnpFindings {
        root: "CN=ARK-Genoa".to_owned(),
        product: Product::Genoa,
        levels: SnpLevels { bootloader: 10, tee: 1, snp: 23, microcode: 84 },
        measurement: [9; 48],
        host_data: [1; 32],
        policy: SnpBits::of_policy(0x3_0000),
        platform: SnpBits::of_platform(1 << SnpBits::ALIAS_CHECK),
    }
}

fn tpm(secure_boot: Option<bool>, booted: Option<Vec<[u8; 32]>>) -> Measured {
    Measured::Tpm {
        endorsement: Digest([14; 32]),
        registers: vec![(0, [10; 32]), (11, [11; 32]), (12, [0; 32]), (13, [0; 32])],
        log: BootLog { secure_boot, booted },
    }
}

#[track_caller]
fn judged(accepted: &str, measured: &[Measured]) -> Option<Tier> {
    let hash = |digit: &str, bytes: usize| digit.repeat(2 * bytes);
    let text = accepted.replace("M9", &"09".repeat(48)).replace("H1", &"01".repeat(32)).replace("P0", &hash("0", 32));
    let text = text.replace("R11", &"0b".repeat(32)).replace("P1", &hash("1", 32)).replace("F0", &"0a".repeat(32));
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
    // Memory that may have aliases is for those who say so.
    let unchecked = SnpFindings { platform: SnpBits::of_platform(0), ..snp() };
    assert_eq!(judged(accepted, &[Measured::Snp(unchecked.clone())]), None);
    let lenient = accepted.replace("minimum", "alias_check = false, minimum");
    assert_eq!(judged(&lenient, &[Measured::Snp(unchecked)]), Some(Tier::Confidential));
}

#[test]
fn a_machine_is_all_that_is_said_of_it() {
    let program = |byte: u8| [byte; 32];
    let (p0, p1) = (program(0x00), program(0x11));
    let booted = |programs: &[[u8; 32]]| tpm(Some(true), Some(programs.to_vec()));
    let accepted = "tpm = { firmware = [\"F0\"], secure_boot = true, booted = [\"P0\", \"P1\"], registers = { \"11\" = \"R11\", \"12\" = \"P0\", \"13\" = \"P0\" } }";
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
    assert_eq!(judged(&accepted.replace("F0", "H1"), &[booted(&[p0])]), None, "another firmware");
    let given = accepted.replace("\"12\" = \"P0\"", "\"12\" = \"P1\"");
    assert_eq!(judged(&given, &[booted(&[p0])]), None, "an image that was given something else");
    let enrolled = |tpm: &str| accepted.replace("firmware", &format!("endorsements = [\"{tpm}\"], firmware"));
    assert_eq!(judged(&enrolled(&"0e".repeat(32)), &[booted(&[p0])]), Some(Tier::Measured));
    assert_eq!(judged(&enrolled(&"0f".repeat(32)), &[booted(&[p0])]), None, "another machine's TPM");
    let any = accepted.replace("\"F0\"", "\"H1\", \"F0\"");
    assert_eq!(judged(&any, &[booted(&[p0])]), Some(Tier::Measured), "any of several");
    let log = BootLog { secure_boot: Some(true), booted: Some(vec![p0]) };
    let unquoted = Measured::Tpm { endorsement: Digest([14; 32]), registers: vec![(11, [11; 32])], log };
    assert_eq!(judged(accepted, &[unquoted]), None, "a firmware that was not quoted");
    let by_registers = "tpm = { firmware = [\"F0\"], registers = { \"2\" = \"R11\", \"4\" = \"R11\" } }";
    let started = |value| Measured::Tpm {
        endorsement: Digest([14; 32]),
        registers: vec![(0, [10; 32]), (2, [11; 32]), (4, value)],
        log: BootLog::default(),
    };
    assert_eq!(judged(by_registers, &[started([11; 32])]), Some(Tier::Measured));
    assert_eq!(judged(by_registers, &[started([12; 32])]), None);
    // What reaches more counts.
    let both = format!(
        "{by_registers}\nsnp = {{ product = \"genoa\", measurement = \"M9\", minimum = {{ bootloader = 0, tee = 0, snp = 0, microcode = 0 }} }}"
    );
    assert_eq!(judged(&both, &[started([11; 32]), Measured::Snp(snp())]), Some(Tier::Confidential));
}

#[test]
fn what_was_measured_is_written_as_what_accepts_it() {
    let whole = tpm(Some(true), Some(vec![[1; 32], [2; 32]]));
    let unchecked = Measured::Snp(SnpFindings { platform: SnpBits::of_platform(0), ..snp() });
    let started = Measured::Tpm {
        endorsement: Digest([14; 32]),
        registers: vec![(0, [1; 32]), (2, [2; 32]), (4, [4; 32])],
        log: BootLog::default(),
    };
    for measured in [Measured::Snp(snp()), unchecked, whole, started] {
        let accepted = measured.as_accepted();
        assert_eq!(judged(&accepted, std::slice::from_ref(&measured)), Some(measured.tier()), "{accepted}");
    }
    let unlike = tpm(Some(true), Some(vec![[3; 32]]));
    assert_eq!(judged(&tpm(Some(true), Some(vec![[1; 32]])).as_accepted(), &[unlike]), None);
    // Nothing accepts a machine whose firmware measures nothing, or of which nobody knows what was started.
    for measured in [
        Measured::Tpm {
            endorsement: Digest([14; 32]),
            registers: vec![(0, [0; 32]), (4, [0; 32])],
            log: BootLog::default(),
        },
        tpm(Some(true), None),
    ] {
        let text = format!("[[accepted]]\nrelease = \"r\"\n{}", measured.as_accepted());
        assert!(Measurements::parse(&text).is_err(), "{text}");
    }
}

#[test]
fn what_is_no_list_is_said_with_where() {
    let long = "0".repeat(MEASUREMENTS_BYTES_MAX + 1);
    let wrong = [
        ("", "accepted"),
        ("accepted = []", "no release is accepted"),
        (
            "[[accepted]]\nrelease = \"r\"\nactive = false\ntpm = { firmware = [\"HASH\"], booted = [\"HASH\"], registers = { \"12\" = \"ZERO\", \"13\" = \"ZERO\" } }",
            "no release is accepted",
        ),
        (
            "[[accepted]]\nrelease = \"\"\ntpm = { firmware = [\"HASH\"], booted = [\"HASH\"], registers = { \"12\" = \"ZERO\", \"13\" = \"ZERO\" } }",
            "it has no name",
        ),
        ("[[accepted]]\nrelease = \"r\"", "none of `tpm`, `snp` and `tdx`"),
        ("[[accepted]]\nrelease = \"r\"\ntpm = { booted = [\"HASH\"] }", "firmware"),
        ("[[accepted]]\nrelease = \"r\"\ntpm = { firmware = [], booted = [\"HASH\"] }", "`firmware` is empty"),
        ("[[accepted]]\nrelease = \"r\"\ntpm = { firmware = [\"HASH\"] }", "what was started"),
        (
            "[[accepted]]\nrelease = \"r\"\ntpm = { firmware = [\"HASH\"], booted = [\"HASH\"], registers = { \"12\" = \"ZERO\" } }",
            "12 and 13",
        ),
        (
            "[[accepted]]\nrelease = \"r\"\ntpm = { endorsements = [\"00\"], firmware = [\"HASH\"], booted = [\"HASH\"] }",
            "12 and 13",
        ),
        ("[[accepted]]\nrelease = \"r\"\ntpm = { firmware = [\"HASH\"], secure_boot = true }", "what was started"),
        (
            "[[accepted]]\nrelease = \"r\"\ntpm = { firmware = [\"HASH\"], registers = { \"4\" = \"HASH\" } }",
            "what was started",
        ),
        (
            "[[accepted]]\nrelease = \"r\"\ntpm = { firmware = [\"HASH\"], registers = { \"11\" = \"HASH\" } }",
            "what was started",
        ),
        (
            "[[accepted]]\nrelease = \"r\"\ntpm = { firmware = [\"ZERO\"], booted = [\"HASH\"] }",
            "nothing was measured into",
        ),
        (
            "[[accepted]]\nrelease = \"r\"\ntpm = { firmware = [\"ONES\"], booted = [\"HASH\"] }",
            "nothing was measured into",
        ),
        (
            "[[accepted]]\nrelease = \"r\"\ntpm = { firmware = [\"HASH\"], registers = { \"16\" = \"HASH\" } }",
            "others can be set back",
        ),
        (
            "[[accepted]]\nrelease = \"r\"\ntpm = { firmware = [\"HASH\"], registers = { \"04\" = \"HASH\" } }",
            "registers are 0 to 15",
        ),
        (
            "[[accepted]]\nrelease = \"r\"\ntpm = { firmware = [\"HASH\"], registers = { \"4\" = \"00\" } }",
            "64 hex digits, not `00`",
        ),
        (
            "[[accepted]]\nrelease = \"r\"\ntpm = { firmware = [\"HASH\"], booted = [\"00\"], registers = { \"12\" = \"ZERO\", \"13\" = \"ZERO\" } }",
            "64 hex digits",
        ),
        (
            "[[accepted]]\nrelease = \"r\"\ntpm = { firmware = [\"HASH\"], registers = { \"2\" = \"HASH\", \"4\" = \"ZERO\" } }",
            "nothing was measured into",
        ),
        ("[[accepted]]\nrelease = \"r\"\nsnp = { product = \"genoa\", measurement = \"HASH\" }", "minimum"),
        (
            "[[accepted]]\nrelease = \"r\"\nsnp = { product = \"genoa\", measurement = \"HASH\", minimum = { bootloader = 0, tee = 0, snp = 0, microcode = 0 } }",
            "96 hex digits",
        ),
        ("[[accepted]]\nrelease = \"r\"\nsnp = { product = \"rome\" }", "rome"),
        ("[[accepted]]\nrelease = \"r\"\ntdx = { measurement = \"LONG\", registers = {} }", "evaluation"),
        (
            "[[accepted]]\nrelease = \"r\"\ntdx = { measurement = \"HASH\", registers = { \"0\" = \"LONG\", \"1\" = \"LONG\", \"2\" = \"LONG\" }, evaluation = 1 }",
            "96 hex digits",
        ),
        (
            "[[accepted]]\nrelease = \"r\"\ntdx = { measurement = \"LONG\", registers = { \"0\" = \"LONG\", \"2\" = \"LONG\" }, evaluation = 1 }",
            "0, 1 and 2",
        ),
        (
            "[[accepted]]\nrelease = \"r\"\ntdx = { measurement = \"LONG\", registers = { \"4\" = \"LONG\" }, evaluation = 1 }",
            "0 to 3",
        ),
        ("[[accepted]]\nrelease = \"r\"\ntpn = {}", "tpn"),
        (&*long, "at most"),
    ];
    let hashes = |text: &str| {
        text.replace("HASH", &"1".repeat(64))
            .replace("ZERO", &"0".repeat(64))
            .replace("ONES", &"f".repeat(64))
            .replace("LONG", &"2".repeat(96))
    };
    for (text, said) in wrong {
        let error = Measurements::parse(&hashes(text)).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}
