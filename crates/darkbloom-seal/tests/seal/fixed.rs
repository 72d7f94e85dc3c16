//! Randomness that repeats: SHA-256(label ‖ counter as 8 bytes), block after block.

use std::convert::Infallible;

use darkbloom_types::Digest;
use rand_core::{TryCryptoRng, TryRng};

/// The same bytes for the same label, on every machine.
pub struct FixedRng {
    label: String,
    counter: u64,
    block: Vec<u8>,
}

impl FixedRng {
    pub fn new(label: impl Into<String>) -> Self {
        Self { label: label.into(), counter: 0, block: Vec::new() }
    }
}

impl TryRng for FixedRng {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for byte in bytes {
            if self.block.is_empty() {
                let digest = Digest::of(&[self.label.as_bytes(), &self.counter.to_be_bytes()]);
                self.block = digest.0.iter().rev().copied().collect();
                self.counter += 1;
            }
            *byte = self.block.pop().unwrap_or_default();
        }
        Ok(())
    }
}

impl TryCryptoRng for FixedRng {}
