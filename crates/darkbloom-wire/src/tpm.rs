//! What a TPM 2.0 says about a provider, and who vouches that it is one.
//!
//! Structures of the TPM travel as it made them: big-endian, as in parts 2 and 3 of the TCG's TPM 2.0 Library. They are
//! hashed and verified as received, so nothing here reads them.

use darkbloom_types::{Digest, UnixMillis};

use crate::limits::{CERTIFICATE_BYTES_MAX, CERTIFICATES_MAX, RECEIPT_BYTES_MAX, STATEMENT_BYTES_MAX};
use crate::record::{List, nested, plain, record};

/// The name of this evidence in a statement.
pub const TPM_EVIDENCE: &str = "tpm2/v1";
/// Activators whose word may stand in one piece of evidence: the coordinator's and independent ones.
pub const ACTIVATIONS_MAX: usize = 4;
/// A `TPMT_PUBLIC` of a key on P-256 takes 88 bytes, one of RSA with 2,048 bits 316.
const PUBLIC_BYTES_MAX: usize = 512;
/// A `TPMS_ATTEST` of a certificate or quote takes under 200 bytes.
const ATTEST_BYTES_MAX: usize = 512;
/// Registers of one bank.
pub const PCRS_MAX: usize = 24;
/// Entries of a firmware's log about three registers: machines have 10 to 40.
pub const BOOT_EVENTS_MAX: usize = 96;
/// A `TPM2B_ID_OBJECT`: an HMAC and an encrypted digest, each with its length.
const CREDENTIAL_BYTES_MAX: usize = 132;
/// A seed that is encrypted to an RSA key of 4,096 bits.
const SEED_BYTES_MAX: usize = 512;

record! {
    /// One platform configuration register of the SHA-256 bank.
    Pcr {
        /// Which, 0 to 23.
        1 index: u32,
        /// Its value.
        2 value: [u8; 32],
    }
}
nested!(Pcr);

record! {
    /// An entry of the log that firmware keeps of what it extends registers with (TCG PC Client Platform Firmware Profile,
    /// section 10): of the SHA-256 bank, and nothing but the digest. What else a log says is in no register.
    BootEvent {
        /// The register.
        1 pcr: u32,
        /// What the register was extended with.
        2 digest: [u8; 32],
    }
}
nested!(BootEvent);

record! {
    /// Evidence of a TPM 2.0 for one epoch.
    TpmEvidence {
        /// The certificate of the endorsement key, in DER, as the maker wrote it.
        1 endorsement: Vec<u8> [CERTIFICATE_BYTES_MAX],
        /// Certificates between that one and the maker's root, in DER, in any order.
        2 intermediates: List<Vec<u8>> [CERTIFICATES_MAX, CERTIFICATE_BYTES_MAX],
        /// The attestation key: `TPMT_PUBLIC`.
        3 attestation_key: Vec<u8> [PUBLIC_BYTES_MAX],
        /// Signed [`Activation`]s: who saw that both keys are in one TPM.
        4 activations: List<Vec<u8>> [ACTIVATIONS_MAX, RECEIPT_BYTES_MAX],
        /// The identity key: `TPMT_PUBLIC`.
        5 identity_key: Vec<u8> [PUBLIC_BYTES_MAX],
        /// That the identity key is in the TPM: `TPMS_ATTEST` of `TPM2_Certify`, whose nonce is the epoch's.
        6 certified: Vec<u8> [ATTEST_BYTES_MAX],
        /// The attestation key's signature over it, r ‖ s.
        7 certified_signature: [u8; 64],
        /// What was booted: `TPMS_ATTEST` of `TPM2_Quote`, whose nonce is the epoch's.
        8 quoted: Vec<u8> [ATTEST_BYTES_MAX],
        /// The attestation key's signature over it, r ‖ s.
        9 quoted_signature: [u8; 64],
        /// The registers that were quoted, in ascending order.
        10 pcrs: List<Pcr> [PCRS_MAX],
        /// The firmware's log about registers 2, 4 and 7, in its order; empty where there is none.
        11 log: List<BootEvent> [BOOT_EVENTS_MAX],
    }
}

record! {
    /// An activator's word, signed by its key: at this time, a TPM that holds this endorsement key also held this
    /// attestation key (`TPM2_ActivateCredential`). Nobody else can check that later.
    Activation {
        /// The activator's public key: uncompressed SEC 1 point on P-256.
        1 activator: [u8; 65],
        /// SHA-256 of the endorsement key's certificate.
        2 endorsement: Digest,
        /// SHA-256 of the attestation key's `TPMT_PUBLIC`, which is its name without the two bytes that say so.
        3 attestation_key: Digest,
        /// When it was seen.
        4 made_at: UnixMillis,
        /// Until when it may be relied on.
        5 valid_until: UnixMillis,
    }
}

record! {
    /// Asks an activator for a credential that only the TPM with both keys can open.
    ActivationRequest {
        /// The certificate of the endorsement key, in DER.
        1 endorsement: Vec<u8> [CERTIFICATE_BYTES_MAX],
        /// Certificates between that one and the maker's root.
        2 intermediates: List<Vec<u8>> [CERTIFICATES_MAX, CERTIFICATE_BYTES_MAX],
        /// The attestation key: `TPMT_PUBLIC`.
        3 attestation_key: Vec<u8> [PUBLIC_BYTES_MAX],
        /// The credential's challenge and what the TPM found in it, to be answered with an [`Activation`]; absent in the
        /// first request, which is answered with the challenge.
        4 answer: Option<ActivationAnswer>,
    }
}

record! {
    /// A credential for one TPM.
    ActivationChallenge {
        /// The contents of a `TPM2B_ID_OBJECT`.
        1 credential: Vec<u8> [CREDENTIAL_BYTES_MAX],
        /// The seed, encrypted to the endorsement key.
        2 seed: Vec<u8> [SEED_BYTES_MAX],
        /// Until when it may be answered.
        3 until: UnixMillis,
    }
}

record! {
    /// What a TPM found in a credential.
    ActivationAnswer {
        /// The challenge's `until`.
        1 until: UnixMillis,
        /// What was in the credential.
        2 secret: [u8; 32],
    }
}
nested!(ActivationAnswer);

plain! {
    // It stands in a signed object, so its own signature covers what this release does not know.
    TpmEvidence RefuseCritical STATEMENT_BYTES_MAX;
    ActivationRequest Skip STATEMENT_BYTES_MAX;
    ActivationChallenge Skip RECEIPT_BYTES_MAX;
}
