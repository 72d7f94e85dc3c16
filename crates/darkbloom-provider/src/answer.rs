//! From tokens to sealed frames: assembles the answer's parts, coalesces what is ready, packs it into sizes that say nothing.

use darkbloom_content::{AnswerEvent, AnswerParts, FinishReason, PART_HEAD_BYTES_MAX};
use darkbloom_seal::{AnswerError, AnswerSealer, SealedFrame, frame_size};
use darkbloom_text::AnswerAssembler;
use darkbloom_types::{TokenCount, TokenId};

use self::ready::Ready;

pub use self::backlog::token_text_max;
use self::backlog::{Backlog, LARGEST};

mod backlog;
mod ready;

/// Most tokens in one frame: those that the largest frame is meant for.
const FRAME_TOKENS_MAX: usize = 400;
/// Size of the last frame: its content has a fixed small length.
const FINISH_AS_TOKENS: u32 = 6;
/// Most bytes that the head of the parts takes beyond that of an empty text: no frame holds 64 Ki parts.
const PARTS_HEAD_GROWTH: usize = 2;

/// Writes one answer.
pub struct AnswerWriter {
    sealer: AnswerSealer,
    assembler: Option<AnswerAssembler>,
    tokens: Vec<TokenId>,
    /// How much of what is ready each waiting token and those before it gave.
    given: Vec<usize>,
    ready: Ready,
    called: bool,
    total: u32,
    backlog: Backlog,
}

impl AnswerWriter {
    /// A writer for a model whose tokens bring at most so many bytes of text each.
    pub fn new(sealer: AnswerSealer, assembler: AnswerAssembler, token_text_max: usize) -> Self {
        Self {
            sealer,
            assembler: Some(assembler),
            tokens: Vec::new(),
            given: Vec::new(),
            ready: Ready::default(),
            called: false,
            total: 0,
            backlog: Backlog { token_text_max, most: 0 },
        }
    }

    /// Takes a token in. True when a stop string is complete: nothing after it counts.
    pub fn push(&mut self, token: TokenId) -> bool {
        let Some(assembler) = &mut self.assembler else { return true };
        let (parts, stopped) = assembler.push(token);
        self.called = assembler.called();
        if stopped {
            // What the assembler still holds back belongs to the stop string.
            self.assembler = None;
        }
        self.take(token, &parts);
        stopped
    }

    /// A token, and what is certain with it.
    fn take(&mut self, token: TokenId, parts: &AnswerParts) {
        self.ready.push(parts);
        self.tokens.push(token);
        self.given.push(self.ready.len());
        self.total += 1;
    }

    /// Output tokens so far.
    pub fn total(&self) -> TokenCount {
        TokenCount(self.total)
    }

    /// Why an answer that the model ended did end: with a call, or just so.
    pub fn turn_ended(&self) -> FinishReason {
        if self.called { FinishReason::ToolCalls } else { FinishReason::Stop }
    }

    /// Tokens that wait for the next frame.
    pub fn waiting(&self) -> usize {
        self.tokens.len()
    }

    /// Seals what is ready. What is too long for its tokens' frame stays for a later one; nothing precedes its
    /// tokens.
    pub fn flush(&mut self) -> Result<Vec<SealedFrame>, AnswerError> {
        let mut frames = Vec::new();
        let waiting = std::mem::take(&mut self.tokens);
        let given = std::mem::take(&mut self.given);
        let whole = self.ready.len();
        let mut sealed = self.total - u32::try_from(waiting.len()).unwrap_or(u32::MAX).min(self.total);
        for (chunk, given) in waiting.chunks(FRAME_TOKENS_MAX).zip(given.chunks(FRAME_TOKENS_MAX)) {
            let gone = whole - self.ready.len();
            let most = given.last().map_or(0, |given| given - gone);
            let count = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            sealed += count;
            self.backlog.sealed(chunk.len(), frame_size(count));
            frames.push(self.delta(chunk.to_vec(), frame_size(count), TokenCount(sealed), most)?);
        }
        Ok(frames)
    }

    /// Seals the rest and the end. Frames for what may be left over come whether there is any or not. An answer that ran out
    /// of room ended itself all the same when what was held back has a stop string.
    pub fn finish(&mut self, reason: FinishReason, input_tokens: TokenCount) -> Result<Vec<SealedFrame>, AnswerError> {
        let mut frames = self.flush()?;
        let mut reason = reason;
        if let Some(assembler) = self.assembler.take() {
            let end = assembler.finish();
            self.ready.push(&end.parts);
            self.called = end.called;
            if end.stopped || reason != FinishReason::Length {
                reason = self.turn_ended();
            }
        }
        for size in self.backlog.tail() {
            frames.push(self.rest(size)?);
        }
        // Only with tokens longer than `TOKEN_TEXT_MAX`, or after a tail at its limit.
        while self.ready.len() > 0 {
            frames.push(self.rest(LARGEST)?);
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

    /// One frame of what is left over.
    fn rest(&mut self, size: usize) -> Result<SealedFrame, AnswerError> {
        self.delta(Vec::new(), size, self.total(), self.ready.len())
    }

    /// One frame of these tokens and of what is ready as much as fits, `most` bytes at most.
    fn delta(
        &mut self,
        tokens: Vec<TokenId>,
        size: usize,
        total: TokenCount,
        most: usize,
    ) -> Result<SealedFrame, AnswerError> {
        let empty = AnswerEvent::Delta { tokens, parts: AnswerParts::default() };
        let room = AnswerSealer::capacity(size).saturating_sub(empty.encoded_len() + PARTS_HEAD_GROWTH);
        let AnswerEvent::Delta { tokens, .. } = empty else { unreachable!("it was made as a delta above") };
        let parts = self.ready.take(room, PART_HEAD_BYTES_MAX, most);
        let event = AnswerEvent::Delta { tokens, parts };
        self.sealer.seal(event.to_cbor().expose(), size, total, false)
    }

    /// The hash chain, for the receipt.
    pub fn transcript(&self) -> darkbloom_types::Digest {
        self.sealer.transcript()
    }
}

#[cfg(test)]
mod tests;
