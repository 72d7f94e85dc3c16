//! Whether an answer's text is what its tokens say.

use darkbloom_types::{SecretString, TokenId};
use zeroize::Zeroize as _;

use crate::answer::AnswerAssembler;
use crate::model::TextModel;

/// Why an answer's text is not that of its tokens. Names places and numbers, never what stood there.
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
    /// An answer ends with the token that completes a stop string.
    #[error("token {token} came after the one that completes a stop string")]
    AfterStop {
        /// Which token of the answer, from 1.
        token: u64,
    },
    /// Text and tokens say different things.
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

/// Text of which a part has been compared.
#[derive(Default)]
struct Uncompared {
    text: SecretString,
    at: usize,
}

impl Uncompared {
    fn rest(&self) -> &[u8] {
        &self.text.expose().as_bytes()[self.at..]
    }

    fn push(&mut self, more: &str) {
        // Half of it at least is behind: each byte is moved twice at most, however often text comes.
        if self.at * 2 >= self.text.len() {
            // Pieces begin and end where characters do, and what was compared is the same: so it ends there too.
            self.text = SecretString::from(&self.text.expose()[self.at..]);
            self.at = 0;
        }
        self.text.push_str(more);
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

/// Reads an answer as it arrives and refuses it when its text is not what its tokens say.
///
/// It runs the machine that the honest writer runs, [`AnswerAssembler`], over the tokens, and demands the same text: so
/// characters over several tokens, tokens without text, and everything held back for a stop string come out alike. Text
/// may follow later than its tokens without a limit, since a frame has little room, and never precede them. What the
/// tokens so far hold back may come, as it does at the end: that it was the end shows when no token follows.
/// Whoever shows the text as it comes knows at the end, and no later than that, that all of it was right.
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
}

impl std::fmt::Debug for AnswerRecount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnswerRecount(…)")
    }
}

impl AnswerRecount {
    /// A recount of one answer to a request with these stop strings.
    #[must_use]
    pub fn new(model: &TextModel, stops: &[SecretString]) -> Self {
        Self {
            assembler: Some(AnswerAssembler::new(model.decoder(), stops)),
            model: model.clone(),
            waiting: Waiting::default(),
            decoded: 0,
            owed: Uncompared::default(),
            said: Uncompared::default(),
            compared: 0,
            ended: false,
        }
    }

    /// Takes the next piece of the answer. After an error the answer is worthless.
    ///
    /// # Errors
    /// [`RecountError`] as soon as the text cannot be that of the tokens.
    pub fn push(&mut self, tokens: &[TokenId], text: &str) -> Result<(), RecountError> {
        for token in tokens {
            self.take(*token)?;
        }
        self.said.push(text);
        while self.compare()? && self.decode()? {}
        let ahead = self.said.rest();
        let held = ahead.is_empty() || self.assembler.as_ref().is_some_and(|assembler| assembler.holds(ahead));
        if held { Ok(()) } else { Err(self.not_in_tokens(ahead.len())) }
    }

    /// The end of the answer: all of the text is there. True when the tokens themselves end it, because the last one ends
    /// answers or completed a stop string.
    ///
    /// # Errors
    /// [`RecountError`] when it is not the whole text of the tokens, or more than that.
    pub fn finish(mut self) -> Result<bool, RecountError> {
        while self.decode()? {
            self.compare()?;
            if !self.owed.rest().is_empty() {
                break;
            }
        }
        // Every token is decoded now, or the answer is refused: text that is owed after all of them was never said.
        let over = self.ended || self.assembler.is_none();
        if self.owed.rest().is_empty() {
            let held = self.assembler.take().map(AnswerAssembler::finish).unwrap_or_default();
            self.owed.push(held.expose());
            self.compare()?;
        }
        match (self.owed.rest().len(), self.said.rest().len()) {
            (0, 0) => Ok(over),
            (0, ahead) => Err(self.not_in_tokens(ahead)),
            _ => Err(RecountError::Missing { byte: self.compared, tokens: self.count() }),
        }
    }

    /// Tokens that came.
    fn count(&self) -> u64 {
        self.decoded + self.waiting.len() as u64
    }

    fn not_in_tokens(&self, bytes: usize) -> RecountError {
        RecountError::NotInTokens { byte: self.compared, bytes, tokens: self.count() }
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
        let (said, owed) = (self.said.rest(), self.owed.rest());
        let both = said.len().min(owed.len());
        let same = said.iter().zip(owed).take_while(|(said, owed)| said == owed).count();
        self.compared += same as u64;
        if same < both {
            return Err(RecountError::Differs { byte: self.compared, token: self.decoded });
        }
        self.said.at += same;
        self.owed.at += same;
        Ok(!self.said.rest().is_empty())
    }

    /// Decodes the next token. False when there is none.
    fn decode(&mut self) -> Result<bool, RecountError> {
        let Some(token) = self.waiting.pop() else { return Ok(false) };
        self.decoded += 1;
        let after_stop = RecountError::AfterStop { token: self.decoded };
        let (text, stopped) = self.assembler.as_mut().ok_or(after_stop)?.push(token);
        self.owed.push(text.expose());
        if stopped {
            // As at the writer: what is still held back belongs to the stop string.
            self.assembler = None;
        }
        Ok(true)
    }
}
