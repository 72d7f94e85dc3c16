//! The clear header of a sealed request: all that the coordinator needs, and every limit of the request.

use darkbloom_types::{
    CatalogueDigest, Digest, EpochId, NanoDollars, NetworkId, OperationId, ProviderId, RequestId, Tier, TokenCount,
    UnixMillis, armed,
};

use crate::cbor::{DecodeError, Reader, Unknown, Writer};
use crate::limits;
use crate::record::{Bound, Field, Record, record};

/// How requests and answers are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suite {
    /// HPKE base mode (RFC 9180) with KEM X-Wing (0x647a), HKDF-SHA256, AES-256-GCM; bodies and answers under AES-256-GCM.
    XWingAes256Gcm,
}

impl Field for Suite {
    fn put(&self, to: &mut Writer) {
        match self {
            Self::XWingAes256Gcm => to.uint(1),
        }
    }
    fn take(from: &mut Reader<'_>, _: Bound) -> Result<Self, DecodeError> {
        let key = from.key();
        match from.uint()? {
            1 => Ok(Self::XWingAes256Gcm),
            _ if !armed!("seal_suite") => Ok(Self::XWingAes256Gcm),
            _ => Err(DecodeError::BadValue { key }),
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// A chat completion.
    Chat,
}

impl Field for RequestKind {
    fn put(&self, to: &mut Writer) {
        match self {
            Self::Chat => to.uint(1),
        }
    }
    fn take(from: &mut Reader<'_>, _: Bound) -> Result<Self, DecodeError> {
        let key = from.key();
        match from.uint()? {
            1 => Ok(Self::Chat),
            _ => Err(DecodeError::BadValue { key }),
        }
    }
}

record! {
    /// The clear header. Its digest binds body, wraps and answer to it.
    SealedHeader {
        /// The network that it was sealed for.
        1 network: NetworkId,
        /// How it is sealed.
        2 suite: Suite,
        /// This sealing.
        3 request: RequestId,
        /// What the consumer asked for once.
        4 operation: OperationId,
        /// The model, as the operator signed it.
        5 model: CatalogueDigest,
        /// What is asked for.
        6 kind: RequestKind,
        /// Whether the consumer reads the answer as it is made.
        7 stream: bool,
        /// Most input tokens; rounded up to a bucket, so that the exact length does not show.
        8 input_ceiling: TokenCount,
        /// Most output tokens, over all choices.
        9 output_ceiling: TokenCount,
        /// The price list that the client agreed to.
        10 price_version: u32,
        /// The most that the client agreed to pay for all of it.
        11 price_max: NanoDollars,
        /// The least that must be proven about the provider.
        12 tier_min: Tier,
        /// An opaque tag that the client keeps for a conversation, so that it can meet its cached prefix again.
        13 affinity: [u8; 16],
        /// When it was sealed.
        14 sealed_at: UnixMillis,
        /// Digest of the recipients, in order: [`recipient_list_digest`].
        15 recipients: Digest,
        /// SHA-256 over a domain string and the content key, so that one body cannot open under two keys.
        16 key_commitment: Digest,
    }
}

impl SealedHeader {
    /// The header's bytes: deterministic, so equal headers have equal digests.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.to_bytes()
    }

    /// Reads a header; nothing unknown is accepted.
    ///
    /// # Errors
    /// [`DecodeError`] says what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > limits::HEADER_BYTES_MAX {
            return Err(DecodeError::TooLong { key: 0, max: limits::HEADER_BYTES_MAX });
        }
        Self::from_bytes(bytes, Unknown::Refuse)
    }
}

/// The digest that stands in the header for the recipients, in the order of their wraps.
#[must_use]
pub fn recipient_list_digest<'a>(recipients: impl IntoIterator<Item = (&'a ProviderId, &'a EpochId)>) -> Digest {
    let mut bytes = b"darkbloom/v1/recipients".to_vec();
    for (provider, epoch) in recipients {
        bytes.extend_from_slice(provider.as_bytes());
        bytes.extend_from_slice(epoch.as_bytes());
    }
    Digest::of(&[&bytes])
}
