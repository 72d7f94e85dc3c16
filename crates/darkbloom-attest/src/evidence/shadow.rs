//! Evidence that is shown and raises no tier, because nobody has seen this code verify what a real machine said.
//!
//! That is how it is built, not what a check says: what comes from here is claims. A tier is made of [`super::Findings`]'s
//! tiers and of [`crate::Measured`], and none of these can be made of a claim.

use darkbloom_types::{Digest, UnixMillis};
use darkbloom_wire::{APPLE_MDA_EVIDENCE, Evidence, Statement};

use super::{by_hardware, not_proven};
use crate::apple::{AppleAppAttestFindings, AppleMdaFindings, verify_apple_app_attest, verify_apple_mda};
use crate::statement::{Claim, ClaimSource, Freshness};
use crate::tpm::HardwareTrust;

/// What Apple's evidence says, of either kind.
pub(super) fn apple(
    evidence: &Evidence,
    statement: &Statement,
    nonce: &Digest,
    trust: &HardwareTrust,
    now: UnixMillis,
) -> Vec<Claim> {
    let (identity, bytes) = (&statement.identity, &evidence.bytes);
    let shown = if evidence.format == APPLE_MDA_EVIDENCE {
        verify_apple_mda(bytes, identity, &trust.apple_enterprise_roots, now)
            .map(|found| mda_claims(&found))
            .map_err(|error| not_proven("apple_mda_not_proven", error.to_string()))
    } else {
        verify_apple_app_attest(bytes, identity, nonce, trust, now)
            .map(|found| app_attest_claims(&found))
            .map_err(|error| not_proven("apple_app_attest_not_proven", error.to_string()))
    };
    match shown {
        Ok(mut claims) => {
            claims.push(in_shadow(&evidence.format));
            claims
        }
        Err(not_proven) => vec![not_proven],
    }
}

/// What everybody has to know about the claims beside it.
fn in_shadow(format: &str) -> Claim {
    let value =
        format!("evidence {format} is shown and raises no tier: none of a real Mac has been verified by this code");
    Claim { name: "shadow", value, source: ClaimSource::Verified, freshness: Freshness::Unstated }
}

fn by_apple(name: &'static str, value: String, seen: UnixMillis) -> Claim {
    Claim { name, value, source: ClaimSource::Hardware, freshness: Freshness::Seen(seen) }
}

fn chain(name: &'static str, value: String) -> Claim {
    Claim { name, value, source: ClaimSource::Verified, freshness: Freshness::Unstated }
}

fn mda_claims(found: &AppleMdaFindings) -> Vec<Claim> {
    let seen = |name, value: &str| by_apple(name, value.to_owned(), found.made_at);
    vec![
        chain("apple_mda", format!("the Mac's certificate leads to {}", found.root)),
        seen("apple_mda_identity_key", "a managed Mac asked Apple about this identity key"),
        seen("apple_sip", "on"),
        seen("apple_secure_boot", "Full Security"),
        seen("apple_kernel_extensions", "none of others"),
        seen("apple_os_version", &found.os_version),
        seen("apple_sepos_version", &found.sepos_version),
    ]
}

fn app_attest_claims(found: &AppleAppAttestFindings) -> Vec<Claim> {
    let access_control = if found.access_control {
        "the certificate says what must be so for the app's key to sign; that is not interpreted"
    } else {
        "the certificate does not say what must be so for the app's key to sign"
    };
    vec![
        chain("apple_app_attest", format!("the certificate of the app's key leads to {}", found.root)),
        by_apple(
            "apple_app",
            format!("an instance of {} asked Apple about this identity key", found.app),
            found.certified_at,
        ),
        by_apple("apple_app_access_control", access_control.to_owned(), found.certified_at),
        by_hardware("apple_app_assertion", "the app's key signed for this epoch".to_owned()),
    ]
}
