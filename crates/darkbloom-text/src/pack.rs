//! Everything that a model's text needs, in one signed-for object.

use std::collections::{BTreeSet, HashMap};
use std::convert::Infallible;
use std::io::Read;

use darkbloom_content::DecodeContentError;
use darkbloom_content::cbor::{self, StrictReader, ToCbor, Written};
use darkbloom_types::{Digest, TokenCount, TokenId};
use minicbor::encode::{Encoder, Write};

use crate::alphabet;
use crate::gguf::{self, Metadata, ReadGgufError};
use crate::split::PreTokenizer;

/// Most tokens of a vocabulary, and most merges: four times the largest vocabulary of today.
const TOKENS_MAX: usize = 1 << 20;
/// Longest token in bytes; the longest of today are runs of 256 spaces.
const TOKEN_BYTES_MAX: usize = 4_096;
/// Longest chat template in bytes; the longest of today have 20 KiB.
const TEMPLATE_BYTES_MAX: usize = 256 << 10;

/// Where a file has its chat template.
const TEMPLATE_KEY: &str = "tokenizer.chat_template";

/// Tokens that end an answer in some family of models, also where a file does not say so.
const END_TOKEN_NAMES: [&str; 6] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>"];

/// Tokens that end an answer of gpt-oss's (github.com/openai/harmony): a call, and the end of all. There the one that other
/// families end with ends each of an answer's messages.
const HARMONY_END_TOKEN_NAMES: [&str; 2] = ["<|call|>", "<|return|>"];
/// The token that ends a message there.
const HARMONY_MESSAGE_END: &str = "<|end|>";

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// A piece of text.
    Normal,
    /// A sign for the model that only a template may write and that shows no text.
    Control,
    /// A piece of text that is always one token, whoever writes it.
    UserDefined,
    /// In the vocabulary and never produced from a text.
    Unused,
}

impl TokenKind {
    /// The number in GGUF files, which this crate's own encoding shares.
    fn code(self) -> u8 {
        match self {
            Self::Normal => 1,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Unused => 5,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Normal, Self::Control, Self::UserDefined, Self::Unused].into_iter().find(|kind| kind.code() == code)
    }

    /// GGUF also knows "unknown", which no text may become either, and "byte", which byte-level vocabularies lack.
    fn from_gguf(code: i64) -> Option<Self> {
        if code == 2 { Some(Self::Control) } else { u8::try_from(code).ok().and_then(Self::from_code) }
    }
}

/// Why a vocabulary or template is not sound.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPackError {
    /// A pre-tokenizer that this program does not have.
    #[error("pre-tokenizer `{0}` is not supported, only `gpt-2`, `llama-bpe`, `qwen2` and `smollm`")]
    UnsupportedPreTokenizer(String),
    /// Something is larger than any honest model's.
    #[error("{what} of {found}, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        found: usize,
        /// How large it may be.
        limit: usize,
    },
    /// A token has no text.
    #[error("token {0} is empty")]
    EmptyToken(usize),
    /// Two tokens have the same text.
    #[error("token {0} has the text of another token")]
    RepeatedToken(usize),
    /// A token's kind stands for nothing here.
    #[error("token {index} is of kind {kind}, which a byte-level vocabulary does not have")]
    UnknownTokenKind {
        /// Which token.
        index: usize,
        /// The number of the kind.
        kind: i64,
    },
    /// There are more or fewer kinds than tokens.
    #[error("{kinds} kinds for {tokens} tokens")]
    KindCount {
        /// How many kinds.
        kinds: usize,
        /// How many tokens.
        tokens: usize,
    },
    /// A byte has no token, so some text could not be written.
    #[error("byte {0} has no token")]
    MissingByte(u8),
    /// A merge of tokens that are not there, or into one that is not.
    #[error("merge {0} is of tokens outside the vocabulary")]
    UnknownMerge(usize),
    /// The same two tokens merge twice.
    #[error("merge {0} stands twice")]
    RepeatedMerge(usize),
    /// A token number beyond the vocabulary.
    #[error("the {0} token is outside the vocabulary")]
    UnknownToken(&'static str),
    /// Nothing would ever end an answer.
    #[error("no token ends an answer")]
    NoEndToken,
    /// There is no room for a prompt.
    #[error("the context length is zero")]
    NoContext,
}

/// Why bytes are not a pack.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodePackError {
    /// Not the one encoding.
    #[error(transparent)]
    Encoding(#[from] DecodeContentError),
    /// Well encoded and not sound.
    #[error(transparent)]
    Invalid(#[from] InvalidPackError),
}

/// Everything that turns conversations into a model's tokens and its tokens into text: vocabulary, merges, chat
/// template and the few numbers around them. The catalogue names it by [`TextPack::digest`]; every value of this type
/// is sound.
#[derive(Clone, PartialEq, Eq)]
pub struct TextPack {
    pub(crate) pre_tokenizer: PreTokenizer,
    /// Normal tokens in the byte alphabet, the others as they are written.
    pub(crate) tokens: Vec<String>,
    pub(crate) kinds: Vec<TokenKind>,
    /// Left and right, in order of rank.
    pub(crate) merges: Vec<(u32, u32)>,
    pub(crate) template: String,
    pub(crate) begin: Option<u32>,
    /// What templates call `eos_token`.
    pub(crate) end: Option<u32>,
    /// Whatever ends an answer, ascending.
    pub(crate) ends: Vec<u32>,
    pub(crate) add_begin: bool,
    pub(crate) context: u32,
}

impl std::fmt::Debug for TextPack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextPack")
            .field("pre_tokenizer", &self.pre_tokenizer)
            .field("tokens", &self.tokens.len())
            .field("merges", &self.merges.len())
            .field("context", &self.context)
            .finish_non_exhaustive()
    }
}

impl TextPack {
    /// Reads the pack from bytes that hold at least a GGUF file's metadata.
    ///
    /// # Errors
    /// [`ReadGgufError`]; [`ReadGgufError::Truncated`] when more of the file is needed.
    pub fn from_gguf_header(bytes: &[u8]) -> Result<Self, ReadGgufError> {
        Self::from_gguf(bytes)
    }

    /// Reads the pack from a GGUF file, of which only the metadata is read.
    ///
    /// # Errors
    /// [`ReadGgufError`].
    pub fn from_gguf<R: Read>(reader: R) -> Result<Self, ReadGgufError> {
        Self::from_metadata(&gguf::read_metadata(reader)?)
    }

    /// Takes the pack out of metadata that was already read.
    ///
    /// # Errors
    /// [`ReadGgufError`] when something is missing or not sound.
    pub fn from_metadata(metadata: &Metadata) -> Result<Self, ReadGgufError> {
        Self::with_template(metadata, metadata.text(TEMPLATE_KEY)?)
    }

    /// Takes the pack out of metadata as [`Self::from_metadata`] does, with an empty template where there is none.
    pub(crate) fn with_or_without_template(metadata: &Metadata) -> Result<Self, ReadGgufError> {
        let template = if metadata.entries.contains_key(TEMPLATE_KEY) { metadata.text(TEMPLATE_KEY)? } else { "" };
        Self::with_template(metadata, template)
    }

    fn with_template(metadata: &Metadata, template: &str) -> Result<Self, ReadGgufError> {
        let tokenizer = metadata.text("tokenizer.ggml.model")?;
        if tokenizer != "gpt2" {
            return Err(ReadGgufError::UnsupportedTokenizer(tokenizer.to_owned()));
        }
        let rules = metadata.text("tokenizer.ggml.pre")?;
        let pre_tokenizer = PreTokenizer::from_name(rules)
            .ok_or_else(|| InvalidPackError::UnsupportedPreTokenizer(rules.to_owned()))?;
        let tokens = metadata.texts("tokenizer.ggml.tokens")?.to_vec();
        let kinds = read_kinds(metadata.integers("tokenizer.ggml.token_type")?)?;
        let merges = read_merges(&tokens, metadata.texts("tokenizer.ggml.merges")?)?;
        let architecture = metadata.text("general.architecture")?;
        let context_key = format!("{architecture}.context_length");
        let context = metadata.number(&context_key)?.ok_or(ReadGgufError::MissingKey(context_key))?;
        let end = metadata.number("tokenizer.ggml.eos_token_id")?;
        let mut ends: BTreeSet<u32> = end.into_iter().collect();
        ends.extend(metadata.number("tokenizer.ggml.eot_token_id")?);
        ends.extend(metadata.number("tokenizer.ggml.eom_token_id")?);
        let controls = || (0..).zip(tokens.iter().zip(&kinds)).filter(|(_, (_, kind))| **kind == TokenKind::Control);
        ends.extend(controls().filter(|(_, (token, _))| END_TOKEN_NAMES.contains(&token.as_str())).map(|(at, _)| at));
        let of_harmony = |name: &str| controls().find(|(_, (token, _))| *token == name).map(|(at, _)| at);
        if let [Some(call), Some(over)] = HARMONY_END_TOKEN_NAMES.map(of_harmony) {
            ends.extend([call, over]);
            ends.retain(|end| Some(*end) != of_harmony(HARMONY_MESSAGE_END));
        }
        let pack = Self {
            pre_tokenizer,
            tokens,
            kinds,
            merges,
            template: template.to_owned(),
            begin: metadata.number("tokenizer.ggml.bos_token_id")?,
            end,
            ends: ends.into_iter().collect(),
            // Files of Llama 3's family leave it out and mean it.
            add_begin: metadata
                .boolean("tokenizer.ggml.add_bos_token")?
                .unwrap_or(pre_tokenizer == PreTokenizer::Llama3),
            context,
        };
        pack.check()?;
        Ok(pack)
    }

    /// The one encoding of this pack: deterministic CBOR with integer keys.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(self).expose().to_vec()
    }

    /// Reads exactly what [`Self::to_bytes`] writes.
    ///
    /// # Errors
    /// [`DecodePackError`] for every other sequence of bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodePackError> {
        let mut reader = StrictReader::new(bytes);
        let mut map = reader.map(key::LAST)?;
        let mut fields = Fields::default();
        while let Some(key) = map.key(&mut reader)? {
            fields.read(key, &mut reader)?;
        }
        reader.end()?;
        let pack = fields.finish()?;
        pack.check()?;
        Ok(pack)
    }

    /// SHA-256 over [`Self::to_bytes`].
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(&[cbor::encode(self).expose()])
    }

    /// How long prompt and answer may be together.
    #[must_use]
    pub fn context_length(&self) -> TokenCount {
        TokenCount(self.context)
    }

    /// How many tokens there are.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.tokens.len()
    }

    /// How text is cut before encoding.
    #[must_use]
    pub fn pre_tokenizer(&self) -> PreTokenizer {
        self.pre_tokenizer
    }

    /// The chat template, in Jinja.
    #[must_use]
    pub fn chat_template(&self) -> &str {
        &self.template
    }

    /// The token that begins every prompt, where the model has one.
    #[must_use]
    pub fn begin_token(&self) -> Option<TokenId> {
        self.begin.map(TokenId)
    }

    /// The tokens that end an answer, ascending.
    pub fn end_tokens(&self) -> impl Iterator<Item = TokenId> + '_ {
        self.ends.iter().copied().map(TokenId)
    }

    /// The tokens of one kind with their numbers.
    pub(crate) fn of_kind(&self, wanted: TokenKind) -> impl Iterator<Item = (&String, u32)> {
        let tokens = (0..).zip(self.tokens.iter().zip(&self.kinds));
        tokens.filter(move |(_, (_, kind))| **kind == wanted).map(|(number, (token, _))| (token, number))
    }

    /// What each merge becomes, in order of rank; sound for every value of this type.
    pub(crate) fn merge_results(&self) -> Option<Vec<u32>> {
        let numbers = token_numbers(&self.tokens);
        let mut joined = String::new();
        let results = self.merges.iter().map(|&(left, right)| {
            joined.clear();
            joined.push_str(self.tokens.get(left as usize)?);
            joined.push_str(self.tokens.get(right as usize)?);
            numbers.get(joined.as_str()).copied()
        });
        results.collect()
    }

    fn check(&self) -> Result<(), InvalidPackError> {
        self.check_vocabulary()?;
        self.check_merges()?;
        at_most("a chat template length", self.template.len(), TEMPLATE_BYTES_MAX)?;
        let known = |token: &u32| (*token as usize) < self.tokens.len();
        if !self.begin.iter().all(known) || (self.add_begin && self.begin.is_none()) {
            return Err(InvalidPackError::UnknownToken("first"));
        }
        if !self.end.iter().all(known) || !self.ends.iter().all(known) {
            return Err(InvalidPackError::UnknownToken("last"));
        }
        if self.ends.is_empty() {
            return Err(InvalidPackError::NoEndToken);
        }
        if self.context == 0 { Err(InvalidPackError::NoContext) } else { Ok(()) }
    }

    fn check_vocabulary(&self) -> Result<(), InvalidPackError> {
        at_most("a vocabulary", self.tokens.len(), TOKENS_MAX)?;
        if self.kinds.len() != self.tokens.len() {
            return Err(InvalidPackError::KindCount { kinds: self.kinds.len(), tokens: self.tokens.len() });
        }
        let mut seen = BTreeSet::new();
        let mut bytes = [false; 256];
        for (index, (token, kind)) in self.tokens.iter().zip(&self.kinds).enumerate() {
            at_most("a token length", token.len(), TOKEN_BYTES_MAX)?;
            if token.is_empty() {
                return Err(InvalidPackError::EmptyToken(index));
            }
            if !seen.insert(token.as_str()) {
                return Err(InvalidPackError::RepeatedToken(index));
            }
            if let (Some(byte), TokenKind::Normal) = (single_byte(token), kind) {
                bytes[usize::from(byte)] = true;
            }
        }
        match (0..=u8::MAX).find(|byte| !bytes[usize::from(*byte)]) {
            Some(byte) => Err(InvalidPackError::MissingByte(byte)),
            None => Ok(()),
        }
    }

    fn check_merges(&self) -> Result<(), InvalidPackError> {
        at_most("a number of merges", self.merges.len(), TOKENS_MAX)?;
        let results = self.merge_results();
        if results.is_none() {
            let numbers = token_numbers(&self.tokens);
            let sound = |&(left, right): &(u32, u32)| {
                let (left, right) = (self.tokens.get(left as usize), self.tokens.get(right as usize));
                left.zip(right).is_some_and(|(left, right)| numbers.contains_key(format!("{left}{right}").as_str()))
            };
            let index = self.merges.iter().position(|merge| !sound(merge)).unwrap_or(0);
            return Err(InvalidPackError::UnknownMerge(index));
        }
        // A text must never become a control token, also not by merging.
        let normal = |token: u32| self.kinds[token as usize] == TokenKind::Normal;
        if let Some(index) = results.iter().flatten().position(|&token| !normal(token)) {
            return Err(InvalidPackError::UnknownMerge(index));
        }
        let mut seen = BTreeSet::new();
        match self.merges.iter().position(|merge| !seen.insert(*merge)) {
            Some(index) => Err(InvalidPackError::RepeatedMerge(index)),
            None => Ok(()),
        }
    }
}

/// The byte that a token stands for, if it stands for one.
pub(crate) fn single_byte(token: &str) -> Option<u8> {
    let mut characters = token.chars();
    let first = characters.next()?;
    if characters.next().is_some() { None } else { alphabet::byte(first) }
}

fn at_most(what: &'static str, found: usize, limit: usize) -> Result<(), InvalidPackError> {
    if found > limit { Err(InvalidPackError::TooLarge { what, found, limit }) } else { Ok(()) }
}

fn token_numbers(tokens: &[String]) -> HashMap<&str, u32> {
    tokens.iter().map(String::as_str).zip(0..).collect()
}

fn read_kinds(codes: &[i64]) -> Result<Vec<TokenKind>, InvalidPackError> {
    let kinds = codes
        .iter()
        .enumerate()
        .map(|(index, &kind)| TokenKind::from_gguf(kind).ok_or(InvalidPackError::UnknownTokenKind { index, kind }));
    kinds.collect()
}

/// Merges stand in GGUF files as two tokens with a space between them, which no token contains.
fn read_merges(tokens: &[String], merges: &[String]) -> Result<Vec<(u32, u32)>, InvalidPackError> {
    let numbers = token_numbers(tokens);
    let merges = merges.iter().enumerate().map(|(index, merge)| {
        let sides = merge.split_once(' ').and_then(|(left, right)| Some((*numbers.get(left)?, *numbers.get(right)?)));
        sides.ok_or(InvalidPackError::UnknownMerge(index))
    });
    merges.collect()
}

/// The keys of the encoding.
mod key {
    pub(super) const PRE_TOKENIZER: u64 = 1;
    pub(super) const TOKENS: u64 = 2;
    pub(super) const KINDS: u64 = 3;
    pub(super) const MERGES: u64 = 4;
    pub(super) const TEMPLATE: u64 = 5;
    pub(super) const BEGIN: u64 = 6;
    pub(super) const END: u64 = 7;
    pub(super) const ENDS: u64 = 8;
    pub(super) const ADD_BEGIN: u64 = 9;
    pub(super) const CONTEXT: u64 = 10;
    pub(super) const LAST: u64 = CONTEXT;
}

impl ToCbor for TextPack {
    fn write<W: Write<Error = Infallible>>(&self, encoder: &mut Encoder<W>) -> Written {
        encoder.map(key::LAST - 2 + u64::from(self.begin.is_some()) + u64::from(self.end.is_some()))?;
        encoder.u64(key::PRE_TOKENIZER)?.str(self.pre_tokenizer.name())?;
        encoder.u64(key::TOKENS)?.array(self.tokens.len() as u64)?;
        for token in &self.tokens {
            encoder.str(token)?;
        }
        let kinds: Vec<u8> = self.kinds.iter().map(|kind| kind.code()).collect();
        encoder.u64(key::KINDS)?.bytes(&kinds)?;
        encoder.u64(key::MERGES)?.array(2 * self.merges.len() as u64)?;
        for (left, right) in &self.merges {
            encoder.u32(*left)?.u32(*right)?;
        }
        encoder.u64(key::TEMPLATE)?.str(&self.template)?;
        if let Some(begin) = self.begin {
            encoder.u64(key::BEGIN)?.u32(begin)?;
        }
        if let Some(end) = self.end {
            encoder.u64(key::END)?.u32(end)?;
        }
        encoder.u64(key::ENDS)?.array(self.ends.len() as u64)?;
        for end in &self.ends {
            encoder.u32(*end)?;
        }
        encoder.u64(key::ADD_BEGIN)?.bool(self.add_begin)?;
        encoder.u64(key::CONTEXT)?.u32(self.context)?;
        Ok(())
    }
}

/// What was read so far of an encoding.
#[derive(Default)]
struct Fields {
    pre_tokenizer: Option<PreTokenizer>,
    tokens: Option<Vec<String>>,
    kinds: Option<Vec<TokenKind>>,
    merges: Option<Vec<(u32, u32)>>,
    template: Option<String>,
    begin: Option<u32>,
    end: Option<u32>,
    ends: Option<Vec<u32>>,
    add_begin: Option<bool>,
    context: Option<u32>,
}

impl Fields {
    fn read(&mut self, key: u64, reader: &mut StrictReader<'_>) -> Result<(), DecodePackError> {
        match key {
            key::PRE_TOKENIZER => {
                let name = reader.text()?;
                let known = PreTokenizer::ALL.into_iter().find(|rules| rules.name() == name);
                let unsupported = || InvalidPackError::UnsupportedPreTokenizer(name.chars().take(64).collect());
                self.pre_tokenizer = Some(known.ok_or_else(unsupported)?);
            }
            key::TOKENS => {
                let count = reader.array("tokens", TOKENS_MAX as u64)?;
                let tokens = (0..count).map(|_| reader.text().map(str::to_owned));
                self.tokens = Some(tokens.collect::<Result<_, _>>()?);
            }
            key::KINDS => {
                let kinds = reader.bytes()?.iter().enumerate().map(|(index, &code)| {
                    let kind = i64::from(code);
                    TokenKind::from_code(code).ok_or(InvalidPackError::UnknownTokenKind { index, kind })
                });
                self.kinds = Some(kinds.collect::<Result<_, _>>()?);
            }
            key::MERGES => {
                let count = reader.array("halves of merges", 2 * TOKENS_MAX as u64)?;
                if !count.is_multiple_of(2) {
                    return Err(DecodeContentError::OutOfRange { what: "the number of halves of merges" }.into());
                }
                let merges = (0..count / 2).map(|_| Ok((reader.uint32("a token")?, reader.uint32("a token")?)));
                self.merges = Some(merges.collect::<Result<_, DecodeContentError>>()?);
            }
            key::TEMPLATE => self.template = Some(reader.text()?.to_owned()),
            key::BEGIN => self.begin = Some(reader.uint32("a token")?),
            key::END => self.end = Some(reader.uint32("a token")?),
            key::ENDS => {
                let count = reader.array("end tokens", TOKENS_MAX as u64)?;
                let ends: Vec<u32> = (0..count).map(|_| reader.uint32("a token")).collect::<Result<_, _>>()?;
                if !ends.is_sorted_by(|earlier, later| earlier < later) {
                    return Err(DecodeContentError::OutOfRange { what: "the order of end tokens" }.into());
                }
                self.ends = Some(ends);
            }
            key::ADD_BEGIN => self.add_begin = Some(reader.boolean()?),
            key::CONTEXT => self.context = Some(reader.uint32("the context length")?),
            key => return Err(DecodeContentError::UnknownKey { key }.into()),
        }
        Ok(())
    }

    fn finish(self) -> Result<TextPack, DecodePackError> {
        fn required<T>(field: Option<T>, key: u64) -> Result<T, DecodeContentError> {
            field.ok_or(DecodeContentError::MissingKey { key })
        }
        Ok(TextPack {
            pre_tokenizer: required(self.pre_tokenizer, key::PRE_TOKENIZER)?,
            tokens: required(self.tokens, key::TOKENS)?,
            kinds: required(self.kinds, key::KINDS)?,
            merges: required(self.merges, key::MERGES)?,
            template: required(self.template, key::TEMPLATE)?,
            begin: self.begin,
            end: self.end,
            ends: required(self.ends, key::ENDS)?,
            add_begin: required(self.add_begin, key::ADD_BEGIN)?,
            context: required(self.context, key::CONTEXT)?,
        })
    }
}
