//! Records: structs that are deterministic CBOR maps with integer keys.

use darkbloom_types::{
    AttemptNumber, CatalogueDigest, ConnectionId, Digest, EpochId, Micros, Millis, NanoDollars, NetworkId, OperationId,
    Price, ProviderId, ReceiptId, RequestId, StreamId, Tier, TokenCount, UnixMillis,
};

use crate::cbor::{DecodeError, Reader, Writer};

/// Most pairs in one map: no record has half as many.
const PAIRS_MAX: usize = 64;
/// How deep a skipped value may nest.
const SKIP_DEPTH: usize = 8;

/// What a reader does with keys that it does not know.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Frames: skip and count.
    Skip,
    /// Signed objects: tolerate keys from zero up, refuse negative ones.
    RefuseCritical,
    /// Sealed objects: refuse.
    Refuse,
}

/// A value at a key.
pub trait Field: Sized {
    /// Writes the value.
    fn put(&self, to: &mut Writer);
    /// Reads the value; `max` bounds bytes or items where the type has no bound of its own.
    fn take(from: &mut Reader<'_>, max: usize) -> Result<Self, DecodeError>;
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
            fn take(from: &mut Reader<'_>, _: usize) -> Result<Self, DecodeError> {
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
    fn take(from: &mut Reader<'_>, _: usize) -> Result<Self, DecodeError> {
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
            fn take(from: &mut Reader<'_>, _: usize) -> Result<Self, DecodeError> {
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
    fn take(from: &mut Reader<'_>, _: usize) -> Result<Self, DecodeError> {
        from.int().map(Self)
    }
}

impl Field for NanoDollars {
    fn put(&self, to: &mut Writer) {
        to.int(self.0);
    }
    fn take(from: &mut Reader<'_>, _: usize) -> Result<Self, DecodeError> {
        from.int().map(Self)
    }
}

impl Field for u64 {
    fn put(&self, to: &mut Writer) {
        to.uint(*self);
    }
    fn take(from: &mut Reader<'_>, _: usize) -> Result<Self, DecodeError> {
        from.uint()
    }
}

macro_rules! narrow_fields {
    ($($number:ty)*) => { $(
        impl Field for $number {
            fn put(&self, to: &mut Writer) {
                to.uint(u64::from(*self));
            }
            fn take(from: &mut Reader<'_>, _: usize) -> Result<Self, DecodeError> {
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
    fn take(from: &mut Reader<'_>, _: usize) -> Result<Self, DecodeError> {
        from.bool()
    }
}

impl Field for String {
    fn put(&self, to: &mut Writer) {
        to.text(self);
    }
    fn take(from: &mut Reader<'_>, max: usize) -> Result<Self, DecodeError> {
        from.text(max).map(ToOwned::to_owned)
    }
}

impl Field for Vec<u8> {
    fn put(&self, to: &mut Writer) {
        to.bytes(self);
    }
    fn take(from: &mut Reader<'_>, max: usize) -> Result<Self, DecodeError> {
        from.bytes(max).map(ToOwned::to_owned)
    }
}

impl Field for Tier {
    fn put(&self, to: &mut Writer) {
        to.uint(u64::from(self.code()));
    }
    fn take(from: &mut Reader<'_>, _: usize) -> Result<Self, DecodeError> {
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
    fn take(from: &mut Reader<'_>, max: usize) -> Result<Self, DecodeError> {
        let key = from.key();
        if from.array(3)? != 3 {
            return Err(DecodeError::BadValue { key });
        }
        Ok(Self {
            version: u32::take(from, max)?,
            input_nano_per_token: u32::take(from, max)?,
            output_nano_per_token: u32::take(from, max)?,
        })
    }
}

impl<T: Field> Field for Option<T> {
    fn put(&self, to: &mut Writer) {
        if let Some(value) = self {
            value.put(to);
        }
    }
    fn take(from: &mut Reader<'_>, max: usize) -> Result<Self, DecodeError> {
        T::take(from, max).map(Some)
    }
    fn absent(&self) -> bool {
        self.is_none()
    }
    fn missing() -> Option<Self> {
        Some(None)
    }
}

/// A list of at most `max` items; each item's own variable parts are bounded by [`ITEM_BYTES_MAX`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

/// Bound on one variable-length item of a list: a statement with evidence is the longest.
const ITEM_BYTES_MAX: usize = crate::limits::STATEMENT_BYTES_MAX;

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
    fn take(from: &mut Reader<'_>, max: usize) -> Result<Self, DecodeError> {
        let key = from.key();
        let count = from.array(max)?;
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(T::take(from, ITEM_BYTES_MAX)?);
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
    /// Reads the pairs after the map's head and, for frames, its kind; returns the record and how many keys were skipped.
    fn read_pairs(
        from: &mut Reader<'_>,
        pairs: usize,
        after: Option<i64>,
        unknown: Unknown,
    ) -> Result<(Self, u32), DecodeError>;

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
        let mut reader = Reader::new(bytes);
        let pairs = reader.map(PAIRS_MAX)?;
        let (record, _) = Self::read_pairs(&mut reader, pairs, None, unknown)?;
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

/// What happens at a key that the record does not have.
pub fn unknown_key(from: &mut Reader<'_>, key: i64, rule: Unknown, skipped: &mut u32) -> Result<(), DecodeError> {
    match rule {
        Unknown::Refuse => return Err(DecodeError::UnknownKey { key }),
        Unknown::RefuseCritical if key < 0 => return Err(DecodeError::CriticalKey { key }),
        Unknown::RefuseCritical | Unknown::Skip => {}
    }
    *skipped += 1;
    from.skip(SKIP_DEPTH)
}

/// Declares a record: its fields with key and, for variable lengths, limit.
macro_rules! record {
    (
        $(#[$doc:meta])*
        $name:ident $(kind $kind:literal)? {
            $( $(#[$fdoc:meta])* $key:literal $field:ident : $ty:ty $([$max:expr])? , )*
        }
    ) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$fdoc])* pub $field: $ty, )*
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
                unknown: $crate::record::Unknown,
            ) -> Result<(Self, u32), $crate::cbor::DecodeError> {
                let (mut last, mut skipped) = (after, 0);
                $( let mut $field: Option<$ty> = None; )*
                for _ in 0..pairs {
                    match $crate::record::next_key(from, &mut last)? {
                        $( $key => {
                            let max: usize = 0 $( + $max )?;
                            $field = Some(<$ty as $crate::record::Field>::take(from, max)?);
                        } )*
                        key => $crate::record::unknown_key(from, key, unknown, &mut skipped)?,
                    }
                }
                $( let $field = $field
                    .or_else(<$ty as $crate::record::Field>::missing)
                    .ok_or($crate::cbor::DecodeError::MissingKey { key: $key })?; )*
                Ok((Self { $($field,)* }, skipped))
            }
        }
    };
    (@kind) => { None };
    (@kind $kind:literal) => { Some($kind) };
}
pub(crate) use record;

/// Lets a record stand inside a frame. Records inside frames follow the frame's rule: unknown keys are skipped.
macro_rules! nested {
    ($($name:ident)*) => { $(
        impl $crate::record::Field for $name {
            fn put(&self, to: &mut $crate::cbor::Writer) {
                $crate::record::Record::write(self, to);
            }
            fn take(from: &mut $crate::cbor::Reader<'_>, _: usize) -> Result<Self, $crate::cbor::DecodeError> {
                let pairs = from.map(64)?;
                <Self as $crate::record::Record>::read_pairs(from, pairs, None, $crate::record::Unknown::Skip).map(|read| read.0)
            }
        }
    )* };
}
pub(crate) use nested;
