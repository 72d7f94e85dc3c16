//! The alphabet of byte-level byte-pair encoding: one printable character for each byte, as GPT-2 chose them.
//!
//! Bytes that print in Latin-1 stand for themselves; the other 68 take the characters from U+0100 on, in order.

/// The byte that a character stands for.
pub(crate) fn byte(character: char) -> Option<u8> {
    let code = u32::from(character);
    let low = |code: u32| u8::try_from(code).ok();
    match code {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => low(code),
        0x100..=0x120 => low(code - 0x100),
        0x121..=0x142 => low(code - 0x121 + 0x7f),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The character that stands for a byte.
    fn character(byte: u8) -> char {
        let shifted = match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => u32::from(byte),
            0..=0x20 => 0x100 + u32::from(byte),
            0x7f..=0xa0 => 0x100 + 0x21 + u32::from(byte - 0x7f),
            0xad => 0x100 + 0x43,
        };
        char::from_u32(shifted).expect("every code below U+0144 is a character")
    }

    #[test]
    fn the_alphabet_reads_back_and_knows_the_famous_letters() {
        for value in 0..=u8::MAX {
            assert_eq!(byte(character(value)), Some(value));
        }
        assert_eq!((character(b' '), character(b'\n'), character(b'a')), ('Ġ', 'Ċ', 'a'));
        assert_eq!(byte(' '), None);
        let reference = tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet();
        assert!((0..=u8::MAX).all(|value| reference.contains(&character(value))));
    }
}
