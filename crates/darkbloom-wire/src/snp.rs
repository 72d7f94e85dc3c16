//! What an AMD processor says about the encrypted machine that a provider runs in.

use crate::limits::{CERTIFICATE_BYTES_MAX, CERTIFICATES_MAX, STATEMENT_BYTES_MAX};
use crate::record::{List, plain, record};

/// The name of this evidence in a statement.
pub const SNP_EVIDENCE: &str = "sev-snp/v1";
/// An attestation report (SEV-SNP Firmware ABI, 56860, table "ATTESTATION_REPORT").
pub const SNP_REPORT_BYTES: usize = 1_184;

record! {
    /// Evidence of SEV-SNP for one epoch.
    SnpEvidence {
        /// The report as the processor made it; its `REPORT_DATA` is the epoch's nonce and 32 zeros.
        1 report: Vec<u8> [SNP_REPORT_BYTES],
        /// The certificate of the chip's key (VCEK), in DER, as AMD wrote it.
        2 chip: Vec<u8> [CERTIFICATE_BYTES_MAX],
        /// Certificates between that one and AMD's root, in DER, in any order.
        3 intermediates: List<Vec<u8>> [CERTIFICATES_MAX, CERTIFICATE_BYTES_MAX],
    }
}

plain! {
    // It stands in a signed object, so its own signature covers what this release does not know.
    SnpEvidence RefuseCritical STATEMENT_BYTES_MAX;
}
