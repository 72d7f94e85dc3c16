//! What the coordinator says of a caller's rates, passed on to its program in the headers that it came in.

use reqwest::header::HeaderMap;

/// The headers, as OpenAI's clients know them.
pub const NAMES: [&str; 6] = [
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
];
/// Longest value: a number, or a time in milliseconds.
const VALUE_BYTES_MAX: usize = 24;

/// What came of them, in the order of those names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RateHeaders([Option<String>; 6]);

impl RateHeaders {
    /// Those of an answer; what is no number and no time is left out.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        let plain = |value: &&str| {
            let number = value.strip_suffix("ms").unwrap_or(value);
            value.len() <= VALUE_BYTES_MAX && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        };
        Self(NAMES.map(|name| headers.get(name)?.to_str().ok().filter(plain).map(str::to_owned)))
    }

    /// Each that came, with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        NAMES.into_iter().zip(&self.0).filter_map(|(name, value)| Some((name, value.as_deref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_numbers_and_times_are_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            (NAMES[0], "60"),
            (NAMES[1], "59; evil"),
            (NAMES[2], "1000ms"),
            (NAMES[3], ""),
            (NAMES[4], "1234567890123456789012345"),
            (NAMES[5], "ms"),
        ] {
            headers.insert(name, value.parse().unwrap());
        }
        let read = RateHeaders::of(&headers);
        assert_eq!(read.iter().collect::<Vec<_>>(), [(NAMES[0], "60"), (NAMES[2], "1000ms")]);
    }
}
