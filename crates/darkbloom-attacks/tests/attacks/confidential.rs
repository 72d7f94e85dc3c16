//! Attacks on evidence of encrypted machines. The attacker has a chip of his own whose root the verifier believes, as if he
//! had taken a genuine one's key: each check has to hold by itself.

use darkbloom_attacks::attacks;
use darkbloom_attest::{Measured, Measurements, verify_snp};
use darkbloom_types::{Digest, Tier};
use darkbloom_wire::{SNP_REPORT_BYTES, SnpEvidence};

use crate::chip::{Chip, LEVELS, MEASUREMENT};
use crate::forge::NOW;

const NONCE: Digest = Digest([5; 32]);

/// Whether a verifier who believes the chip's root takes this evidence.
fn taken(chip: &Chip, evidence: &SnpEvidence) -> bool {
    verify_snp(&evidence.encode(), &NONCE, &chip.roots(), NOW).is_ok()
}

/// Whether a report is taken that the chip signed after this change.
fn signed_with(change: impl Fn(&mut [u8; SNP_REPORT_BYTES])) -> bool {
    let (chip, mut report) = (Chip::new(), Chip::report(&Chip::asked(&NONCE)));
    change(&mut report);
    taken(&chip, &chip.evidence(report))
}

/// Whether a guest reaches a tier where this measurement and this microcode are what is accepted, on a platform that says this
/// of itself.
fn accepted(measurement: u8, microcode: u8, platform: u8) -> bool {
    let (chip, mut report) = (Chip::new(), Chip::report(&Chip::asked(&NONCE)));
    report[0x40] = platform;
    let evidence = chip.evidence(report);
    let found = verify_snp(&evidence.encode(), &NONCE, &chip.roots(), NOW).unwrap();
    let [bootloader, tee, snp, _] = LEVELS;
    let text = format!(
        "[[accepted]]\nrelease = \"guest\"\n[accepted.snp]\nproduct = \"genoa\"\nmeasurement = \"{}\"\n\
         minimum = {{ bootloader = {bootloader}, tee = {tee}, snp = {snp}, microcode = {microcode} }}\n",
        format!("{measurement:02x}").repeat(48)
    );
    let judged = Measurements::parse(&text).unwrap();
    judged.judge(&[Measured::Snp(found)]).is_some_and(|(tier, _)| tier == Tier::Confidential)
}

attacks! {
    /// Anybody can write a report.
    attack_a_report_is_written_without_a_chip against "snp_signature": || {
        let chip = Chip::new();
        let mut evidence = chip.evidence(Chip::report(&Chip::asked(&NONCE)));
        evidence.report[0x90] ^= 1;
        taken(&chip, &evidence)
    };
    /// The report of a guest whose owner asked about nothing, or about another epoch's keys.
    attack_a_report_about_other_keys_is_shown against "snp_report_data": || {
        signed_with(|report| report[0x50] ^= 1)
    };
    /// The second half of what was asked could be another program's question.
    attack_a_report_about_more_than_these_keys_is_shown against "snp_report_data": || {
        signed_with(|report| report[0x8f] = 1)
    };
    attack_a_guest_that_may_be_debugged_is_shown against "snp_guest_policy": || {
        signed_with(|report| report[0x0a] |= 1 << 3)
    };
    attack_a_guest_that_may_be_moved_is_shown against "snp_guest_policy": || {
        signed_with(|report| report[0x0a] |= 1 << 2)
    };
    /// A part of the guest that the guest's own kernel does not trust asks for a report.
    attack_a_report_is_asked_for_at_a_lower_privilege against "snp_level": || {
        signed_with(|report| report[0x30] = 2)
    };
    attack_a_report_of_another_chip_is_shown against "snp_chip": || {
        signed_with(|report| report[0x1a0] ^= 1)
    };
    /// Firmware was taken back to an older level, whose key another certificate is of.
    attack_a_report_of_older_firmware_is_shown against "snp_chip": || {
        signed_with(|report| report[0x180] -= 1)
    };
    /// Newer firmware may say something there that changes what the rest means.
    attack_a_reserved_field_is_filled against "snp_reserved": || {
        signed_with(|report| report[0x29f] = 1)
    };
    attack_a_reserved_level_is_filled against "snp_reserved": || {
        signed_with(|report| report[0x3a] = 1)
    };
    attack_a_guest_of_the_owners_own_making_is_launched against "snp_measurement": || accepted(!MEASUREMENT[0], LEVELS[3], 0x20);
    attack_a_guest_runs_on_firmware_with_known_holes against "snp_levels": || accepted(MEASUREMENT[0], LEVELS[3] + 1, 0x20);
    /// Two addresses mean one place of memory: what the owner writes to one, the guest reads from the other.
    attack_a_guest_runs_in_memory_with_aliases against "snp_aliases": || accepted(MEASUREMENT[0], LEVELS[3], 0);
}

#[test]
fn the_evidence_here_is_good_when_nobody_touches_it() {
    assert!(signed_with(|_| {}));
    assert!(accepted(MEASUREMENT[0], LEVELS[3], 0x20));
}
