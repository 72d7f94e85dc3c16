//! Frames on a byte stream.

use crate::cbor::DecodeError;
use crate::limits::FRAME_BYTES_MAX;

/// Frames on a byte stream: each is preceded by its length as four bytes, big-endian.
#[derive(Debug, Default)]
pub struct LengthPrefixed {
    buffer: Vec<u8>,
    at: usize,
}

impl LengthPrefixed {
    /// The frame with its length in front.
    #[must_use]
    pub fn wrap(frame: &[u8]) -> Vec<u8> {
        let length = u32::try_from(frame.len()).expect("frames are bounded far below 4 GiB");
        let mut bytes = Vec::with_capacity(frame.len() + 4);
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(frame);
        bytes
    }

    /// Takes in what arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.at > 0 {
            self.buffer.drain(..self.at);
            self.at = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, if it is there.
    ///
    /// # Errors
    /// [`DecodeError::TooLong`] as soon as a length over the limit is read.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, DecodeError> {
        let rest = &self.buffer[self.at..];
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(DecodeError::TooLong { key: 0, max: FRAME_BYTES_MAX });
        }
        if rest.len() < length {
            return Ok(None);
        }
        let start = self.at + 4;
        self.at = start + length;
        Ok(Some(&self.buffer[start..self.at]))
    }

    /// Whether everything that arrived was taken out: false at the end of a stream means that a frame was cut.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.at == self.buffer.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_out_takes_no_memory() {
        let (frame, mut stream) = ([7; 100], LengthPrefixed::default());
        for _ in 0..1_000 {
            stream.push(&LengthPrefixed::wrap(&frame));
            assert_eq!(stream.next_frame(), Ok(Some(&frame[..])));
        }
        assert!(stream.is_empty() && stream.buffer.len() <= 2 * 104, "{}", stream.buffer.len());
    }

    #[test]
    fn a_frame_may_be_as_long_as_the_limit_and_no_longer() {
        let longest = vec![7; FRAME_BYTES_MAX];
        let mut stream = LengthPrefixed::default();
        stream.push(&LengthPrefixed::wrap(&longest));
        assert_eq!(stream.next_frame().map(|frame| frame.map(<[u8]>::len)), Ok(Some(FRAME_BYTES_MAX)));
        stream.push(&u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_be_bytes());
        assert_eq!(stream.next_frame(), Err(DecodeError::TooLong { key: 0, max: FRAME_BYTES_MAX }));
    }
}
