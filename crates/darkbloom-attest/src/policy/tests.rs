//! Which gates a provider passes.

use super::*;

use darkbloom_types::{Digest, EpochId, NetworkId, ProviderId, UnixMillis};
use darkbloom_wire::Statement;

use crate::boot_log::BootLog;
use crate::evidence::Presence;
use crate::measurements::Measured;
use crate::statement::{Claim, Freshness, Trust};

fn verdict() -> Verdict {
    let claim =
        |name, value: &str, source| Claim { name, value: value.to_owned(), source, freshness: Freshness::Epoch };
    Verdict {
        provider: ProviderId([1; 32]),
        epoch: EpochId([2; 16]),
        tier: Tier::Hardware,
        proven: Tier::Hardware,
        trust: Trust::Unpinned,
        predecessors: Vec::new(),
        measured: vec![Measured::Tpm {
            endorsement: Digest([14; 32]),
            registers: vec![(0, [10; 32]), (2, [2; 32]), (4, [4; 32]), (7, [7; 32])],
            log: BootLog { secure_boot: Some(true), booted: Some(vec![[8; 32], [9; 32]]) },
        }],
        presence: None,
        holds_until: UnixMillis(1),
        claims: vec![
            claim("tpm_identity_key", "the key is in a TPM", ClaimSource::Hardware),
            claim("hardening", "no_core, system_calls", ClaimSource::Provider),
            claim("gpu", "not_applicable", ClaimSource::Hardware),
        ],
        statement: Statement {
            identity: [4; 65],
            network: NetworkId([1; 32]),
            sealing_key: Vec::new(),
            receipt_key: [3; 32],
            not_before: UnixMillis(0),
            use_until: UnixMillis(1),
            open_until: UnixMillis(2),
            models: Vec::new().into(),
            evidence: Vec::new().into(),
            release: "darkbloom/1.4.2".to_owned(),
            hardening: Vec::new().into(),
            key_home: String::new(),
            successions: Vec::new().into(),
            program: None,
        },
        signed: Vec::new(),
    }
}

/// Whether a provider passes this one gate, which is the same enforced and in shadow.
#[track_caller]
fn passes(section: &str, verdict: &Verdict) -> bool {
    let policy = |gate: &str| Policy::parse(&section.replace("GATE", &format!("gate = \"{gate}\""))).unwrap();
    let (enforced, shadow, off) = (policy("enforce"), policy("shadow"), policy("off"));
    let off = off.assess(verdict);
    assert!(off.shut.is_empty() && off.shadow.is_empty());
    let Assessment { shut, shadow: none, .. } = enforced.assess(verdict);
    let Assessment { shut: nothing, shadow, .. } = shadow.assess(verdict);
    assert!(none.is_empty() && nothing.is_empty() && shut == shadow, "a gate in shadow bars nobody");
    shut.is_empty()
}

#[test]
fn a_policy_that_says_nothing_bars_nobody() {
    let nothing = Assessment { tier: Tier::Hardware, shut: vec![], shadow: vec![] };
    assert_eq!(Policy::parse("").unwrap().assess(&verdict()), nothing);
    assert_eq!(Policy::parse(""), Ok(Policy::default()));
}

#[test]
fn the_least_tier() {
    let section = |tier: &str| format!("[tier]\nGATE\nminimum = \"{tier}\"");
    assert!(passes(&section("hardware"), &verdict()));
    assert!(!passes(&section("measured"), &verdict()));
}

#[test]
fn the_least_version() {
    let section = |version: &str| format!("[version]\nGATE\nminimum = \"{version}\"");
    for (least, passed) in [("1.4.2", true), ("1.4.3", false), ("0.9.9", true), ("1.10.0", false), ("2.0.0", false)] {
        assert_eq!(passes(&section(least), &verdict()), passed, "{least}");
    }
    for (release, passed) in [("darkbloom/1.4.2-rc.1", true), ("1.4.2", false), ("darkbloom/new", false), ("", false)] {
        let mut other = verdict();
        other.statement.release = release.to_owned();
        assert_eq!(passes(&section("1.4.2"), &other), passed, "{release}");
    }
}

#[test]
fn claims_by_whom_and_what() {
    let section = |claim: &str| format!("[claims]\nGATE\nrequired = [{{ {claim} }}]");
    let cases = [
        ("name = \"tpm_identity_key\"", true),
        ("name = \"other\"", false),
        ("name = \"hardening\"", false),
        ("name = \"hardening\", providers_word = true", true),
        ("name = \"hardening\", value = \"system_calls\", providers_word = true", true),
        ("name = \"hardening\", value = \"system\", providers_word = true", false),
        ("name = \"gpu\"", false),
        ("name = \"gpu\", or_not_applicable = true", true),
        ("name = \"gpu\", value = \"measured\", or_not_applicable = true", true),
        ("name = \"other\", or_not_applicable = true", false),
    ];
    for (claim, passed) in cases {
        assert_eq!(passes(&section(claim), &verdict()), passed, "{claim}");
    }
}

#[test]
fn what_was_measured_is_of_any_active_release() {
    let value = |byte: u8| hex::encode([byte; 32]);
    let release = |active: bool, values: &[(u32, u8)]| {
        let values = [&[(2, 2)], values].concat();
        let values: Vec<_> = values.iter().map(|(pcr, byte)| format!("\"{pcr}\" = \"{}\"", value(*byte))).collect();
        format!(
            "{{ release = \"r\", active = {active}, tpm = {{ firmware = [\"{}\"], registers = {{ {} }} }} }}",
            value(10),
            values.join(", ")
        )
    };
    let section = |releases: &[String]| format!("[measurements]\nGATE\naccepted = [{}]", releases.join(", "));
    let (good, other) = (release(true, &[(4, 4), (7, 7)]), release(true, &[(4, 9)]));
    assert!(passes(&section(&[other.clone(), good.clone()]), &verdict()), "a union");
    assert!(!passes(&section(std::slice::from_ref(&other)), &verdict()));
    assert!(!passes(&section(&[other, release(false, &[(4, 4)])]), &verdict()), "one that is not active");
    assert!(!passes(&section(&[release(true, &[(4, 4), (7, 8)])]), &verdict()), "all registers of one release");
    assert!(!passes(&section(&[release(true, &[(4, 4), (5, 4)])]), &verdict()), "one that was not quoted");
    let mut without = verdict();
    without.measured.clear();
    let unmeasured = section(std::slice::from_ref(&good)).replace("GATE", "GATE\nor_not_applicable = true");
    assert!(!passes(&section(std::slice::from_ref(&good)), &without), "no hardware measures it");
    assert!(passes(&unmeasured, &without));
    let mut another = verdict();
    another.measured =
        vec![Measured::Tpm { endorsement: Digest([14; 32]), registers: vec![(4, [5; 32])], log: BootLog::default() }];
    assert!(!passes(&unmeasured, &another), "what is measured and not accepted is not what cannot be measured");

    // What is accepted decides about the tier, whether or not it is demanded.
    let tier = |accepted: &str| {
        let text =
            format!("[measurements]\naccepted = [{accepted}]\n[tier]\ngate = \"enforce\"\nminimum = \"measured\"");
        let Assessment { tier, shut, .. } = Policy::parse(&text).unwrap().assess(&verdict());
        assert_eq!(shut.is_empty(), tier == Tier::Measured);
        tier
    };
    assert_eq!(tier(&good), Tier::Measured);
    assert_eq!(tier(&release(true, &[(4, 9)])), Tier::Hardware);
}

#[test]
fn what_hardware_said_counts_as_far_as_it_says_the_same_when_it_is_asked() {
    let image = |first: &str, second: &str| {
        let release = |name: &str, value: &str| {
            format!(
                "{{ release = \"{name}\", tpm = {{ firmware = [\"{}\"], registers = {{ 2 = \"{}\", 4 = \"{value}\" }} }} }}",
                "0a".repeat(32),
                "02".repeat(32)
            )
        };
        format!(
            "[measurements]\ngate = \"enforce\"\naccepted = [{}, {}]",
            release("one", first),
            release("two", second)
        )
    };
    let (now, later) = ("04".repeat(32), "05".repeat(32));
    let policy = Policy::parse(&image(&now, &later)).unwrap();
    let of = |presence: Option<Presence>| policy.assess(&Verdict { presence, ..verdict() });
    let said = |register: u8| {
        let registers = vec![(0, [10; 32]), (2, [2; 32]), (4, [register; 32])];
        let measured = Measured::Tpm { endorsement: Digest([14; 32]), registers, log: BootLog::default() };
        Some(Presence { proven: Tier::Hardware, measured: vec![measured] })
    };
    let passes = Assessment { tier: Tier::Measured, shut: vec![], shadow: vec![] };
    assert_eq!(of(None), passes, "nobody asked");
    assert_eq!(of(said(4)), passes);
    assert_eq!(of(said(5)), passes, "another image that is accepted too");
    assert_eq!(of(said(6)), Assessment { tier: Tier::Hardware, shut: vec![Gate::Measurements], shadow: vec![] });
    let silent = Assessment { tier: Tier::SelfSigned, shut: vec![Gate::Measurements], shadow: vec![] };
    assert_eq!(of(Some(Presence::default())), silent, "hardware that says nothing now");
    // What it says now alone raises nothing either.
    let bare = Verdict { proven: Tier::SelfSigned, measured: Vec::new(), presence: said(4), ..verdict() };
    assert_eq!(policy.assess(&bare).tier, Tier::SelfSigned);
}

#[test]
fn what_is_no_policy_is_said_with_where() {
    let long = "0".repeat(POLICY_BYTES_MAX + 1);
    let wrong = [
        ("[tier]\ngate = \"enforce\"", "[tier]: a gate that is not off needs `minimum`"),
        ("[tier]\ngate = \"enforce\"\nminimum = \"iron\"", "[tier]: unknown tier `iron`"),
        ("[version]\ngate = \"shadow\"\nminimum = \"1.2\"", "[version]: `1.2` is no version"),
        ("[version]\ngate = \"shadow\"\nminimum = \"+1.2.3\"", "is no version"),
        ("[claims]\ngate = \"enforce\"", "[claims]: a gate that is not off needs `required`"),
        (
            "[measurements]\ngate = \"enforce\"\naccepted = [{ release = \"r\", active = false, tpm = { firmware = [\"HASH\"], booted = [\"HASH\"], registers = { \"12\" = \"HASH\", \"13\" = \"HASH\" } } }]",
            "needs `accepted`",
        ),
        ("[measurements]\naccepted = [{ release = \"r\" }]", "[measurements]: release `r`: none of"),
        ("[claims]\nrequired = [{ name = \"\" }]", "not empty"),
        ("[claims]\nrequired = [{ name = \"measured_release\" }]", "[measurements]"),
        ("[claims]\nrequired = [{ name = \"tpm_boot\", value = \"0:abcd1234\" }]", "[measurements]"),
        ("[claims]\nrequired = [{ name = \"apple_sip\", value = \"on\" }]", "in shadow"),
        ("[claims]\nrequired = [{ name = \"a\", value = \"\" }]", "not empty"),
        ("[tiers]\ngate = \"off\"", "tiers"),
        ("[tier]\ngate = \"on\"", "on"),
        (&*long, "at most"),
    ];
    for (text, said) in wrong {
        let error = Policy::parse(&text.replace("HASH", &"1".repeat(64))).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}

#[test]
fn the_policy_of_the_documents_is_one() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policy.md");
    let page = std::fs::read_to_string(path).unwrap();
    let (_, example) = page.split_once("```toml\n").unwrap();
    let policy = Policy::parse(example.split("```").next().unwrap()).unwrap();
    let Assessment { shut, shadow, .. } = policy.assess(&verdict());
    assert_eq!((shut, shadow), (vec![], vec![Gate::Measurements]));
}
