//! JSON as it stands in a body: keys that stand twice are refused, texts are wiped when they are dropped.

use std::fmt;

use darkbloom_types::SecretString;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// One JSON value. Takes at most 48 bytes of memory for each byte of the body, whose length is the caller's to limit:
/// `0,` is two bytes and one value, in a list that has room for half as many again while it grows. Nesting is limited to
/// 128 by the parser.
#[derive(Debug)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    /// An integer that fits 64 bits with or without a sign.
    Integer(i128),
    /// Any other number; always finite.
    Float(f64),
    Text(SecretString),
    Array(Vec<Json>),
    Object(Members),
}

/// The members of an object, by name. One allocation of just their size: a body may hold half a million small objects,
/// and a map's node has room for eleven members.
#[derive(Debug)]
pub(crate) struct Members(Box<[(String, Json)]>);

const _: () = assert!(size_of::<Json>() <= 32 && size_of::<(String, Json)>() <= 64);

impl Members {
    /// Puts members in order; `None` when a name stands twice.
    fn new(mut members: Vec<(String, Json)>) -> Option<Self> {
        members.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let twice = members.windows(2).any(|pair| pair[0].0 == pair[1].0);
        (!twice).then(|| Self(members.into_boxed_slice()))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Json> {
        let at = self.0.binary_search_by(|(known, _)| known.as_str().cmp(name)).ok()?;
        Some(&self.0[at].1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&String, &Json)> {
        self.0.iter().map(|(name, value)| (name, value))
    }
}

impl Json {
    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text.expose()),
            Self::Null | Self::Bool(_) | Self::Integer(_) | Self::Float(_) | Self::Array(_) | Self::Object(_) => None,
        }
    }

    pub(crate) fn array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(elements) => Some(elements),
            Self::Null | Self::Bool(_) | Self::Integer(_) | Self::Float(_) | Self::Text(_) | Self::Object(_) => None,
        }
    }

    pub(crate) fn object(&self) -> Option<&Members> {
        match self {
            Self::Object(members) => Some(members),
            Self::Null | Self::Bool(_) | Self::Integer(_) | Self::Float(_) | Self::Text(_) | Self::Array(_) => None,
        }
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        match self {
            Self::Bool(boolean) => Some(*boolean),
            Self::Null | Self::Integer(_) | Self::Float(_) | Self::Text(_) | Self::Array(_) | Self::Object(_) => None,
        }
    }

    /// An integer, also when it is written as `2.0`.
    pub(crate) fn integer(&self) -> Option<i128> {
        match self {
            Self::Integer(integer) => Some(*integer),
            // 2^53: up to here every float that is whole is exact.
            #[expect(clippy::cast_possible_truncation, reason = "whole and below 2^53")]
            Self::Float(float) if float.fract() == 0.0 && float.abs() <= 9_007_199_254_740_992.0 => {
                Some(*float as i128)
            }
            Self::Float(_) | Self::Null | Self::Bool(_) | Self::Text(_) | Self::Array(_) | Self::Object(_) => None,
        }
    }

    pub(crate) fn number(&self) -> Option<f64> {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "a number that is asked for as a float may be rounded")]
            Self::Integer(integer) => Some(*integer as f64),
            Self::Float(float) => Some(*float),
            Self::Null | Self::Bool(_) | Self::Text(_) | Self::Array(_) | Self::Object(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, boolean: bool) -> Result<Json, E> {
        Ok(Json::Bool(boolean))
    }

    fn visit_i64<E: Error>(self, integer: i64) -> Result<Json, E> {
        Ok(Json::Integer(integer.into()))
    }

    fn visit_u64<E: Error>(self, integer: u64) -> Result<Json, E> {
        Ok(Json::Integer(integer.into()))
    }

    fn visit_f64<E: Error>(self, float: f64) -> Result<Json, E> {
        if float.is_finite() { Ok(Json::Float(float)) } else { Err(E::custom("a number is out of range")) }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(SecretString::from(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Json, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = sequence.next_element()? {
            elements.push(element);
        }
        // Room is made for four at least, and a body may hold a million arrays of one.
        elements.shrink_to_fit();
        Ok(Json::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = map.next_entry::<String, Json>()? {
            members.push(member);
        }
        Members::new(members).map(Json::Object).ok_or_else(|| A::Error::custom("a key stands twice in one object"))
    }
}
