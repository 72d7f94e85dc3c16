//! What holds an answer to its schema, or to a call: grammars over a model's vocabulary.
//!
//! A request's schema is text that somebody sent, and what it takes to follow it is found out by trying. So it is checked
//! before (`guides/schema.rs`), made into a grammar within a time, on a thread with a stack of its own, and each mask has
//! a budget.
//!
//! The grammars are those of `llguidance` (github.com/guidance-ai/llguidance), whose parser walks a tree of the vocabulary.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use darkbloom_batch::{Guide, GuideError, SharedGuide, TokenMask};
use darkbloom_content::ChatRequest;
use darkbloom_text::{Opening, TextModel};
use darkbloom_types::{Refusal, RefusalCode, SecretTokens, TokenId};
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

use self::schema::SchemaFault;

mod calls;
mod grammar;
mod schema;

/// How long a schema may take to become a grammar. The largest schemas that people use take some tens of milliseconds.
const COMPILE_WAIT: Duration = Duration::from_secs(2);
/// Grammars of one model that are made at the same time, those included that took too long and are not done: as many as
/// prompts are made at the same time, and as many left behind. Beyond that others are asked.
const COMPILES_MAX: usize = 4;
/// Stack of the thread that makes one. Schemas are walked by recursion; what is not touched costs nothing.
const STACK_BYTES: usize = 64 << 20;
/// Longest token that an answer with a grammar may have, in bytes: the tree of the vocabulary is at most 1,024 deep.
const TOKEN_BYTES_MAX: usize = 512;
/// Most bytes of all tokens together: the tree has at most four million nodes. The largest vocabularies of today have two.
const VOCABULARY_BYTES_MAX: usize = 4_000_000;

/// What bounds the work and the memory of a grammar and of each mask.
fn limits() -> ParserLimits {
    ParserLimits {
        // Places that a grammar can be in after one token; an object with 2,000 optional members is in 8,000.
        max_items_in_row: 10_000,
        // Some 20 ms, as the makers of the parser measured it.
        initial_lexer_fuel: 1_000_000,
        // Some 15 ms.
        step_lexer_fuel: 200_000,
        // Some 3 ms.
        step_max_items: 50_000,
        // Up to 2 kB each: 40 MB for a row.
        max_lexer_states: 20_000,
        max_grammar_size: 500_000,
        precompute_large_lexemes: false,
        // They quote the answer.
        verbose_errors: false,
    }
}

/// Why a request's answer cannot be held to what it asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GuideFault {
    /// A schema.
    #[error(transparent)]
    Schema(#[from] SchemaFault),
    /// Not made in time.
    #[error("the schema takes too long to follow; make it simpler")]
    TooSlow,
    /// The model's vocabulary has no end, or is too large.
    #[error("answers of this model cannot be held to a format")]
    Vocabulary,
    /// The marks of the model's format are no tokens of their own.
    #[error("this model cannot be made to call")]
    Calls,
    /// Too many are being made.
    #[error("too many schemas are being read")]
    Busy,
}

impl From<GuideFault> for Refusal {
    fn from(fault: GuideFault) -> Self {
        let code = match fault {
            GuideFault::Busy => RefusalCode::Overloaded,
            GuideFault::Schema(_) | GuideFault::TooSlow | GuideFault::Vocabulary | GuideFault::Calls => {
                RefusalCode::InvalidRequest
            }
        };
        Self::new(code, fault.to_string())
    }
}

/// One model's vocabulary as grammars need it. It is made when the first grammar is: 0.4 s for a vocabulary of 152k.
#[derive(Default)]
pub struct Guides {
    factory: OnceLock<Option<Arc<ParserFactory>>>,
    compiling: Arc<AtomicUsize>,
}

impl Guides {
    /// The guide of a request's answer, which begins as its prompt says; nothing where it may be whatever it likes. Blocks.
    ///
    /// # Errors
    /// [`GuideFault`] says why there can be none.
    pub fn guide(
        &self,
        text: &TextModel,
        request: &ChatRequest,
        opening: Opening,
    ) -> Result<Option<SharedGuide>, GuideFault> {
        let Some(grammar) = grammar::of_request(text, request, opening)? else { return Ok(None) };
        let factory = self.factory.get_or_init(|| factory(text).map(Arc::new)).clone();
        let matcher = self.compile(factory.ok_or(GuideFault::Vocabulary)?, grammar)?;
        Ok(Some(SharedGuide::new(GrammarGuide { matcher, heard: SecretTokens::default() })))
    }

    /// Makes a grammar, and its first mask.
    fn compile(&self, factory: Arc<ParserFactory>, grammar: TopLevelGrammar) -> Result<Matcher, GuideFault> {
        /// Counts one as long as it is made, waited for or not.
        struct Place(Arc<AtomicUsize>);
        impl Drop for Place {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let taken = self.compiling.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(&self.compiling));
        if taken >= COMPILES_MAX {
            return Err(GuideFault::Busy);
        }
        let (done, made) = sync_channel(1);
        let make = move || {
            let mut matcher = Matcher::new(factory.create_parser(grammar));
            let made = match matcher.compute_mask_or_eos() {
                Ok(_) => Ok(matcher),
                Err(error) => Err(SchemaFault::of_grammar(&error.to_string())),
            };
            drop(place);
            // Nobody waits for what took too long.
            let _ = done.send(made);
        };
        let thread = std::thread::Builder::new().name("darkbloom-grammar".to_owned()).stack_size(STACK_BYTES);
        if thread.spawn(make).is_err() {
            return Err(GuideFault::Busy);
        }
        Ok(made.recv_timeout(COMPILE_WAIT).map_err(|_| GuideFault::TooSlow)??)
    }
}

/// What makes grammars for a vocabulary; nothing where it cannot be.
fn factory(text: &TextModel) -> Option<ParserFactory> {
    let ends: Vec<u32> = text.end_tokens().iter().map(|token| token.0).collect();
    let count = u32::try_from(text.vocabulary()).ok()?;
    if ends.is_empty() {
        return None;
    }
    let tokens = (0..count).map(|token| text.token_bytes(TokenId(token)).unwrap_or_default());
    // Longer ones are never allowed, nor is what looks like the parser's own mark: no text begins with that byte.
    let usable = |bytes: &[u8]| bytes.len() <= TOKEN_BYTES_MAX && (bytes.len() == 1 || !bytes.starts_with(&[MARK]));
    let mut words: Vec<_> = tokens.map(|bytes| if usable(bytes) { bytes.to_vec() } else { Vec::new() }).collect();
    for token in text.control_tokens().chain(text.end_tokens().iter().copied()) {
        if let Some(word) = words.get_mut(token.0 as usize) {
            *word = [&[MARK], format!("<{}>", token.0).as_bytes()].concat();
        }
    }
    if words.iter().map(Vec::len).sum::<usize>() > VOCABULARY_BYTES_MAX {
        return None;
    }
    let trie = TokTrie::from(&TokRxInfo::new(count, ends[0]), &words).with_eos_tokens(&ends);
    let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
    let slices = SlicedBiasComputer::general_slices();
    let mut factory = ParserFactory::new(&environment, InferenceCapabilities::default(), &slices).ok()?;
    factory.quiet();
    *factory.limits_mut() = limits();
    Some(factory)
}

/// Stands before the name of a token that no text is made of.
const MARK: u8 = TokTrie::SPECIAL_TOKEN_MARKER;

/// Follows one answer through its grammar.
struct GrammarGuide {
    matcher: Matcher,
    /// The tokens that the matcher has taken in.
    heard: SecretTokens,
}

impl Guide for GrammarGuide {
    fn mask(&mut self, answer: &[TokenId]) -> Result<TokenMask, GuideError> {
        let heard = self.heard.expose();
        let common = heard.iter().zip(answer).take_while(|(one, other)| one == other).count();
        let lost = heard.len() - common;
        self.matcher.rollback(lost).map_err(|error| fault(&error))?;
        self.heard.truncate(common);
        for token in &answer[common..] {
            self.matcher.consume_token(token.0).map_err(|error| fault(&error))?;
            self.heard.extend(&[*token]);
        }
        let mask = self.matcher.compute_mask_or_eos().map_err(|error| fault(&error))?;
        Ok(TokenMask::new(mask.into()))
    }
}

/// What the parser means that has stopped. What it says may quote the answer, so none of it is repeated.
fn fault(error: &impl ToString) -> GuideError {
    let said = error.to_string();
    match () {
        () if said.contains("NoExtension") => GuideError::DeadEnd,
        () if is_too_complex(&said) => GuideError::TooComplex,
        () => GuideError::Strayed,
    }
}

/// Whether the parser has reached one of its limits.
fn is_too_complex(said: &str) -> bool {
    let words = [
        "too complex",
        "TooComplex",
        "too large",
        "too many",
        "fuel",
        "limit",
        "Current row has",
        "Unable to determine",
    ];
    words.iter().any(|words| said.contains(words))
}

#[cfg(test)]
mod tests;
