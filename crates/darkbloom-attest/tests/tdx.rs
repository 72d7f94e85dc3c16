//! Statements with evidence of an Intel machine: what it raises, for whom, until when.
#![allow(clippy::unwrap_used, reason = "tests, also in what their cases share")]

use std::sync::Arc;

use darkbloom_attest::{
    Claim, ClaimSource, Defence, HardwareTrust, Measured, Measurements, TdxStatus, TrustPolicy, Verdict,
    verify_statement,
};
use darkbloom_types::{Millis, NetworkId, Tier, UnixMillis};
use darkbloom_wire::{Evidence, TDX_EVIDENCE};

#[path = "shared/machine.rs"]
mod machine;
#[allow(dead_code, reason = "other tests need more of it")]
#[path = "shared/platform.rs"]
mod platform;
use platform::{Draft, MEASUREMENT, Platform, REGISTERS};

/// In the middle of 2027.
const NOW: UnixMillis = UnixMillis(1_814_400_000_000);

/// A statement with evidence about its epoch, which begins then.
fn statement(platform: &Platform, begin: UnixMillis, change: impl Fn(&mut Draft)) -> Vec<u8> {
    machine::statement(begin, |nonce| {
        let mut draft = Draft::about(&Draft::asked(nonce));
        change(&mut draft);
        vec![Evidence { format: TDX_EVIDENCE.to_owned(), bytes: platform.evidence(&draft).encode() }]
    })
}

fn policy(platform: &Platform, measurement: [u8; 48]) -> TrustPolicy {
    let mut hardware = HardwareTrust { intel_roots: Arc::new(platform.roots()), ..HardwareTrust::default() };
    let registers: Vec<_> = (0..3).map(|number| format!("{number} = \"{}\"", hex::encode(REGISTERS[number]))).collect();
    let text = format!(
        "[[accepted]]\nrelease = \"machine-3\"\ntdx = {{ measurement = \"{}\", registers = {{ {} }}, evaluation = 17 }}",
        hex::encode(measurement),
        registers.join(", ")
    );
    hardware.measurements = Arc::new(Measurements::parse(&text).unwrap());
    TrustPolicy { network: NetworkId([7; 32]), tier_min: Tier::Hardware, pinned: Default::default(), hardware }
}

fn claim<'a>(verdict: &'a Verdict, name: &str) -> Option<&'a Claim> {
    verdict.claims.iter().find(|claim| claim.name == name)
}

#[test]
fn a_machine_that_the_verifier_accepts_is_confidential() {
    let platform = Platform::new();
    let signed = statement(&platform, NOW, |_| {});
    let policy = policy(&platform, MEASUREMENT);
    let verdict = verify_statement(&signed, &policy, NOW).unwrap();
    assert_eq!((verdict.tier, verdict.proven), (Tier::Confidential, Tier::SelfSigned));
    assert!(policy.admits(&verdict));
    let [Measured::Tdx(found)] = &verdict.measured[..] else { panic!("{:?}", verdict.measured) };
    assert_eq!((found.status, found.measurement, found.registers), (TdxStatus::UpToDate, MEASUREMENT, REGISTERS));
    assert_eq!(claim(&verdict, "measured_release").unwrap().value, "machine-3");
    let measured = claim(&verdict, "tdx_measurement").unwrap();
    assert_eq!((measured.value.clone(), measured.source), (hex::encode(MEASUREMENT), ClaimSource::Hardware));
    assert_eq!(claim(&verdict, "tdx_levels").unwrap().value, "up to date, says Intel's evaluation 17");
    let undefended = verdict.undefended();
    assert_eq!(undefended.owner_root, Defence::Defended);
    assert_eq!(undefended.owner_physical_access, Defence::Partly);
    assert_eq!(undefended.dishonest_coordinator, Defence::Defended, "no activator's word is needed");
    assert_eq!(verdict.holds_until, verdict.statement.use_until);
}

#[test]
fn a_machine_that_nobody_accepts_proves_no_more_than_its_key() {
    let platform = Platform::new();
    let signed = statement(&platform, NOW, |_| {});
    let verdict = verify_statement(&signed, &policy(&platform, [1; 48]), NOW).unwrap();
    assert_eq!((verdict.tier, verdict.proven), (Tier::SelfSigned, Tier::SelfSigned));
    assert!(claim(&verdict, "tdx_measurement").is_some(), "it is shown all the same");
    // The root that ships is Intel's, and this platform is nobody's.
    let mut of_intel = policy(&platform, MEASUREMENT);
    of_intel.hardware.intel_roots = HardwareTrust::default().intel_roots;
    let verdict = verify_statement(&signed, &of_intel, NOW).unwrap();
    assert_eq!(verdict.tier, Tier::SelfSigned);
    let why = &claim(&verdict, "tdx_not_proven").unwrap().value;
    assert!(why.starts_with("the platform's certificate: the chain leads to none of the roots"), "{why}");
}

#[test]
fn firmware_with_known_holes_is_shown_with_what_is_known() {
    let platform = Platform::new();
    let signed = statement(&platform, NOW, |draft| draft.report[2] = 2);
    let verdict = verify_statement(&signed, &policy(&platform, MEASUREMENT), NOW).unwrap();
    assert_eq!(verdict.tier, Tier::SelfSigned);
    let levels = &claim(&verdict, "tdx_levels").unwrap().value;
    assert_eq!(levels, "out of date, says Intel's evaluation 17: INTEL-SA-OutOfDate");
    // Lower than any level that Intel names.
    let signed = statement(&platform, NOW, |draft| draft.report[2] = 1);
    let verdict = verify_statement(&signed, &policy(&platform, MEASUREMENT), NOW).unwrap();
    assert!(claim(&verdict, "tdx_not_proven").unwrap().value.contains("none that Intel stands for"));
}

/// Each part that has a level is looked at: one that is lower than all that Intel names proves nothing.
#[test]
fn enclaves_of_lower_levels_are_told() {
    let platform = Platform::new();
    let lowered = |change: &dyn Fn(&mut Draft)| {
        let signed = statement(&platform, NOW, change);
        let verdict = verify_statement(&signed, &policy(&platform, MEASUREMENT), NOW).unwrap();
        claim(&verdict, "tdx_not_proven").map(|why| why.value.clone())
    };
    let why = Some("the firmware's level is none that Intel stands for".to_owned());
    assert_eq!(lowered(&|draft| draft.enclave[258] = 4), None);
    assert_eq!(lowered(&|draft| draft.enclave[258] = 3), why, "the quoting enclave");
    let certification = |level: &str| {
        let level = format!("\"pcesvn\":{level}");
        lowered(&move |draft: &mut Draft| draft.levels = draft.levels.replace("\"pcesvn\":11", &level))
    };
    assert_eq!(certification("10"), None);
    assert_eq!(certification("12"), why, "the certification enclave");
}

#[test]
fn a_module_without_a_version_is_judged_with_its_platform() {
    let platform = Platform::new();
    let of_module = |levels: [u8; 3]| {
        let signed = statement(&platform, NOW, |draft| {
            draft.report[..3].copy_from_slice(&levels);
            draft.levels =
                draft.levels.replace("{\"svn\":0},{\"svn\":0},{\"svn\":3}", "{\"svn\":5},{\"svn\":0},{\"svn\":3}");
        });
        verify_statement(&signed, &policy(&platform, MEASUREMENT), NOW).unwrap().tier
    };
    assert_eq!(of_module([5, 0, 3]), Tier::Confidential);
    assert_eq!(of_module([4, 0, 3]), Tier::SelfSigned);
    assert_eq!(of_module([4, 1, 3]), Tier::Confidential, "a version has its own levels");
    assert_eq!(of_module([3, 1, 3]), Tier::SelfSigned);
    assert_eq!(of_module([9, 2, 3]), Tier::SelfSigned, "a version that Intel says nothing about");
}

#[test]
fn a_verdict_holds_no_longer_than_what_intel_says() {
    let platform = Platform::new();
    // The lists end with 2028.
    let end = UnixMillis(1_861_920_000_000);
    let begin = UnixMillis(end.0 - Millis::from_minutes(20).0 as i64);
    let signed = statement(&platform, begin, |_| {});
    let verdict = verify_statement(&signed, &policy(&platform, MEASUREMENT), begin).unwrap();
    assert_eq!((verdict.tier, verdict.holds_until), (Tier::Confidential, end));
}
