//! What an Intel processor says about the encrypted machine that a provider runs in, and what Intel says about processors.

use crate::limits::{CERTIFICATE_BYTES_MAX, STATEMENT_BYTES_MAX};
use crate::record::{plain, record};

/// The name of this evidence in a statement.
pub const TDX_EVIDENCE: &str = "tdx/v1";
/// A quote with its chain of certificates: those of today have 5 KiB.
pub const TDX_QUOTE_BYTES_MAX: usize = 8_192;
/// What Intel says about a line of platforms: up to 6 KiB so far, and more with each level that comes.
pub const TDX_TCB_INFO_BYTES_MAX: usize = 12_288;
/// What Intel says about its quoting enclave.
pub const TDX_QE_IDENTITY_BYTES_MAX: usize = 2_048;
/// A list of revoked certificates: 3.3 KiB so far.
pub const TDX_CRL_BYTES_MAX: usize = 6_144;

record! {
    /// Evidence of Intel TDX for one epoch.
    TdxEvidence {
        /// The quote as the quoting enclave made it, with the platform's certificates in it; its `REPORTDATA` is the epoch's
        /// nonce and 32 zeros.
        1 quote: Vec<u8> [TDX_QUOTE_BYTES_MAX],
        /// What Intel says about platforms of this kind: the value of `tcbInfo`, byte for byte as it was signed.
        2 tcb_info: Vec<u8> [TDX_TCB_INFO_BYTES_MAX],
        /// Its signature, `r ‖ s`.
        3 tcb_info_signature: [u8; 64],
        /// What Intel says about its quoting enclave: the value of `enclaveIdentity`, byte for byte as it was signed.
        4 qe_identity: Vec<u8> [TDX_QE_IDENTITY_BYTES_MAX],
        /// Its signature, `r ‖ s`.
        5 qe_identity_signature: [u8; 64],
        /// The certificate of the key that signed both, in DER.
        6 signer: Vec<u8> [CERTIFICATE_BYTES_MAX],
        /// Certificates of platforms that Intel took back, in DER.
        7 platform_crl: Vec<u8> [TDX_CRL_BYTES_MAX],
        /// Certificates that Intel's root took back, in DER.
        8 root_crl: Vec<u8> [TDX_CRL_BYTES_MAX],
    }
}

plain! {
    // It stands in a signed object, so its own signature covers what this release does not know.
    TdxEvidence RefuseCritical STATEMENT_BYTES_MAX;
}
