//! What the fuzz targets share: a bound on memory, a cursor over the input, and parties with fixed keys.
//!
//! Each target in `src/targets/` reads bytes that come from a network, a file or a caller, and asserts more than the
//! absence of a panic: what is accepted must be the one encoding of what was read, an opened thing must be a genuine
//! one, and the memory taken must be bounded by the length of the input. Nothing that ships depends on this.

pub mod memory;
pub mod parties;
pub mod small_pack;

/// An input that is taken apart from the front; zeros when it runs dry.
pub struct Input<'i>(&'i [u8]);

impl<'i> Input<'i> {
    /// A cursor at the first byte.
    #[must_use]
    pub fn new(bytes: &'i [u8]) -> Self {
        Self(bytes)
    }

    /// Changes a byte of these parts, as if they lay behind one another. Returns which, and by what.
    pub fn change(&mut self, parts: &mut [&mut [u8]]) -> (usize, u8) {
        let (at, with) = (usize::from(u16::from_le_bytes([self.byte(), self.byte()])), self.byte());
        let at = at % parts.iter().map(|part| part.len()).sum::<usize>().max(1);
        let byte = parts.iter_mut().flat_map(|part| part.iter_mut()).nth(at);
        byte.into_iter().for_each(|byte| *byte ^= with);
        (at, with)
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    /// The next two bytes as a number.
    pub fn short(&mut self) -> usize {
        usize::from(self.byte()) << 8 | usize::from(self.byte())
    }

    /// At most so many of the next bytes.
    pub fn take(&mut self, most: usize) -> &'i [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Everything that is left.
    #[must_use]
    pub fn rest(self) -> &'i [u8] {
        self.0
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Text out of any bytes.
#[must_use]
pub fn text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}
