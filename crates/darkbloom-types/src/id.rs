//! Typed ids. Each is a fixed number of bytes, shown as lower-case hex; none of them is a secret.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected_bytes} bytes as {} hex digits", expected_bytes * 2)]
pub struct ParseIdError {
    /// Length of the id in bytes.
    pub expected_bytes: usize,
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// The bytes, in order.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first eight hex digits: enough for a person to tell two apart, never enough to decide by.
            #[must_use]
            pub fn short(&self) -> String {
                hex::encode(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), hex::encode(self.0))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; $len];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseIdError { expected_bytes: $len })?;
                Ok(Self(bytes))
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = ParseIdError;
            fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
                bytes.try_into().map(Self).map_err(|_| ParseIdError { expected_bytes: $len })
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

byte_id!(
    /// A SHA-256 digest (FIPS 180-4).
    Digest, 32
);
byte_id!(
    /// A network: the SHA-256 digest of its coordinator's public key. A request sealed for one network is refused by another.
    NetworkId, 32
);
byte_id!(
    /// A provider: the SHA-256 digest of its identity public key (uncompressed SEC 1 point).
    ProviderId, 32
);
byte_id!(
    /// A model as the operator signed it: the SHA-256 digest of its catalogue entry's signed bytes.
    CatalogueDigest, 32
);
byte_id!(
    /// One epoch of a provider: the first 16 bytes of the digest of its keys and start.
    EpochId, 16
);
byte_id!(
    /// One sealed request. Fresh for every sealing, also when the operation is sealed again.
    RequestId, 16
);
byte_id!(
    /// What the consumer asked for once: stays the same when the request is sealed again; money moves once an operation.
    OperationId, 16
);
byte_id!(
    /// One WebSocket connection between a provider and a coordinator.
    ConnectionId, 16
);
byte_id!(
    /// A receipt: the SHA-256 digest of its signed bytes.
    ReceiptId, 32
);

impl Digest {
    /// SHA-256 over the parts, one after another, without separators: callers fix every part's length or prefix it.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }
}

impl ProviderId {
    /// The id that belongs to an identity public key (uncompressed SEC 1 point, 65 bytes).
    #[must_use]
    pub fn of_public_key(sec1_point: &[u8]) -> Self {
        Self(Digest::of(&[sec1_point]).0)
    }
}

impl NetworkId {
    /// The network that belongs to a coordinator's public key (uncompressed SEC 1 point, 65 bytes).
    #[must_use]
    pub fn of_coordinator_key(sec1_point: &[u8]) -> Self {
        Self(Digest::of(&[sec1_point]).0)
    }
}

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $number:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
        #[serde(transparent)]
        pub struct $name(pub $number);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// An account in the ledger.
    AccountId, i64
);
number_id!(
    /// An API key or join token; the secret itself is stored only as a digest.
    KeyId, i64
);
number_id!(
    /// One offered request on one provider connection; numbers are never used twice on a connection.
    StreamId, u64
);
number_id!(
    /// Which attempt of one sealed request an offer is: 1, 2 or 3.
    AttemptNumber, u32
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_print() {
        let id = RequestId([0xab; 16]);
        assert_eq!(id.to_string().parse::<RequestId>(), Ok(id));
        assert_eq!("ab".parse::<RequestId>(), Err(ParseIdError { expected_bytes: 16 }));
        assert!("zz".repeat(16).parse::<RequestId>().is_err());
    }

    #[test]
    fn digest_is_sha_256() {
        // FIPS 180-4 example: SHA-256("abc"), split to show that parts are concatenated.
        assert_eq!(
            Digest::of(&[b"a", b"bc"]).to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }
}
