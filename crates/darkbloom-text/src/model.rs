//! A text pack, ready for work.

use std::borrow::Cow;
use std::sync::Arc;

use darkbloom_content::ChatRequest;
use darkbloom_types::{SecretTokens, TokenCount, TokenId};
use zeroize::Zeroizing;

use crate::bpe::Workspace;
use crate::decoder::{TokenDecoder, TokenTable};
use crate::format::{AnswerFormat, Mark, Marker, Written};
use crate::pack::{TextPack, TokenKind};
use crate::parser::{Opening, Reading};
use crate::template::{ChatTemplate, ControlTokens, Segment};
use crate::tokenizer::{Tokenizer, token_text};

pub use crate::template::RenderPromptError;

/// Tokens at a prompt's end in which a marker and the line ends behind it are looked for: a marker is eight bytes long,
/// and may be as many tokens.
const PROMPT_END_TOKENS: usize = 16;
/// Bytes of a prompt's end in which such a marker's letters are looked for: so many of the longest tokens that are usual.
const PROMPT_END_BYTES_MAX: usize = PROMPT_END_TOKENS * 16;

/// Why a pack cannot be worked with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildTextModelError {
    /// The chat template does not compile, fails on a plain conversation, or hides its control tokens.
    #[error("the chat template cannot be used")]
    Template(#[source] RenderPromptError),
}

/// Why a conversation does not become a prompt of at most so many tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MakePromptError {
    /// The model's template does not take it.
    #[error(transparent)]
    Render(#[from] RenderPromptError),
    /// It has more tokens. How many was not counted: that is the work which the limit saves.
    #[error("the prompt has more than {most} tokens")]
    TooManyTokens {
        /// What was allowed.
        most: TokenCount,
    },
}

/// Tokenizer, chat template and decoder of one model. Cheap to clone; keeps nothing of what it is given.
#[derive(Clone)]
pub struct TextModel(Arc<Parts>);

struct Parts {
    tokenizer: Tokenizer,
    template: ChatTemplate,
    format: AnswerFormat,
    /// The markers of that format, and which of them each token is that is one.
    marks: Arc<[Mark]>,
    mark_tokens: Vec<(TokenId, u8)>,
    table: Arc<TokenTable>,
    begin: Option<TokenId>,
    ends: Vec<TokenId>,
    context: TokenCount,
}

impl std::fmt::Debug for TextModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextModel").field("vocabulary", &self.vocabulary()).finish_non_exhaustive()
    }
}

impl TextModel {
    /// Builds the tables and tries the chat template.
    ///
    /// # Errors
    /// [`BuildTextModelError`].
    pub fn new(pack: TextPack) -> Result<Self, BuildTextModelError> {
        let controls =
            ControlTokens::new(pack.of_kind(TokenKind::Control).map(|(token, number)| (token.clone(), number)));
        let name = |token: Option<u32>| token.and_then(|token| pack.tokens.get(token as usize)).map(String::as_str);
        let format = AnswerFormat::of_template(&pack.template);
        let (begin, end) = (name(pack.begin), name(pack.end));
        let template = ChatTemplate::new(&pack.template, controls, begin, end, format.calls.is_some())
            .map_err(BuildTextModelError::Template)?;
        let (marks, mark_tokens) = find_marks(format, &pack);
        let is_marker = |token: &str| format.markers().any(|(marker, _)| marker == token);
        let table = TokenTable::new(pack.tokens.iter().zip(&pack.kinds).map(|(token, kind)| match kind {
            // It takes the place of what it parts, wherever room is reckoned; the parser gets it as a marker.
            TokenKind::Control if is_marker(token) => Cow::Borrowed(token.as_bytes()),
            TokenKind::Control => Cow::Borrowed([].as_slice()),
            TokenKind::UserDefined => Cow::Borrowed(token.as_bytes()),
            TokenKind::Normal | TokenKind::Unused => Cow::Owned(token_text(token)),
        }));
        Ok(Self(Arc::new(Parts {
            tokenizer: Tokenizer::new(&pack),
            template,
            format,
            marks: marks.into(),
            mark_tokens,
            table: Arc::new(table),
            begin: pack.begin.filter(|_| pack.add_begin).map(TokenId),
            ends: pack.end_tokens().collect(),
            context: pack.context_length(),
        })))
    }

    /// The tokens that ask this model for its next answer.
    ///
    /// # Errors
    /// [`RenderPromptError`] when the model's template does not take this conversation.
    pub fn prompt_tokens(&self, request: &ChatRequest) -> Result<SecretTokens, RenderPromptError> {
        let segments = self.0.template.render(request)?;
        // No prompt has as many bytes, so none has as many tokens.
        let (tokens, _) = self.segment_tokens(&segments, usize::MAX);
        Ok(tokens)
    }

    /// The tokens that ask this model for its next answer, if they are `most` at most. Otherwise the work ends early: no more
    /// text is tokenised than so many tokens can stand for, and the next piece is looked at only if it could fit.
    ///
    /// # Errors
    /// [`MakePromptError`] when the model's template does not take this conversation, or it has more tokens.
    pub fn prompt_tokens_within(
        &self,
        request: &ChatRequest,
        most: TokenCount,
    ) -> Result<SecretTokens, MakePromptError> {
        let segments = self.0.template.render(request)?;
        let (tokens, whole) = self.segment_tokens(&segments, most.0 as usize);
        if whole { Ok(tokens) } else { Err(MakePromptError::TooManyTokens { most }) }
    }

    /// The fewest tokens that a text of so many bytes can have, without looking at it: every token stands for a bounded number
    /// of them, since the tokenizers here neither change a text nor leave anything of it out. It counts for the text of a
    /// rendered prompt; of what a message says, a chat template may leave something out.
    #[must_use]
    pub fn tokens_min(&self, bytes: usize) -> TokenCount {
        self.0.tokenizer.tokens_min(bytes)
    }

    /// The tokens of a rendered prompt and whether they are all there: no piece is begun that would bring more than `most`.
    fn segment_tokens(&self, segments: &[Segment], most: usize) -> (SecretTokens, bool) {
        // A token has at least one byte, so the buffer never grows and leaves no copy behind.
        let room = segments.iter().map(|segment| match segment {
            Segment::Plain(text) => text.len(),
            Segment::Control(_) => 1,
        });
        let mut tokens = Vec::with_capacity(1 + room.sum::<usize>());
        let first_control = segments.first().and_then(|segment| match segment {
            Segment::Control(token) => Some(TokenId(*token)),
            Segment::Plain(_) => None,
        });
        // Many templates write the first token themselves.
        tokens.extend(self.0.begin.filter(|begin| first_control != Some(*begin)));
        let mut workspace = Workspace::default();
        // Before any work: the least that the whole prompt can have.
        let least = segments.iter().map(|segment| match segment {
            Segment::Plain(text) => self.tokens_min(text.len()).0 as usize,
            Segment::Control(_) => 1,
        });
        let mut fits = tokens.len().saturating_add(least.sum::<usize>()) <= most;
        for segment in segments {
            fits = fits
                && match segment {
                    Segment::Control(token) => {
                        tokens.push(TokenId(*token));
                        tokens.len() <= most
                    }
                    Segment::Plain(text) => self.0.tokenizer.encode(text.expose(), most, &mut workspace, &mut tokens),
                };
        }
        (SecretTokens::new(tokens), fits)
    }

    /// The tokens of a text in which no token is special, neither a control token nor one that always stays whole.
    #[must_use]
    pub fn text_tokens(&self, text: &str) -> SecretTokens {
        let mut tokens = Vec::with_capacity(text.len());
        self.0.tokenizer.encode_plain(text, usize::MAX, &mut Workspace::default(), &mut tokens);
        SecretTokens::new(tokens)
    }

    /// The tokens that end an answer, ascending.
    #[must_use]
    pub fn end_tokens(&self) -> &[TokenId] {
        &self.0.ends
    }

    /// How long prompt and answer may be together.
    #[must_use]
    pub fn context_length(&self) -> TokenCount {
        self.0.context
    }

    /// What there is to tell apart in its answers.
    #[must_use]
    pub fn answer_format(&self) -> AnswerFormat {
        self.0.format
    }

    /// The one token that is written like this and is no part of a text's own letters, if there is one: a control token, or
    /// one that stays whole in every text.
    #[must_use]
    pub fn special_token(&self, text: &str) -> Option<TokenId> {
        let whole =
            self.0.tokenizer.user_defined().find(text).filter(|(at, length, _)| (*at, *length) == (0, text.len()));
        self.0.template.control(text).or(whole.map(|(_, _, token)| token))
    }

    /// The tokens that no text is made of.
    pub fn control_tokens(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.0.template.controls()
    }

    /// Whether its template takes tools, and their calls can be read.
    #[must_use]
    pub fn takes_tools(&self) -> bool {
        self.0.template.takes_tools()
    }

    /// Within what the answer to this prompt begins: its end says so. What somebody wrote before the template's last control
    /// token does not count.
    #[must_use]
    pub fn opening(&self, prompt: &SecretTokens) -> Opening {
        let Some((index, mark)) = (0..).zip(&*self.0.marks).find(|(_, mark)| mark.marker == Marker::Reason) else {
            return Opening::Free;
        };
        let is_white = |bytes: &[u8]| std::str::from_utf8(bytes).is_ok_and(|text| text.trim().is_empty());
        let mut text = Zeroizing::new(Vec::with_capacity(PROMPT_END_BYTES_MAX));
        for token in prompt.expose().iter().rev().take(PROMPT_END_TOKENS) {
            let bytes = self.token_bytes(*token).unwrap_or_default();
            if mark.written != Written::Letters {
                match self.mark(*token) {
                    Some(found) if found == index => return Opening::Reasoning,
                    None if !bytes.is_empty() && is_white(bytes) => continue,
                    Some(_) | None => break,
                }
            }
            if bytes.is_empty() || self.mark(*token).is_some() || text.len() + bytes.len() > PROMPT_END_BYTES_MAX {
                break;
            }
            text.extend(bytes.iter().rev());
        }
        text.reverse();
        let ends = String::from_utf8_lossy(&text).trim_end().ends_with(mark.text);
        if ends { Opening::Reasoning } else { Opening::Free }
    }

    /// How its answers are read.
    pub(crate) fn reading(&self) -> Reading {
        Reading { format: self.0.format, marks: Arc::clone(&self.0.marks), one_call: self.0.template.takes_one_call() }
    }

    /// Which of the format's markers this token is, if it is one.
    pub(crate) fn mark(&self, token: TokenId) -> Option<u8> {
        self.0.mark_tokens.iter().find(|(number, _)| *number == token).map(|(_, mark)| *mark)
    }

    /// A decoder for one answer.
    #[must_use]
    pub fn decoder(&self) -> TokenDecoder {
        TokenDecoder::new(Arc::clone(&self.0.table))
    }

    /// How many tokens there are.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.0.table.len()
    }

    /// What a token adds to what the decoder hands out: nothing for a control token, unless it is one of the markers of
    /// [`Self::answer_format`]. `None` beyond the vocabulary.
    #[must_use]
    pub fn token_bytes(&self, token: TokenId) -> Option<&[u8]> {
        self.0.table.bytes(token)
    }
}

/// The markers of a format as this vocabulary has them, and the tokens that are one.
fn find_marks(format: AnswerFormat, pack: &TextPack) -> (Vec<Mark>, Vec<(TokenId, u8)>) {
    let (mut marks, mut tokens) = (Vec::new(), Vec::new());
    for (index, (text, marker)) in (0..).zip(format.markers()) {
        let mut written = Written::Letters;
        let named = (0..).zip(pack.tokens.iter().zip(&pack.kinds)).find(|(_, (token, _))| *token == text);
        if let Some((number, (_, kind @ (TokenKind::Control | TokenKind::UserDefined)))) = named {
            written = if *kind == TokenKind::Control { Written::Control } else { Written::Whole };
            tokens.push((TokenId(number), index));
        }
        marks.push(Mark { text, marker, written });
    }
    (marks, tokens)
}

#[cfg(test)]
mod tests;
