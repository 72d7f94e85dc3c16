//! What the evidence in a statement proves, and the claims that follow from it.

mod shadow;

use darkbloom_types::{Digest, Tier, UnixMillis};
use darkbloom_wire::{
    APPLE_APP_ATTEST_EVIDENCE, APPLE_MDA_EVIDENCE, Evidence, SNP_EVIDENCE, Statement, TDX_EVIDENCE, TPM_EVIDENCE,
    epoch_nonce, presence_nonce,
};

use crate::measurements::Measured;
use crate::snp::{SnpFindings, verify_snp};
use crate::statement::{Claim, ClaimSource, Freshness};
use crate::tdx::{TdxFindings, verify_tdx};
use crate::tpm::{ActivatorKind, HardwareTrust, TpmFindings, verify_tpm};

/// What comes of a statement's evidence.
pub(crate) struct Findings {
    /// What is proven, with what the verifier accepts of what was measured.
    pub tier: Tier,
    /// What is proven whatever is accepted.
    pub proven: Tier,
    /// What hardware measured.
    pub measured: Vec<Measured>,
    /// When somebody's word that it relies on ends, if that is so.
    pub until: Option<UnixMillis>,
}

/// What hardware says when it is asked, beside what it said when the epoch's keys were made: whoever once had an accepted
/// machine in his hands has what it said about keys that he took away, and nothing that it says now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// What is proven to everybody who believes the same makers, whatever they accept.
    pub proven: Tier,
    /// What hardware measured.
    pub measured: Vec<Measured>,
}

impl Default for Presence {
    /// Of a provider that was asked, and whose hardware said nothing.
    fn default() -> Self {
        Self { proven: Tier::SelfSigned, measured: Vec::new() }
    }
}

/// Verifies evidence that was made for a proof of presence over this digest, by whoever has the statement's identity.
#[must_use]
pub fn verify_presence(
    statement: &Statement,
    evidence: &[Evidence],
    challenge: &Digest,
    trust: &HardwareTrust,
    now: UnixMillis,
) -> Presence {
    let nonce = presence_nonce(challenge);
    let Findings { proven, measured, .. } = judge(statement, evidence, &nonce, trust, now, &mut Vec::new());
    Presence { proven, measured }
}

/// What is proven by a statement's evidence, and what hardware measured. Evidence that does not hold proves nothing and is
/// shown: the statement's other promises stand by themselves.
pub(crate) fn examine(
    statement: &Statement,
    trust: &HardwareTrust,
    now: UnixMillis,
    claims: &mut Vec<Claim>,
) -> Findings {
    let nonce = epoch_nonce(&statement.sealing_key, &statement.receipt_key, &statement.identity, statement.not_before);
    judge(statement, &statement.evidence.0, &nonce, trust, now, claims)
}

fn judge(
    statement: &Statement,
    evidence: &[Evidence],
    nonce: &Digest,
    trust: &HardwareTrust,
    now: UnixMillis,
    claims: &mut Vec<Claim>,
) -> Findings {
    let (mut until, mut proven, mut measured) = (Vec::new(), Tier::SelfSigned, Vec::new());
    let mut seen: Vec<&str> = Vec::new();
    for evidence in evidence {
        let format = evidence.format.as_str();
        // A machine has one of each: what else says to be of one costs nobody anything.
        let first = !seen.contains(&format);
        seen.push(format);
        match format {
            TPM_EVIDENCE if first => match verify_tpm(&evidence.bytes, &statement.identity, nonce, trust, now) {
                Ok(found) => {
                    claims.extend(tpm_claims(&found));
                    proven = Tier::Hardware;
                    until.push(found.activated_until);
                    measured.push(Measured::Tpm {
                        endorsement: found.endorsement,
                        registers: found.pcrs,
                        log: found.log,
                    });
                }
                Err(error) => claims.push(not_proven("tpm_not_proven", error.to_string())),
            },
            SNP_EVIDENCE if first => match verify_snp(&evidence.bytes, nonce, &trust.amd_roots, now) {
                Ok(found) => {
                    claims.extend(snp_claims(&found));
                    measured.push(Measured::Snp(found));
                }
                Err(error) => claims.push(not_proven("snp_not_proven", error.to_string())),
            },
            TDX_EVIDENCE if first => match verify_tdx(&evidence.bytes, nonce, &trust.intel_roots, now) {
                Ok(found) => {
                    claims.extend(tdx_claims(&found));
                    until.push(found.until);
                    measured.push(Measured::Tdx(found));
                }
                Err(error) => claims.push(not_proven("tdx_not_proven", error.to_string())),
            },
            // Claims alone come back: whatever this evidence says, no tier can come of it.
            APPLE_MDA_EVIDENCE | APPLE_APP_ATTEST_EVIDENCE if first => {
                claims.extend(shadow::apple(evidence, statement, nonce, trust, now));
            }
            // Formats without a verifier here are shown and raise no tier.
            _ => claims.push(Claim {
                name: "evidence_not_verified",
                value: evidence.format.clone(),
                source: ClaimSource::Provider,
                freshness: Freshness::Unstated,
            }),
        }
    }
    let mut tier = proven;
    if let Some((accepted, release)) = trust.measurements.judge(&measured) {
        tier = tier.max(accepted);
        claims.push(Claim {
            name: "measured_release",
            value: release.to_owned(),
            source: ClaimSource::Verified,
            freshness: Freshness::Epoch,
        });
    }
    Findings { tier, proven, measured, until: until.into_iter().min() }
}

fn not_proven(name: &'static str, why: String) -> Claim {
    Claim { name, value: why, source: ClaimSource::Verified, freshness: Freshness::Epoch }
}

/// What hardware says about this epoch.
fn by_hardware(name: &'static str, value: String) -> Claim {
    Claim { name, value, source: ClaimSource::Hardware, freshness: Freshness::Epoch }
}

fn tpm_claims(found: &TpmFindings) -> Vec<Claim> {
    let held = if found.policy {
        "the identity key is in a TPM, cannot leave it, and signs only under a policy"
    } else {
        "the identity key is in a TPM and cannot leave it"
    };
    let (who, source) = match found.activator {
        ActivatorKind::Independent => ("an activator that is pinned", ClaimSource::IndependentActivator),
        ActivatorKind::Coordinator => ("the network's own activator", ClaimSource::CoordinatorActivator),
    };
    let registers: Vec<_> =
        found.pcrs.iter().map(|(pcr, value)| format!("{pcr}:{}", hex::encode(&value[..4]))).collect();
    let mut claims = vec![
        Claim {
            name: "tpm_maker",
            value: format!("the TPM's certificate {} leads to {}", found.endorsement, found.root),
            source: ClaimSource::Verified,
            freshness: Freshness::Unstated,
        },
        Claim {
            name: "tpm_attestation_key",
            value: format!("{who} saw the attestation key in that TPM"),
            source,
            freshness: Freshness::Seen(found.activated_at),
        },
        by_hardware("tpm_identity_key", held.to_owned()),
        by_hardware("tpm_boot", registers.join(" ")),
    ];
    if let Some(on) = found.log.secure_boot {
        claims.push(by_hardware("secure_boot", if on { "on" } else { "off" }.to_owned()));
    }
    if let Some(booted) = &found.log.booted {
        let booted: Vec<_> = booted.iter().map(hex::encode).collect();
        claims.push(by_hardware("booted", booted.join(" ")));
    }
    claims
}

fn snp_claims(found: &SnpFindings) -> Vec<Claim> {
    let mut claims = vec![
        Claim {
            name: "snp_chip",
            value: format!("a {} processor, whose certificate leads to {}", found.product.name(), found.root),
            source: ClaimSource::Verified,
            freshness: Freshness::Unstated,
        },
        by_hardware("snp_levels", found.levels.to_string()),
        by_hardware("snp_measurement", hex::encode(found.measurement)),
        by_hardware("snp_policy", found.policy.words()),
        by_hardware("snp_platform", found.platform.words()),
    ];
    if found.host_data != [0; 32] {
        claims.push(by_hardware("snp_host_data", hex::encode(found.host_data)));
    }
    claims
}

fn tdx_claims(found: &TdxFindings) -> Vec<Claim> {
    let registers = found.registers.map(hex::encode).join(" ");
    let against =
        if found.advisories.is_empty() { String::new() } else { format!(": {}", found.advisories.join(", ")) };
    let mut claims = vec![
        Claim {
            name: "tdx_platform",
            value: format!(
                "a platform of the line {}, whose certificate leads to {}",
                hex::encode(found.platform),
                found.root
            ),
            source: ClaimSource::Verified,
            freshness: Freshness::Unstated,
        },
        Claim {
            name: "tdx_levels",
            value: format!("{}, says Intel's evaluation {}{against}", found.status.name(), found.evaluation),
            source: ClaimSource::Verified,
            freshness: Freshness::Unstated,
        },
        by_hardware("tdx_measurement", hex::encode(found.measurement)),
        by_hardware("tdx_registers", registers),
    ];
    if found.config != [0; 48] {
        claims.push(by_hardware("tdx_config", hex::encode(found.config)));
    }
    claims
}
