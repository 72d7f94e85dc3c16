//! From tokens to sealed frames: assembles text, coalesces what is ready, packs it into sizes that say nothing.

use darkbloom_content::{AnswerEvent, FinishReason};
use darkbloom_seal::{AnswerError, AnswerSealer, SealedFrame, frame_size};
use darkbloom_text::AnswerAssembler;
use darkbloom_types::{SecretString, TokenCount, TokenId};

/// Most tokens in one frame: those that the largest frame is meant for.
const FRAME_TOKENS_MAX: usize = 400;
/// Tokens that a frame of leftover text counts as: its size holds about a kilobyte.
const LEFTOVER_AS_TOKENS: u32 = 25;
/// Size of the last frame: its content has a fixed small length.
const FINISH_AS_TOKENS: u32 = 6;
/// Most bytes that the head of a longer text takes beyond that of an empty one.
const TEXT_HEAD_GROWTH: usize = 4;

/// Writes one answer.
pub struct AnswerWriter {
    sealer: AnswerSealer,
    assembler: Option<AnswerAssembler>,
    tokens: Vec<TokenId>,
    text: SecretString,
    total: u32,
}

impl AnswerWriter {
    pub fn new(sealer: AnswerSealer, assembler: AnswerAssembler) -> Self {
        Self { sealer, assembler: Some(assembler), tokens: Vec::new(), text: SecretString::default(), total: 0 }
    }

    /// Takes a token in. True when a stop string is complete: nothing after it counts.
    pub fn push(&mut self, token: TokenId) -> bool {
        let Some(assembler) = &mut self.assembler else { return true };
        self.tokens.push(token);
        self.total += 1;
        let (text, stopped) = assembler.push(token);
        self.text.push_str(text.expose());
        if stopped {
            // What the assembler still holds back belongs to the stop string.
            self.assembler = None;
        }
        stopped
    }

    /// Output tokens so far.
    pub fn total(&self) -> TokenCount {
        TokenCount(self.total)
    }

    /// Tokens that wait for the next frame.
    pub fn waiting(&self) -> usize {
        self.tokens.len()
    }

    /// Seals what is ready. A text too long for its tokens' frame stays for a later one.
    pub fn flush(&mut self) -> Result<Vec<SealedFrame>, AnswerError> {
        let mut frames = Vec::new();
        let waiting = std::mem::take(&mut self.tokens);
        let mut sealed = self.total - u32::try_from(waiting.len()).unwrap_or(u32::MAX).min(self.total);
        for chunk in waiting.chunks(FRAME_TOKENS_MAX) {
            let count = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            sealed += count;
            frames.push(self.delta(chunk.to_vec(), frame_size(count), TokenCount(sealed))?);
        }
        Ok(frames)
    }

    /// Seals the rest and the end.
    pub fn finish(&mut self, reason: FinishReason, input_tokens: TokenCount) -> Result<Vec<SealedFrame>, AnswerError> {
        if let Some(assembler) = self.assembler.take() {
            self.text.push_str(assembler.finish().expose());
        }
        let mut frames = self.flush()?;
        while !self.text.is_empty() {
            frames.push(self.delta(Vec::new(), frame_size(LEFTOVER_AS_TOKENS), self.total())?);
        }
        let finish = AnswerEvent::Finish { reason, input_tokens, output_tokens: self.total() };
        frames.push(self.end(&finish)?);
        Ok(frames)
    }

    /// Seals a failure as the end.
    pub fn fail(&mut self, failure: &AnswerEvent) -> Result<SealedFrame, AnswerError> {
        self.end(failure)
    }

    fn end(&mut self, event: &AnswerEvent) -> Result<SealedFrame, AnswerError> {
        self.sealer.seal(event.to_cbor().expose(), frame_size(FINISH_AS_TOKENS), self.total(), true)
    }

    /// One frame of these tokens and as much of the waiting text as fits.
    fn delta(&mut self, tokens: Vec<TokenId>, size: usize, total: TokenCount) -> Result<SealedFrame, AnswerError> {
        let empty = AnswerEvent::Delta { tokens, text: SecretString::default() };
        let room = AnswerSealer::capacity(size).saturating_sub(empty.encoded_len() + TEXT_HEAD_GROWTH);
        let AnswerEvent::Delta { tokens, .. } = empty else { unreachable!("it was made as a delta above") };
        let whole = self.text.expose();
        let cut = whole.floor_char_boundary(room.min(whole.len()));
        let (now, later) = whole.split_at(cut);
        let event = AnswerEvent::Delta { tokens, text: now.into() };
        self.text = later.into();
        self.sealer.seal(event.to_cbor().expose(), size, total, false)
    }

    /// The hash chain, for the receipt.
    pub fn transcript(&self) -> darkbloom_types::Digest {
        self.sealer.transcript()
    }
}

#[cfg(test)]
mod tests;
