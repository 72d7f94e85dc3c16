//! Padding: plaintexts are brought to a few fixed sizes, so that ciphertext lengths say little.

use zeroize::Zeroizing;

/// Smallest padded request body.
const BODY_SIZE_MIN: usize = 1_024;
/// Largest padded request body.
const BODY_SIZE_MAX: usize = 1 << 20;
/// Bytes of the length in front of the content.
const LENGTH_BYTES: usize = 4;

/// Why a plaintext cannot be padded or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PaddingError {
    /// More content than the largest size holds.
    #[error("the content of {bytes} bytes is over the limit of {max}")]
    TooLong {
        /// Bytes to pad.
        bytes: usize,
        /// Most bytes that fit.
        max: usize,
    },
    /// The length in front does not fit, or the padding is not zeros.
    #[error("the padding is not valid")]
    Invalid,
}

/// The size that a request body of so many bytes is padded to: the next power of two from 1 KiB to 1 MiB.
///
/// # Errors
/// [`PaddingError::TooLong`] beyond that.
pub fn body_size(content: usize) -> Result<usize, PaddingError> {
    let max = BODY_SIZE_MAX - LENGTH_BYTES;
    if content > max {
        return Err(PaddingError::TooLong { bytes: content, max });
    }
    Ok((content + LENGTH_BYTES).next_power_of_two().max(BODY_SIZE_MIN))
}

/// Content with its length in front and zeros behind, `size` bytes in all, with room for an authentication tag so that
/// encrypting in place does not leave a copy behind.
///
/// # Errors
/// [`PaddingError::TooLong`] when it does not fit.
pub fn pad(content: &[u8], size: usize) -> Result<Zeroizing<Vec<u8>>, PaddingError> {
    let max = size.saturating_sub(LENGTH_BYTES);
    let too_long = PaddingError::TooLong { bytes: content.len(), max };
    if size < LENGTH_BYTES || content.len() > max {
        return Err(too_long);
    }
    let length = u32::try_from(content.len()).map_err(|_| too_long)?;
    let mut padded = Zeroizing::new(Vec::with_capacity(size + 16));
    padded.extend_from_slice(&length.to_be_bytes());
    padded.extend_from_slice(content);
    padded.resize(size, 0);
    Ok(padded)
}

/// The content of a padded plaintext.
///
/// # Errors
/// [`PaddingError::Invalid`] when the length does not fit or the padding is not zeros: then it is no covert channel.
pub fn unpad(padded: &[u8]) -> Result<&[u8], PaddingError> {
    let (length, rest) = padded.split_first_chunk::<LENGTH_BYTES>().ok_or(PaddingError::Invalid)?;
    let length = u32::from_be_bytes(*length) as usize;
    let (content, zeros) = rest.split_at_checked(length).ok_or(PaddingError::Invalid)?;
    if zeros.iter().any(|byte| *byte != 0) {
        return Err(PaddingError::Invalid);
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn body_sizes_are_few() {
        assert_eq!(body_size(0), Ok(1_024));
        assert_eq!(body_size(1_020), Ok(1_024));
        assert_eq!(body_size(1_021), Ok(2_048));
        assert_eq!(body_size((1 << 20) - 4), Ok(1 << 20));
        assert!(body_size((1 << 20) - 3).is_err());
    }

    #[test]
    fn padding_reads_back_and_nothing_else_does() {
        let padded = pad(b"violet", 64).unwrap();
        assert_eq!((padded.len(), unpad(&padded)), (64, Ok(b"violet".as_slice())));
        let mut marked = padded.to_vec();
        marked[63] = 1;
        assert_eq!(unpad(&marked), Err(PaddingError::Invalid));
        assert_eq!(unpad(&[0, 0, 0, 9, 1]), Err(PaddingError::Invalid));
        assert_eq!(unpad(&[0]), Err(PaddingError::Invalid));
    }

    #[test]
    fn a_size_without_room_for_the_length_is_refused() {
        assert_eq!(pad(b"", 3), Err(PaddingError::TooLong { bytes: 0, max: 0 }));
        let smallest = pad(b"", 4).unwrap();
        assert_eq!(unpad(&smallest), Ok(b"".as_slice()));
    }
}
