//! Records of keys that are in hardware: a few lines of text beside a provider's other files. Nothing of them is secret.

use std::fs;
use std::io;
use std::path::Path;
use std::str::Split;

use crate::durable;

/// The lines of a record after the first one.
pub type Lines<'a> = Split<'a, char>;

/// What a home remembers of its keys.
pub trait Record: Sized {
    /// The first line, so that no other file is mistaken for one.
    const MAGIC: &'static str;
    /// Largest such file.
    const BYTES_MAX: u64;
    /// Why there is none.
    type Error;

    /// The lines after the first one, each with its end.
    fn lines(&self) -> String;
    /// Reads these lines; nothing when they are no record.
    fn read(lines: &mut Lines<'_>) -> Option<Self>;
    /// It cannot be read or written.
    fn unreadable(path: &Path, source: io::Error) -> Self::Error;
    /// It is no record, or damaged.
    fn damaged(path: &Path) -> Self::Error;

    /// Reads a record; nothing when there is no file.
    fn load(path: &Path) -> Result<Option<Self>, Self::Error> {
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() > Self::BYTES_MAX => return Err(Self::damaged(path)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Self::unreadable(path, error)),
        }
        match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).ok_or_else(|| Self::damaged(path)).map(Some),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(Self::damaged(path)),
            Err(error) => Err(Self::unreadable(path, error)),
        }
    }

    /// Writes a record that nobody has written before. False when somebody has.
    fn create(&self, path: &Path) -> Result<bool, Self::Error> {
        durable::create(path, self.text().as_bytes()).map_err(|source| Self::unreadable(path, source))
    }

    /// Writes a record over the one that is there.
    fn replace(&self, path: &Path) -> Result<(), Self::Error> {
        durable::replace(path, self.text().as_bytes()).map_err(|source| Self::unreadable(path, source))
    }

    /// All of it.
    fn text(&self) -> String {
        format!("{}\n{}", Self::MAGIC, self.lines())
    }

    /// What a text says; nothing when it is no record.
    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix('\n')?.split('\n');
        if lines.next()? != Self::MAGIC {
            return None;
        }
        let record = Self::read(&mut lines)?;
        lines.next().is_none().then_some(record)
    }
}

/// Bytes in hexadecimal digits, exactly so many.
pub fn bytes<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(digits, &mut bytes).ok()?;
    Some(bytes)
}

/// What every record's tests try: nothing that is cut short, doubled or spaced otherwise is one.
#[cfg(test)]
pub fn assert_nothing_else_is_one<R: Record>(good: &str, wrong: &[String]) {
    assert!(R::parse(good).is_some());
    for at in 0..good.len() {
        assert!(R::parse(&good[..at]).is_none(), "cut at {at}");
    }
    for text in wrong.iter().chain(&[format!("{good}{good}"), good.replace(' ', "  "), good.replace("-v1", "-v2")]) {
        assert!(R::parse(text).is_none(), "{text}");
    }
}
