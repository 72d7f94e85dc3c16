//! Endorsement keys as makers of TPMs make and certify them (TCG EK Credential Profile 2.5).

use tpm2_protocol::basic::{TpmUint16, TpmUint32};
use tpm2_protocol::data::{
    Tpm2bDigest, Tpm2bEccParameter, Tpm2bPublic, Tpm2bPublicKeyRsa, TpmAlgId, TpmEccCurve, TpmaObject, TpmsEccParms,
    TpmsEccPoint, TpmsRsaParms, TpmtEccScheme, TpmtKdfScheme, TpmtPublic, TpmtRsaScheme, TpmtSymDefObject,
    TpmuPublicId, TpmuPublicParms, TpmuSymKeyBits, TpmuSymMode,
};

use super::commands::{FITS, Handle};

/// Whoever may use the endorsement hierarchy may use the key (annex B.3).
const POLICY_A: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
/// The same, or whoever an index of the platform names, with SHA-384 (annex B.6). These keys can be used with their empty
/// password too.
const POLICY_B: [u8; 48] = [
    0xb2, 0x6e, 0x7d, 0x28, 0xd1, 0x1a, 0x50, 0xbc, 0x53, 0xd8, 0x82, 0xbc, 0xf5, 0xfd, 0x3a, 0x1a, 0x07, 0x41, 0x48,
    0xbb, 0x35, 0xd3, 0xb4, 0xe4, 0xcb, 0x1c, 0x0a, 0xd9, 0xbd, 0xe4, 0x19, 0xca, 0xcb, 0x47, 0xba, 0x09, 0x69, 0x96,
    0x46, 0x15, 0x0f, 0x9f, 0xc0, 0x00, 0xf3, 0xf8, 0x0e, 0x12,
];

/// A kind of endorsement key that makers certify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndorsementKind {
    /// RSA with 2,048 bits (template L-1).
    Rsa,
    /// NIST P-256 (template L-2).
    P256,
    /// NIST P-384 (template H-3).
    P384,
}

impl EndorsementKind {
    /// All of them, in the order in which they are looked for: most TPMs have the first.
    pub const ALL: [Self; 3] = [Self::Rsa, Self::P256, Self::P384];

    /// Where makers keep its certificate (section 2.2.1.4).
    pub fn index(self) -> Handle {
        match self {
            Self::Rsa => 0x01c0_0002,
            Self::P256 => 0x01c0_000a,
            Self::P384 => 0x01c0_0016,
        }
    }

    /// Where the key is, if somebody made it persistent. One on a curve is derived in a moment, so nobody looks for it.
    pub fn handle(self) -> Option<Handle> {
        match self {
            Self::Rsa => Some(0x8101_0001),
            Self::P256 | Self::P384 => None,
        }
    }

    /// Whether a key is of this kind.
    pub fn is_of(self, public: &TpmtPublic) -> bool {
        public.object_type
            == match self {
                Self::Rsa => TpmAlgId::Rsa,
                Self::P256 | Self::P384 => TpmAlgId::Ecc,
            }
    }

    /// Whether only a policy lets it be used.
    pub fn needs_policy(self) -> bool {
        match self {
            Self::Rsa | Self::P256 => true,
            Self::P384 => false,
        }
    }

    /// What it is derived from.
    pub fn template(self) -> Tpm2bPublic {
        let mut attributes = TpmaObject::FIXED_TPM
            | TpmaObject::FIXED_PARENT
            | TpmaObject::SENSITIVE_DATA_ORIGIN
            | TpmaObject::ADMIN_WITH_POLICY
            | TpmaObject::RESTRICTED
            | TpmaObject::DECRYPT;
        if !self.needs_policy() {
            attributes |= TpmaObject::USER_WITH_AUTH;
        }
        let (name_alg, policy, aes_bits) = match self {
            Self::Rsa | Self::P256 => (TpmAlgId::Sha256, &POLICY_A[..], 128),
            Self::P384 => (TpmAlgId::Sha384, &POLICY_B[..], 256),
        };
        let symmetric = TpmtSymDefObject {
            algorithm: TpmAlgId::Aes,
            key_bits: TpmuSymKeyBits::Aes(TpmUint16::new(aes_bits)),
            mode: TpmuSymMode::Aes(TpmAlgId::Cfb),
        };
        let (object_type, parameters, unique) = match self {
            Self::Rsa => rsa(symmetric),
            // Templates of the low range have numbers of zeros in them, those of the high range none (annexes B.3 and B.4).
            Self::P256 => on_curve(TpmEccCurve::NistP256, symmetric, &[0; 32]),
            Self::P384 => on_curve(TpmEccCurve::NistP384, symmetric, &[]),
        };
        Tpm2bPublic {
            inner: TpmtPublic {
                object_type,
                name_alg,
                object_attributes: attributes,
                auth_policy: Tpm2bDigest::try_from(policy).expect(FITS),
                parameters,
                unique,
            },
        }
    }
}

fn rsa(symmetric: TpmtSymDefObject) -> (TpmAlgId, TpmuPublicParms, TpmuPublicId) {
    let parameters = TpmsRsaParms {
        symmetric,
        scheme: TpmtRsaScheme::default(),
        key_bits: TpmUint16::new(2_048),
        exponent: TpmUint32::new(0),
    };
    let unique = Tpm2bPublicKeyRsa::try_from(&[0; 256][..]).expect(FITS);
    (TpmAlgId::Rsa, TpmuPublicParms::Rsa(parameters), TpmuPublicId::Rsa(unique))
}

fn on_curve(
    curve_id: TpmEccCurve,
    symmetric: TpmtSymDefObject,
    number: &[u8],
) -> (TpmAlgId, TpmuPublicParms, TpmuPublicId) {
    let parameters =
        TpmsEccParms { symmetric, scheme: TpmtEccScheme::default(), curve_id, kdf: TpmtKdfScheme::default() };
    let number = || Tpm2bEccParameter::try_from(number).expect(FITS);
    (TpmAlgId::Ecc, TpmuPublicParms::Ecc(parameters), TpmuPublicId::Ecc(TpmsEccPoint { x: number(), y: number() }))
}
