//! What Apple says about the Mac that a provider runs on.
//!
//! Certificates and objects travel as Apple made them, and are verified as received, so nothing here reads them.

use crate::limits::{CERTIFICATE_BYTES_MAX, CERTIFICATES_MAX, STATEMENT_BYTES_MAX};
use crate::record::{List, plain, record};

/// The name of Managed Device Attestation in a statement.
pub const APPLE_MDA_EVIDENCE: &str = "apple-mda/v1";
/// The name of App Attest in a statement.
pub const APPLE_APP_ATTEST_EVIDENCE: &str = "apple-app-attest/v1";
/// An attestation object: two certificates of about 1 KiB and a receipt of 4; the sample in Apple's "Attestation Object
/// Validation Guide" has 5,900 bytes.
const ATTESTATION_BYTES_MAX: usize = 12_288;
/// An assertion: a signature of at most 72 bytes, 37 of authenticator data, and what the system adds there.
const ASSERTION_BYTES_MAX: usize = 1_024;

record! {
    /// Evidence of Managed Device Attestation: a Mac that is managed was asked about the identity key.
    AppleMdaEvidence {
        /// The device's certificate, in DER, as Apple's server wrote it.
        1 device: Vec<u8> [CERTIFICATE_BYTES_MAX],
        /// Certificates between that one and Apple's root, in DER, in any order.
        2 intermediates: List<Vec<u8>> [CERTIFICATES_MAX, CERTIFICATE_BYTES_MAX],
    }
}

record! {
    /// Evidence of App Attest for one epoch.
    AppleAppAttestEvidence {
        /// The attestation object of the app's key, made once; its client data hash is SHA-256 of the identity's point.
        1 attestation: Vec<u8> [ATTESTATION_BYTES_MAX],
        /// An assertion of that key; its client data hash is the epoch's nonce.
        2 assertion: Vec<u8> [ASSERTION_BYTES_MAX],
    }
}

plain! {
    // They stand in a signed object, so its own signature covers what this release does not know.
    AppleMdaEvidence RefuseCritical STATEMENT_BYTES_MAX;
    AppleAppAttestEvidence RefuseCritical STATEMENT_BYTES_MAX;
}
