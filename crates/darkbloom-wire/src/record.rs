//! Records: structs that are deterministic CBOR maps with integer keys.

use darkbloom_types::{
    AttemptNumber, CatalogueDigest, ConnectionId, Digest, EpochId, Micros, Millis, NanoDollars, NetworkId, OperationId,
    Price, ProviderId, ReceiptId, RequestId, SecretString, StreamId, Tier, TokenCount, UnixMillis,
};

use crate::cbor::{DecodeError, Reader, Unknown, Writer};

/// Most pairs in one map: no record has half as many.
pub(crate) const PAIRS_MAX: usize = 64;

/// Limits on a value whose type has none of its own.
#[derive(Clone, Copy)]
pub struct Bound {
    /// Bytes of a string, items of a list.
    pub own: usize,
    /// Bytes of each item of a list.
    pub item: usize,
}

/// A value at a key.
pub trait Field: Sized {
    /// Writes the value.
    fn put(&self, to: &mut Writer);
    /// Reads the value within its bound.
    fn take(from: &mut Reader<'_>, bound: Bound) -> Result<Self, DecodeError>;
    /// Whether the key is left out.
    fn absent(&self) -> bool {
        false
    }
    /// The value that a missing key stands for, where it may be missing.
    fn missing() -> Option<Self> {
        None
    }
}

macro_rules! byte_fields {
    ($($name:ident)*) => { $(
        impl Field for $name {
            fn put(&self, to: &mut Writer) {
                to.bytes(self.as_bytes());
            }
            fn take(from: &mut Reader<'_>, _: Bound) -> Result<Self, DecodeError> {
                let key = from.key();
                from.bytes(Self::LEN)?.try_into().map_err(|_| DecodeError::BadValue { key })
            }
        }
    )* };
}
byte_fields!(CatalogueDigest ConnectionId Digest EpochId NetworkId OperationId ProviderId ReceiptId RequestId);

impl<const N: usize> Field for [u8; N] {
    fn put(&self, to: &mut Writer) {
        to.bytes(self);
    }
    fn take(from: &mut Reader<'_>, _: Bound) -> Result<Self, DecodeError> {
        let key = from.key();
        from.bytes(N)?.try_into().map_err(|_| DecodeError::BadValue { key })
    }
}

macro_rules! uint_fields {
    ($($name:ident $number:ty;)*) => { $(
        impl Field for $name {
            fn put(&self, to: &mut Writer) {
                to.uint(u64::from(self.0));
            }
            fn take(from: &mut Reader<'_>, _: Bound) -> Result<Self, DecodeError> {
                let key = from.key();
                <$number>::try_from(from.uint()?).map($name).map_err(|_| DecodeError::BadValue { key })
            }
        }
    )* };
}
uint_fields!(TokenCount u32; AttemptNumber u32; StreamId u64; Micros u64; Millis u64;);

impl Field for UnixMillis {
    fn put(&self, to: &mut Writer) {
        to.int(self.0);
    }
    fn take(from: &mut Reader<'_>, _: Bound) -> Result<Self, DecodeError> {
        from.int().map(Self)
    }
}

impl Field for NanoDollars {
    fn put(&self, to: &mut Writer) {
        to.int(self.0);
    }
    fn take(from: &mut Reader<'_>, _: Bound) -> Result<Self, DecodeError> {
        from.int().map(Self)
    }
}

macro_rules! narrow_fields {
    ($($number:ty)*) => { $(
        impl Field for $number {
            fn put(&self, to: &mut Writer) {
                to.uint(u64::from(*self));
            }
            fn take(from: &mut Reader<'_>, _: Bound) -> Result<Self, DecodeError> {
                let key = from.key();
                Self::try_from(from.uint()?).map_err(|_| DecodeError::BadValue { key })
            }
        }
    )* };
}
narrow_fields!(u16 u32);

impl Field for bool {
    fn put(&self, to: &mut Writer) {
        to.bool(*self);
    }
    fn take(from: &mut Reader<'_>, _: Bound) -> Result<Self, DecodeError> {
        from.bool()
    }
}

impl Field for String {
    fn put(&self, to: &mut Writer) {
        to.text(self);
    }
    fn take(from: &mut Reader<'_>, bound: Bound) -> Result<Self, DecodeError> {
        from.text(bound.own).map(ToOwned::to_owned)
    }
}

impl Field for SecretString {
    fn put(&self, to: &mut Writer) {
        to.text(self.expose());
    }
    fn take(from: &mut Reader<'_>, bound: Bound) -> Result<Self, DecodeError> {
        from.text(bound.own).map(Self::from)
    }
}

impl Field for Vec<u8> {
    fn put(&self, to: &mut Writer) {
        to.bytes(self);
    }
    fn take(from: &mut Reader<'_>, bound: Bound) -> Result<Self, DecodeError> {
        from.bytes(bound.own).map(ToOwned::to_owned)
    }
}

impl Field for Tier {
    fn put(&self, to: &mut Writer) {
        to.uint(u64::from(self.code()));
    }
    fn take(from: &mut Reader<'_>, _: Bound) -> Result<Self, DecodeError> {
        let key = from.key();
        u8::try_from(from.uint()?).ok().and_then(Self::from_code).ok_or(DecodeError::BadValue { key })
    }
}

impl Field for Price {
    fn put(&self, to: &mut Writer) {
        to.array(3);
        to.uint(u64::from(self.version));
        to.uint(u64::from(self.input_nano_per_token));
        to.uint(u64::from(self.output_nano_per_token));
    }
    fn take(from: &mut Reader<'_>, bound: Bound) -> Result<Self, DecodeError> {
        let key = from.key();
        if from.array(3)? != 3 {
            return Err(DecodeError::BadValue { key });
        }
        Ok(Self {
            version: u32::take(from, bound)?,
            input_nano_per_token: u32::take(from, bound)?,
            output_nano_per_token: u32::take(from, bound)?,
        })
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, to: &mut Writer) {
        if let Some(value) = self {
            value.put(to);
        }
    }
    fn take(from: &mut Reader<'_>, bound: Bound) -> Result<Self, DecodeError> {
        T::take(from, bound).map(Some)
    }
    fn absent(&self) -> bool {
        self.is_none()
    }
    fn missing() -> Option<Self> {
        Some(None)
    }
}

/// A list. Its field's bound says how many items it may hold, and how long each may be where items have no bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> Self {
        Self(items)
    }
}

impl<T: Field> Field for List<T> {
    fn put(&self, to: &mut Writer) {
        to.array(self.0.len());
        for item in &self.0 {
            item.put(to);
        }
    }
    fn take(from: &mut Reader<'_>, bound: Bound) -> Result<Self, DecodeError> {
        let key = from.key();
        let count = from.array(bound.own)?;
        let bound = Bound { own: bound.item, item: 0 };
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(T::take(from, bound)?);
            from.at_key(key);
        }
        Ok(Self(items))
    }
}

/// A struct that is a map. `KIND`, where there is one, stands at key 0.
pub trait Record: Sized {
    /// The number at key 0 that names a frame; `None` for records inside others.
    const KIND: Option<u64>;
    /// Writes the map.
    fn write(&self, to: &mut Writer);
    /// Reads the pairs after the map's head and, for frames, its kind. The reader knows what to do with unknown keys.
    fn read_pairs(from: &mut Reader<'_>, pairs: usize, after: Option<i64>) -> Result<Self, DecodeError>;

    /// The map's bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        self.write(&mut writer);
        writer.finish()
    }

    /// Reads exactly one map.
    ///
    /// # Errors
    /// Anything but that.
    fn from_bytes(bytes: &[u8], unknown: Unknown) -> Result<Self, DecodeError> {
        let mut reader = Reader::with_rule(bytes, unknown);
        let pairs = reader.map(PAIRS_MAX)?;
        let record = Self::read_pairs(&mut reader, pairs, None)?;
        reader.end()?;
        Ok(record)
    }
}

/// Reads a frame's head: how many pairs follow key 0, and the kind there.
pub fn read_kind(from: &mut Reader<'_>) -> Result<(usize, u64), DecodeError> {
    let pairs = from.map(PAIRS_MAX)?;
    if pairs == 0 || from.int()? != 0 {
        return Err(DecodeError::MissingKey { key: 0 });
    }
    Ok((pairs - 1, from.uint()?))
}

/// Reads the next key; it must be greater in encoding order than the last: 0, 1, 2 … then −1, −2 ….
pub fn next_key(from: &mut Reader<'_>, last: &mut Option<i64>) -> Result<i64, DecodeError> {
    let key = from.int()?;
    let order = |key: i64| (key < 0, key.unsigned_abs());
    if last.is_some_and(|last| order(key) <= order(last)) {
        return Err(DecodeError::NotDeterministic);
    }
    *last = Some(key);
    from.at_key(key);
    Ok(key)
}

/// Declares a record: its fields with key and, for variable lengths, limit.
macro_rules! record {
    (
        $(#[$doc:meta])*
        $name:ident $(kind $kind:literal)? {
            $( $(#[$fdoc:meta])* $key:literal $field:ident : $ty:ty $([$max:expr $(, $item:expr)?])? , )*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$fdoc])* pub $field: $ty, )*
        }

        impl $name {
            /// Its keys and their names, in order. Frames have their kind at key 0 beside these.
            pub const FIELDS: &'static [(i64, &'static str)] = &[$(($key, stringify!($field)),)*];
        }

        impl $crate::record::Record for $name {
            const KIND: Option<u64> = $crate::record::record!(@kind $($kind)?);

            fn write(&self, to: &mut $crate::cbor::Writer) {
                let pairs = usize::from(Self::KIND.is_some()) $( + usize::from(!$crate::record::Field::absent(&self.$field)) )*;
                to.map(pairs);
                if let Some(kind) = Self::KIND {
                    to.int(0);
                    to.uint(kind);
                }
                $( if !$crate::record::Field::absent(&self.$field) {
                    to.int($key);
                    $crate::record::Field::put(&self.$field, to);
                } )*
            }

            fn read_pairs(
                from: &mut $crate::cbor::Reader<'_>,
                pairs: usize,
                after: Option<i64>,
            ) -> Result<Self, $crate::cbor::DecodeError> {
                let mut last = after;
                $( let mut $field: Option<$ty> = None; )*
                for _ in 0..pairs {
                    match $crate::record::next_key(from, &mut last)? {
                        $( $key => {
                            let bound = $crate::record::Bound { own: 0 $( + $max )?, item: 0 $($( + $item )?)? };
                            $field = Some(<$ty as $crate::record::Field>::take(from, bound)?);
                        } )*
                        key => from.unknown_key(key)?,
                    }
                }
                $( let $field = $field
                    .or_else(<$ty as $crate::record::Field>::missing)
                    .ok_or($crate::cbor::DecodeError::MissingKey { key: $key })?; )*
                Ok(Self { $($field,)* })
            }
        }
    };
    (@kind) => { None };
    (@kind $kind:literal) => { Some($kind) };
}
pub(crate) use record;

/// Lets a record stand inside another. It follows the rule of the whole for unknown keys.
macro_rules! nested {
    ($($name:ident)*) => { $(
        impl $crate::record::Field for $name {
            fn put(&self, to: &mut $crate::cbor::Writer) {
                $crate::record::Record::write(self, to);
            }
            fn take(from: &mut $crate::cbor::Reader<'_>, _: $crate::record::Bound) -> Result<Self, $crate::cbor::DecodeError> {
                let pairs = from.map($crate::record::PAIRS_MAX)?;
                <Self as $crate::record::Record>::read_pairs(from, pairs, None)
            }
        }
    )* };
}
pub(crate) use nested;

/// Reading and writing of what stands in a body or in another object.
macro_rules! plain {
    ($($name:ident $unknown:ident $max:expr;)*) => { $(
        impl $name {
            /// Its bytes.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                $crate::record::Record::to_bytes(self)
            }

            /// Reads exactly one.
            ///
            /// # Errors
            /// [`crate::cbor::DecodeError`] when the bytes are not one, or exceed a limit.
            pub fn decode(bytes: &[u8]) -> Result<Self, $crate::cbor::DecodeError> {
                if bytes.len() > $max {
                    return Err($crate::cbor::DecodeError::TooLong { key: 0, max: $max });
                }
                $crate::record::Record::from_bytes(bytes, $crate::cbor::Unknown::$unknown)
            }
        }
    )* };
}
pub(crate) use plain;
