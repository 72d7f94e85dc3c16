//! Tokens in, text that may be shown out.

use darkbloom_types::{SecretString, TokenId};

use crate::decoder::TokenDecoder;
use crate::stop::StopScanner;

/// Assembles an answer's text: whole characters, and nothing of a stop string.
#[derive(Debug)]
pub struct AnswerAssembler {
    decoder: TokenDecoder,
    scanner: StopScanner,
}

impl AnswerAssembler {
    /// An assembler for one answer.
    #[must_use]
    pub fn new(decoder: TokenDecoder, stops: &[SecretString]) -> Self {
        Self { decoder, scanner: StopScanner::new(stops) }
    }

    /// The text that is certain after this token, and whether a stop string ended the answer.
    pub fn push(&mut self, token: TokenId) -> (SecretString, bool) {
        let text = self.decoder.push(token);
        let scan = self.scanner.push(text.expose());
        (scan.emit, scan.stopped)
    }

    /// Whether `text` begins what would be handed out if the answer ended here.
    pub(crate) fn holds(&self, text: &[u8]) -> bool {
        let held = self.scanner.held().as_bytes();
        match text.strip_prefix(held) {
            None => held.starts_with(text),
            Some(rest) => self.decoder.held().as_bytes().starts_with(rest),
        }
    }

    /// What was held back, when the answer ends otherwise.
    #[must_use]
    pub fn finish(mut self) -> SecretString {
        let rest = self.decoder.finish();
        let scan = self.scanner.push(rest.expose());
        let mut text = scan.emit;
        text.push_str(self.scanner.finish().expose());
        text
    }
}
