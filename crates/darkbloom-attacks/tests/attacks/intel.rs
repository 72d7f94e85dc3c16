//! Attacks on evidence of Intel's encrypted machines. The attacker has a platform of his own whose root the verifier believes,
//! as if he had taken a genuine one's keys: each check has to hold by itself.

use darkbloom_attacks::attacks;
use darkbloom_attest::{Measured, Measurements, Policy, verify_presence, verify_statement, verify_tdx};
use darkbloom_types::{Digest, Tier};
use darkbloom_wire::{Evidence, TDX_EVIDENCE, TdxEvidence, epoch_nonce, presence_nonce};

use crate::forge::{self, NOW, statement};
use crate::platform::{Draft, MEASUREMENT, Platform, REGISTERS, key};
use crate::statements::policy;

const NONCE: Digest = Digest([5; 32]);
/// What a provider is asked to prove now.
const CHALLENGE: Digest = Digest([6; 32]);
/// Where what a quoting enclave's report is about stands in a quote of version 4: behind header, report, length, signature, key,
/// and what kind of proof it is.
const ENCLAVE: usize = 48 + 584 + 4 + 128 + 6;

fn taken(platform: &Platform, evidence: &TdxEvidence) -> bool {
    verify_tdx(&evidence.encode(), &NONCE, &platform.roots(), NOW).is_ok()
}

/// Whether evidence is taken that was changed before all of it was signed.
fn signed_with(change: impl Fn(&mut Draft)) -> bool {
    let (platform, mut draft) = (Platform::new(), Draft::about(&Draft::asked(&NONCE)));
    change(&mut draft);
    taken(&platform, &platform.evidence(&draft))
}

/// Whether evidence is taken that was changed afterwards.
fn changed(change: impl Fn(&mut TdxEvidence)) -> bool {
    let platform = Platform::new();
    let mut evidence = platform.evidence(&Draft::about(&Draft::asked(&NONCE)));
    change(&mut evidence);
    taken(&platform, &evidence)
}

/// The list in which this machine stands, in this evaluation or a later one.
fn machine(evaluation: u32) -> String {
    let hex = |bytes: &[u8; 48]| bytes.map(|byte| format!("{byte:02x}")).concat();
    let [first, second, third, _] = &REGISTERS;
    format!(
        "accepted = [{{ release = \"machine\", tdx = {{ measurement = \"{}\", evaluation = {evaluation}, \
         registers = {{ 0 = \"{}\", 1 = \"{}\", 2 = \"{}\" }} }} }}]",
        hex(&MEASUREMENT),
        hex(first),
        hex(second),
        hex(third),
    )
}

/// Whether a machine reaches a tier where this one is what is accepted, in this evaluation or a later one.
fn accepted(evaluation: u32, change: impl Fn(&mut Draft)) -> bool {
    let (platform, mut draft) = (Platform::new(), Draft::about(&Draft::asked(&NONCE)));
    change(&mut draft);
    let evidence = platform.evidence(&draft).encode();
    let found = verify_tdx(&evidence, &NONCE, &platform.roots(), NOW).unwrap();
    let judged = Measurements::parse(&machine(evaluation)).unwrap();
    judged.judge(&[Measured::Tdx(found)]).is_some_and(|(tier, _)| tier == Tier::Confidential)
}

/// Whether an operator takes a provider for confidential whose machine said this when it was asked about `CHALLENGE`.
fn present(asked: &Digest) -> bool {
    let platform = Platform::new();
    let quote = |nonce: &Digest| {
        let bytes = platform.evidence(&Draft::about(&Draft::asked(nonce))).encode();
        vec![Evidence { format: TDX_EVIDENCE.to_owned(), bytes }]
    };
    let mut own = statement();
    own.evidence = quote(&epoch_nonce(&own.sealing_key, &own.receipt_key, &own.identity, own.not_before)).into();
    let mut policy = policy(Tier::Confidential);
    policy.hardware.intel_roots = platform.roots().into();
    let mut verdict = verify_statement(&own.sign(&forge::key(7).0).unwrap(), &policy, NOW).unwrap();
    let now = quote(asked);
    verdict.presence = Some(verify_presence(&verdict.statement, &now, &CHALLENGE, &policy.hardware, NOW));
    let operators = Policy::parse(&format!("[measurements]\n{}", machine(17))).unwrap();
    operators.assess(&verdict).tier == Tier::Confidential
}

attacks! {
    /// Who once had an accepted machine had it make evidence for epochs to come, whose keys he keeps elsewhere.
    attack_evidence_that_was_made_in_advance_is_shown_alone against "presence": || present(&Digest([0; 32]));
    attack_what_a_machine_said_to_an_earlier_challenge_is_replayed against "presence": || {
        present(&presence_nonce(&Digest([8; 32])))
    };
    /// Anybody can write a quote.
    attack_a_quote_is_written_without_a_platform against "tdx_signature": || {
        changed(|evidence| evidence.quote[48 + 136] ^= 1)
    };
    /// An enclave of somebody else's calls itself the quoting enclave, on a platform that is genuine.
    attack_a_quoting_enclaves_report_is_written_without_a_platform against "tdx_enclave_signature": || {
        // A byte that nothing else looks at: the measurement of the enclave.
        changed(|evidence| evidence.quote[ENCLAVE + 64] ^= 1)
    };
    /// The genuine quoting enclave's report, and a key that it never said anything about.
    attack_a_quote_is_signed_by_a_key_of_the_attackers against "tdx_enclave_key": || {
        signed_with(|draft| draft.forger = Some(key()))
    };
    attack_another_makers_enclave_makes_quotes against "tdx_enclave": || {
        signed_with(|draft| draft.enclave[128] ^= 1)
    };
    attack_another_enclave_of_intels_makes_quotes against "tdx_enclave": || {
        signed_with(|draft| draft.enclave[256] = 1)
    };
    /// What runs in it can be read and changed by whoever has the machine.
    attack_a_quoting_enclave_is_debugged against "tdx_enclave": || {
        signed_with(|draft| draft.enclave[48] |= 2)
    };
    attack_a_quote_about_other_keys_is_shown against "tdx_report_data": || {
        signed_with(|draft| draft.report[520] ^= 1)
    };
    attack_a_quote_about_more_than_these_keys_is_shown against "tdx_report_data": || {
        signed_with(|draft| draft.report[583] = 1)
    };
    attack_a_machine_that_may_be_debugged_is_shown against "tdx_attributes": || {
        signed_with(|draft| draft.report[120] |= 1)
    };
    attack_a_machine_that_may_be_moved_is_shown against "tdx_attributes": || {
        signed_with(|draft| draft.report[123] |= 1 << 5)
    };
    /// The owner takes pages away, and the machine takes what follows for its own fault.
    attack_a_machine_that_may_be_interrupted_is_shown against "tdx_attributes": || {
        signed_with(|draft| draft.report[123] = 0)
    };
    /// A later module may say something there that changes what the rest means.
    attack_an_unknown_attribute_is_set against "tdx_reserved": || {
        signed_with(|draft| draft.report[125] = 1)
    };
    attack_a_machine_that_serves_it_is_shown against "tdx_reserved": || {
        let platform = Platform::new();
        let mut draft = Draft::about(&Draft::asked(&NONCE)).newer();
        draft.report[647] = 1;
        taken(&platform, &platform.evidence(&draft))
    };
    /// Intel's root certifies keys for other things too.
    attack_a_platform_is_certified_by_another_of_intels_keys against "tdx_certifier": || {
        let platform = Platform::certified_by("Intel SGX Something CA", "Intel SGX TCB Signing");
        taken(&platform, &platform.evidence(&Draft::about(&Draft::asked(&NONCE))))
    };
    attack_levels_are_signed_by_another_of_intels_keys against "tdx_signer": || {
        let platform = Platform::certified_by("Intel SGX PCK Platform CA", "Intel SGX Something");
        taken(&platform, &platform.evidence(&Draft::about(&Draft::asked(&NONCE))))
    };
    attack_levels_are_written_by_the_attacker against "tdx_collateral": || {
        changed(|evidence| {
            let text = String::from_utf8(evidence.tcb_info.clone()).unwrap();
            evidence.tcb_info = text.replace("OutOfDate", "UpToDate").into_bytes();
        })
    };
    attack_the_quoting_enclaves_identity_is_written_by_the_attacker against "tdx_collateral": || {
        changed(|evidence| {
            let text = String::from_utf8(evidence.qe_identity.clone()).unwrap();
            evidence.qe_identity = text.replace("\"isvsvn\":4", "\"isvsvn\":1").into_bytes();
        })
    };
    /// A year ago nothing was known against this firmware.
    attack_levels_of_long_ago_are_shown against "tdx_collateral_time": || {
        signed_with(|draft| draft.levels = draft.levels.replace("2029-01-01", "2027-03-01"))
    };
    attack_levels_of_another_line_of_platforms_are_shown against "tdx_platform": || {
        signed_with(|draft| draft.levels = draft.levels.replace("B0C06F", "90C06F"))
    };
    attack_a_module_of_somebody_elses_runs against "tdx_module": || {
        signed_with(|draft| draft.report[64] = 1)
    };
    /// Firmware of this level gave its keys away.
    attack_a_platform_of_a_revoked_level_is_shown against "tdx_level": || {
        signed_with(|draft| draft.levels = draft.levels.replacen("UpToDate", "Revoked", 2))
    };
    attack_a_machine_runs_on_a_platform_with_known_holes against "tdx_level": || {
        accepted(17, |draft| draft.report[2] = 2)
    };
    /// Before the last evaluation nothing was known against it, and Intel's word of then still counts.
    attack_an_older_evaluation_is_shown against "tdx_level": || accepted(18, |_| {});
    attack_a_machine_of_the_owners_own_making_is_launched against "tdx_measurement": || {
        accepted(17, |draft| draft.report[136] ^= 1)
    };
    attack_another_kernel_is_started_by_the_firmware_that_is_accepted against "tdx_measurement": || {
        accepted(17, |draft| draft.report[376] ^= 1)
    };
    attack_a_list_of_revocations_is_written_by_the_attacker against "revocation_list": || {
        let another = Platform::new().evidence(&Draft::about(&Draft::asked(&NONCE)));
        changed(|evidence| evidence.platform_crl.clone_from(&another.platform_crl))
    };
    attack_a_list_of_revocations_of_long_ago_is_shown against "revocation_time": || {
        signed_with(|draft| draft.year = 2024)
    };
    attack_a_platform_whose_key_is_out_is_shown against "revoked": || signed_with(Draft::revoke_platform);
    attack_a_certifier_whose_key_is_out_certifies_a_platform against "revoked": || signed_with(Draft::revoke_certifier);
    attack_a_key_that_is_out_signs_levels against "revoked": || signed_with(Draft::revoke_signer);
}

#[test]
fn the_evidence_here_is_good_when_nobody_touches_it() {
    assert!(signed_with(|_| {}));
    assert!(changed(|_| {}));
    assert!(accepted(17, |_| {}));
    assert!(present(&presence_nonce(&CHALLENGE)));
    let (platform, newer) = (Platform::new(), Draft::about(&Draft::asked(&NONCE)).newer());
    assert!(taken(&platform, &platform.evidence(&newer)));
}
