//! Switches that turn single checks off, to see that each is what stops an attack.
//!
//! Owns the list of checks by name. It must never be linked into anything that ships: only the attack suite's second build
//! has it (`darkbloom-types` with the feature `weakened`), and a test looks for it in the program. In every other build
//! `darkbloom_types::armed!` is the word `true`.

#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// Every check that has a switch.
pub const CHECKS: &[&str] = &[
    "signature",
    "signature_low_s",
    "signature_domain",
    "critical_keys",
    "statement_network",
    "statement_expired",
    "statement_future",
    "statement_length",
    "statement_sealing_key",
    "statement_successions",
    "challenge_digest",
    "epoch_proof",
    "presence",
    "admits_tier",
    "admits_pinned_only",
    "activators_pinned_alone",
    "tpm_attestation_restricted",
    "tpm_key_bound",
    "tpm_identity_key",
    "tpm_certified_name",
    "tpm_nonce",
    "tpm_registers",
    "tpm_one_boot",
    "boot_log_replay",
    "boot_log_first",
    "snp_signature",
    "snp_report_data",
    "snp_guest_policy",
    "snp_level",
    "snp_chip",
    "snp_reserved",
    "snp_measurement",
    "snp_levels",
    "snp_aliases",
    "tdx_signature",
    "tdx_enclave_signature",
    "tdx_enclave_key",
    "tdx_enclave",
    "tdx_report_data",
    "tdx_attributes",
    "tdx_reserved",
    "tdx_certifier",
    "tdx_signer",
    "tdx_collateral",
    "tdx_collateral_time",
    "tdx_platform",
    "tdx_module",
    "tdx_level",
    "tdx_measurement",
    "revocation_list",
    "revocation_time",
    "revoked",
    "activation_subject",
    "activation_time",
    "activator_secret",
    "apple_mda_freshness",
    "apple_mda_sip",
    "apple_mda_secure_boot",
    "apple_mda_kernel_extensions",
    "apple_app_nonce",
    "apple_app_key",
    "apple_app_id",
    "apple_app_environment",
    "apple_app_assertion",
    "chain_root",
    "chain_signature",
    "chain_time",
    "chain_authority",
    "chain_purpose",
    "chain_critical",
    "seal_header",
    "seal_body",
    "seal_suite",
    "seal_network",
    "seal_time",
    "seal_epoch_over",
    "seal_replays",
    "answer_tag",
    "refusal_tag",
    "answer_order",
    "answer_after_end",
    "answer_count",
    "answer_acceptance",
    "session_one_acceptance",
    "receipt_transcript",
    "receipt_epoch",
    "receipt_output",
    "receipt_weights",
    "bill_charge",
    "bill_hold",
    "bill_operation",
    "charge_relayed",
    "charge_ceiling",
    "operation_settled_once",
    "budget",
    "standing_follows",
    "key_shared",
    "policy_gates",
    "challenge_missed",
    "succession_revoked",
    "succession_standing",
    "standing_stored",
    "failures_count",
    "weights_unchanged",
    "key_file_mode",
    "key_file_sealed",
    "key_file_in_the_open",
    "key_file_link",
    "tpm_record",
    "enclave_not_found",
    "enclave_data_protection",
    "enclave_token",
    "enclave_group",
    "enclave_self_test",
    "tpm_template_policy",
    "tpm_template_fixed",
    "process_not_dumpable",
    "process_no_core",
    "process_preloaded",
    "secret_pages",
];

/// The number of the check that is switched off; none below the number of checks.
static OFF: AtomicUsize = AtomicUsize::new(usize::MAX);
/// One attack at a time: what is switched off is so for the whole process.
static ONE: Mutex<()> = Mutex::new(());

fn number(name: &str) -> usize {
    let found = CHECKS.iter().position(|check| *check == name);
    found.unwrap_or_else(|| panic!("`{name}` is not in the list of checks"))
}

/// Whether the check of this name is made.
///
/// # Panics
/// When the list has no such check: a misspelt name would switch off nothing.
#[must_use]
pub fn armed(name: &str) -> bool {
    OFF.load(Ordering::SeqCst) != number(name)
}

/// Has nobody else switch anything off meanwhile.
pub fn alone<T>(attack: impl FnOnce() -> T) -> T {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    attack()
}

/// Does this while one check is not made, on any thread.
pub fn without<T>(name: &str, attack: impl FnOnce() -> T) -> T {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            OFF.store(usize::MAX, Ordering::SeqCst);
        }
    }
    OFF.store(number(name), Ordering::SeqCst);
    let _restore = Restore;
    attack()
}
