//! What a sequence holds, outside llama.cpp's memory.

use zeroize::Zeroizing;

use super::raw::Context;

/// Keys and values of one sequence as llama.cpp writes them, with a checksum that is compared before llama.cpp reads them again:
/// it trusts what it reads. Wiped on drop.
pub(super) struct SavedState {
    checksum: u32,
    bytes: Zeroizing<Vec<u8>>,
}

impl SavedState {
    /// Copies what a sequence holds.
    pub(super) fn of(context: &mut Context, sequence: usize) -> Self {
        let bytes = Zeroizing::new(context.state(sequence));
        Self { checksum: crc32fast::hash(&bytes), bytes }
    }

    /// Puts it into an empty sequence and leaves the first tokens of it there. Whether that is what the sequence holds now.
    #[must_use]
    pub(super) fn restore(&self, context: &mut Context, sequence: usize, keep: usize) -> bool {
        if crc32fast::hash(&self.bytes) != self.checksum || !context.set_state(sequence, &self.bytes) {
            return false;
        }
        context.forget(sequence, keep);
        true
    }

    /// Changes a bit, as a failing memory would.
    #[cfg(test)]
    pub(super) fn damage(&mut self) {
        let middle = self.bytes.len() / 2;
        self.bytes[middle] ^= 4;
    }
}
