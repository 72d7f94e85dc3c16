//! Statements with evidence of an encrypted machine: what it raises, for whom, and what stays undefended.
#![allow(clippy::unwrap_used, reason = "tests, also in what their cases share")]

use std::sync::Arc;

use darkbloom_attest::{
    Claim, ClaimSource, Defence, HardwareTrust, Measured, Measurements, TrustPolicy, Verdict, verify_statement,
};
use darkbloom_types::{Digest, NetworkId, Tier, UnixMillis};
use darkbloom_wire::{Evidence, SNP_EVIDENCE};

#[allow(dead_code, reason = "other tests need more of it")]
#[path = "shared/chip.rs"]
mod chip;
use chip::{Chip, MEASUREMENT};
#[path = "shared/machine.rs"]
mod machine;
use machine::statement;

/// In the middle of 2027.
const NOW: UnixMillis = UnixMillis(1_814_400_000_000);

/// Evidence about this epoch.
fn about(chip: &Chip, nonce: &Digest) -> Evidence {
    let evidence = chip.evidence(Chip::report(&Chip::asked(nonce)));
    Evidence { format: SNP_EVIDENCE.to_owned(), bytes: evidence.encode() }
}

fn policy(chip: Option<&Chip>, accepted: Option<[u8; 48]>) -> TrustPolicy {
    let mut hardware = HardwareTrust::default();
    if let Some(chip) = chip {
        hardware.amd_roots = Arc::new(chip.roots());
    }
    if let Some(measurement) = accepted {
        let text = format!(
            "[[accepted]]\nrelease = \"guest-3\"\nsnp = {{ product = \"genoa\", measurement = \"{}\", minimum = {{ bootloader = 0, tee = 0, snp = 0, microcode = 0 }} }}",
            hex::encode(measurement)
        );
        hardware.measurements = Arc::new(Measurements::parse(&text).unwrap());
    }
    TrustPolicy { network: NetworkId([7; 32]), tier_min: Tier::Hardware, pinned: Default::default(), hardware }
}

fn claim<'a>(verdict: &'a Verdict, name: &str) -> Option<&'a Claim> {
    verdict.claims.iter().find(|claim| claim.name == name)
}

#[test]
fn a_guest_that_the_verifier_accepts_is_confidential() {
    let chip = Chip::new();
    let signed = statement(NOW, |nonce| vec![about(&chip, nonce)]);
    let policy = policy(Some(&chip), Some(MEASUREMENT));
    let verdict = verify_statement(&signed, &policy, NOW).unwrap();
    assert_eq!((verdict.tier, verdict.proven), (Tier::Confidential, Tier::SelfSigned));
    assert!(policy.admits(&verdict));
    assert!(matches!(&verdict.measured[..], [Measured::Snp(found)] if found.measurement == MEASUREMENT));
    assert_eq!(claim(&verdict, "measured_release").unwrap().value, "guest-3");
    let measured = claim(&verdict, "snp_measurement").unwrap();
    assert_eq!((measured.value.clone(), measured.source), (hex::encode(MEASUREMENT), ClaimSource::Hardware));
    let undefended = verdict.undefended();
    assert_eq!(undefended.owner_root, Defence::Defended);
    assert_eq!(undefended.owner_physical_access, Defence::Partly);
    assert_eq!(undefended.dishonest_coordinator, Defence::Defended, "no activator's word is needed");
}

#[test]
fn a_guest_that_nobody_accepts_proves_no_more_than_its_key() {
    let chip = Chip::new();
    let signed = statement(NOW, |nonce| vec![about(&chip, nonce)]);
    for accepted in [None, Some([0x11; 48])] {
        let policy = policy(Some(&chip), accepted);
        let verdict = verify_statement(&signed, &policy, NOW).unwrap();
        assert_eq!((verdict.tier, verdict.proven), (Tier::SelfSigned, Tier::SelfSigned));
        assert!(!policy.admits(&verdict));
        assert!(claim(&verdict, "snp_measurement").is_some(), "it is shown all the same");
        assert!(claim(&verdict, "measured_release").is_none());
    }
}

#[test]
fn evidence_of_another_maker_or_another_epoch_is_shown_and_raises_nothing() {
    let chip = Chip::new();
    let signed = statement(NOW, |nonce| vec![about(&chip, nonce)]);
    // The roots that ship are AMD's, and this chip is nobody's.
    let verdict = verify_statement(&signed, &policy(None, Some(MEASUREMENT)), NOW).unwrap();
    assert_eq!(verdict.tier, Tier::SelfSigned);
    assert!(claim(&verdict, "snp_not_proven").unwrap().value.contains("none of the roots"));
    let other = statement(NOW, |_| vec![about(&chip, &Digest([4; 32]))]);
    let verdict = verify_statement(&other, &policy(Some(&chip), Some(MEASUREMENT)), NOW).unwrap();
    assert_eq!(verdict.tier, Tier::SelfSigned);
    assert!(claim(&verdict, "snp_not_proven").unwrap().value.contains("for another epoch"));
}

#[test]
fn one_report_is_looked_at() {
    let (chip, another) = (Chip::new(), Chip::new());
    let signed = statement(NOW, |nonce| vec![about(&another, nonce), about(&chip, nonce)]);
    let verdict = verify_statement(&signed, &policy(Some(&chip), Some(MEASUREMENT)), NOW).unwrap();
    assert_eq!(verdict.tier, Tier::SelfSigned, "the second costs nobody anything");
    assert_eq!(claim(&verdict, "evidence_not_verified").unwrap().value, SNP_EVIDENCE);
}
