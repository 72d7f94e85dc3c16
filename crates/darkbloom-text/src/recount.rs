//! Whether an answer's parts are what its tokens say.

use std::collections::VecDeque;

use darkbloom_content::{AnswerPart, AnswerParts, ChatRequest, PartKind};
use darkbloom_types::{SecretString, TokenId};
use zeroize::Zeroize as _;

use crate::answer::AnswerAssembler;
use crate::model::TextModel;
use crate::parser::Opening;

/// Why an answer's text, which here is that of all its parts one after another, is not that of its tokens. Names places and numbers, never what stood there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecountError {
    /// A number that stands for nothing.
    #[error("token {token} of the answer is not in the model's vocabulary of {vocabulary}")]
    UnknownToken {
        /// Which token of the answer, from 1.
        token: u64,
        /// How many tokens the model has.
        vocabulary: usize,
    },
    /// An answer ends with a token that ends answers.
    #[error("token {token} came after the one that ends the answer")]
    AfterEndToken {
        /// Which token of the answer, from 1.
        token: u64,
    },
    /// An answer ends with the token that completes a stop string, or the one call that it may have.
    #[error("token {token} came after the one that completes a stop string or the only call")]
    AfterStop {
        /// Which token of the answer, from 1.
        token: u64,
    },
    /// Text and tokens say different things, or one thing as parts of different kinds.
    #[error("the text differs from its tokens at byte {byte}, in token {token}")]
    Differs {
        /// Where in the text, from 0.
        byte: u64,
        /// The token of the answer that says something else there, from 1.
        token: u64,
    },
    /// More text than the tokens say.
    #[error("{bytes} bytes of the text after byte {byte} are in none of its {tokens} tokens")]
    NotInTokens {
        /// Where it begins, from 0.
        byte: u64,
        /// How much it is.
        bytes: usize,
        /// How many tokens there are.
        tokens: u64,
    },
    /// Less text than the tokens say.
    #[error("the text ends at byte {byte}, its {tokens} tokens say more")]
    Missing {
        /// Where it ends, from 0.
        byte: u64,
        /// How many tokens there are.
        tokens: u64,
    },
}

/// Parts of which a beginning has been compared.
#[derive(Default)]
struct Uncompared {
    /// No two neighbours are of one kind, and none is empty.
    parts: VecDeque<AnswerPart>,
    /// How much of the first of them was compared; less than all of it.
    at: usize,
}

impl Uncompared {
    /// What comes next.
    fn first(&self) -> Option<(PartKind, &[u8])> {
        self.parts.front().map(|part| (part.kind, &part.text.expose().as_bytes()[self.at..]))
    }

    fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Bytes that were not compared.
    fn len(&self) -> usize {
        self.parts.iter().map(|part| part.text.len()).sum::<usize>() - self.at
    }

    fn push(&mut self, more: AnswerParts) {
        for part in more {
            let only = self.parts.len() == 1;
            match self.parts.back_mut() {
                Some(last) if last.kind == part.kind => {
                    // Half of it at least is behind: each byte is moved twice at most, however often text comes.
                    if only && self.at * 2 >= last.text.len() {
                        // Pieces begin and end where characters do, and what was compared is the same: so it ends
                        // there too.
                        last.text = SecretString::from(&last.text.expose()[self.at..]);
                        self.at = 0;
                    }
                    last.text.push_str(part.text.expose());
                }
                Some(_) | None => self.parts.push_back(part),
            }
        }
    }

    /// So many bytes of the first part were compared.
    fn pass(&mut self, bytes: usize) {
        self.at += bytes;
        if self.parts.front().is_some_and(|part| part.text.len() == self.at) {
            self.parts.pop_front();
            self.at = 0;
        }
    }
}

/// Tokens that came and were not decoded yet; wiped on drop.
#[derive(Default)]
struct Waiting {
    tokens: Vec<TokenId>,
    next: usize,
}

impl Waiting {
    fn len(&self) -> usize {
        self.tokens.len() - self.next
    }

    fn push(&mut self, token: TokenId) {
        if self.next == self.tokens.len() {
            self.tokens.clear();
            self.next = 0;
        }
        self.tokens.push(token);
    }

    fn pop(&mut self) -> Option<TokenId> {
        let token = std::mem::take(self.tokens.get_mut(self.next)?);
        self.next += 1;
        Some(token)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.tokens.zeroize();
    }
}

/// What a whole answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recounted {
    /// Whether the tokens themselves end it, because the last one ends answers, completed a stop string or the one call that the answer may have, or
    /// what was held back behind it has a stop string.
    pub over: bool,
    /// Whether tools were called.
    pub called: bool,
}

/// Reads an answer as it arrives and refuses it when its parts are not what its tokens say.
///
/// It runs the machine that the honest writer runs, [`AnswerAssembler`], over the tokens, and demands the same parts: so
/// characters over several tokens, tokens without text, reasoning, calls of tools, and everything held back for a marker
/// or a stop string come out alike. Parts may follow later than their tokens without a limit, since a frame has little
/// room, and never precede them. What the tokens so far hold back may come, as it does at the end: that it was the end
/// shows when no token follows. Whoever shows the answer as it comes knows at the end, and no later than that, that all of
/// it was right.
pub struct AnswerRecount {
    model: TextModel,
    /// Absent once a stop string is complete.
    assembler: Option<AnswerAssembler>,
    /// None while more was said than is owed.
    waiting: Waiting,
    decoded: u64,
    /// What the decoded tokens say.
    owed: Uncompared,
    /// What was said.
    said: Uncompared,
    compared: u64,
    ended: bool,
    called: bool,
}

impl std::fmt::Debug for AnswerRecount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnswerRecount(…)")
    }
}

impl AnswerRecount {
    /// A recount of one answer to this request, which begins as [`TextModel::opening`] says.
    #[must_use]
    pub fn new(model: &TextModel, request: &ChatRequest, opening: Opening) -> Self {
        Self {
            assembler: Some(AnswerAssembler::new(model, request, opening)),
            model: model.clone(),
            waiting: Waiting::default(),
            decoded: 0,
            owed: Uncompared::default(),
            said: Uncompared::default(),
            compared: 0,
            ended: false,
            called: false,
        }
    }

    /// Takes the next piece of the answer. After an error the answer is worthless.
    ///
    /// # Errors
    /// [`RecountError`] as soon as the parts cannot be those of the tokens.
    pub fn push(&mut self, tokens: &[TokenId], parts: AnswerParts) -> Result<(), RecountError> {
        for token in tokens {
            self.take(*token)?;
        }
        self.said.push(parts);
        while self.compare()? && self.decode()? {}
        if self.said.is_empty() || self.is_held() { Ok(()) } else { Err(self.not_in_tokens()) }
    }

    /// Whether what was said too early begins what would come if the answer ended here.
    fn is_held(&self) -> bool {
        let held = self.assembler.clone().map(|assembler| assembler.finish().parts).unwrap_or_default();
        let mut ahead = AnswerParts::default();
        let rest = self.said.parts.iter().enumerate();
        for (index, part) in rest {
            ahead.push(part.kind, &part.text.expose()[if index == 0 { self.said.at } else { 0 }..]);
        }
        held.begins_with(&ahead)
    }

    /// The end of the answer: all of it is there.
    ///
    /// # Errors
    /// [`RecountError`] when it is not all that the tokens say, or more than that.
    pub fn finish(mut self) -> Result<Recounted, RecountError> {
        while self.decode()? {
            self.compare()?;
            if !self.owed.is_empty() {
                break;
            }
        }
        // Every token is decoded now, or the answer is refused: what is owed after all of them was never said.
        let mut over = self.ended || self.assembler.is_none();
        if self.owed.is_empty()
            && let Some(end) = self.assembler.take().map(AnswerAssembler::finish)
        {
            self.owed.push(end.parts);
            over |= end.stopped;
            self.called = end.called;
            self.compare()?;
        }
        match (self.owed.is_empty(), self.said.is_empty()) {
            (true, true) => Ok(Recounted { over, called: self.called }),
            (true, false) => Err(self.not_in_tokens()),
            (false, _) => Err(RecountError::Missing { byte: self.compared, tokens: self.count() }),
        }
    }

    /// Tokens that came.
    fn count(&self) -> u64 {
        self.decoded + self.waiting.len() as u64
    }

    fn not_in_tokens(&self) -> RecountError {
        RecountError::NotInTokens { byte: self.compared, bytes: self.said.len(), tokens: self.count() }
    }

    fn take(&mut self, token: TokenId) -> Result<(), RecountError> {
        let number = self.count() + 1;
        if self.ended {
            return Err(RecountError::AfterEndToken { token: number });
        }
        if self.model.token_bytes(token).is_none() {
            return Err(RecountError::UnknownToken { token: number, vocabulary: self.model.vocabulary() });
        }
        self.ended = self.model.end_tokens().binary_search(&token).is_ok();
        self.waiting.push(token);
        Ok(())
    }

    /// Compares what was said with what is owed. True when more was said: the next token is due.
    fn compare(&mut self) -> Result<bool, RecountError> {
        while let (Some((said_kind, said)), Some((owed_kind, owed))) = (self.said.first(), self.owed.first()) {
            let both = said.len().min(owed.len());
            let same = said.iter().zip(owed).take_while(|(said, owed)| said == owed).count();
            let same = if said_kind == owed_kind { same } else { 0 };
            self.compared += same as u64;
            if same < both {
                return Err(RecountError::Differs { byte: self.compared, token: self.decoded });
            }
            self.said.pass(same);
            self.owed.pass(same);
        }
        Ok(!self.said.is_empty())
    }

    /// Decodes the next token. False when there is none.
    fn decode(&mut self) -> Result<bool, RecountError> {
        let Some(token) = self.waiting.pop() else { return Ok(false) };
        self.decoded += 1;
        let after_stop = RecountError::AfterStop { token: self.decoded };
        let assembler = self.assembler.as_mut().ok_or(after_stop)?;
        let (parts, stopped) = assembler.push(token);
        self.called = assembler.called();
        self.owed.push(parts);
        if stopped {
            // As at the writer: what is still held back belongs to the stop string.
            self.assembler = None;
        }
        Ok(true)
    }
}
