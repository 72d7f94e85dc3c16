//! Tokens in, parts of an answer that may be shown out.

use darkbloom_content::{AnswerParts, ChatRequest, PartKind};
use darkbloom_types::TokenId;

use crate::decoder::TokenDecoder;
use crate::model::TextModel;
use crate::parser::{AnswerParser, Opening};
use crate::stop::StopScanner;

/// Assembles an answer's parts: whole characters, told apart as the model's format has it, and nothing of a stop string.
/// Stop strings are looked for in each stretch of text by itself, in neither reasoning nor calls.
#[derive(Clone)]
pub struct AnswerAssembler {
    model: TextModel,
    decoder: TokenDecoder,
    reader: Reader,
}

/// What reads the text.
#[derive(Clone)]
enum Reader {
    /// Where the model only says something.
    Plain(StopScanner),
    Parts(Box<AnswerParser>),
}

/// The end of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerEnd {
    /// What was held back.
    pub parts: AnswerParts,
    /// Whether a stop string was complete only in that: the answer ends before it.
    pub stopped: bool,
    /// Whether tools were called, in all of the answer.
    pub called: bool,
}

impl std::fmt::Debug for AnswerAssembler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnswerAssembler(…)")
    }
}

impl AnswerAssembler {
    /// An assembler for one answer to this request, which begins as [`TextModel::opening`] says.
    #[must_use]
    pub fn new(model: &TextModel, request: &ChatRequest, opening: Opening) -> Self {
        let reader = if model.answer_format() == Default::default() {
            Reader::Plain(StopScanner::new(&request.stop))
        } else {
            let offered = request.tools.iter().map(|tool| tool.name.clone());
            Reader::Parts(Box::new(AnswerParser::new(model.reading(), offered, &request.stop, opening)))
        };
        Self { decoder: model.decoder(), model: model.clone(), reader }
    }

    /// What is certain after this token, and whether it ended the answer: a stop string is complete, or the one call that the
    /// model's template can show it.
    pub fn push(&mut self, token: TokenId) -> (AnswerParts, bool) {
        match &mut self.reader {
            Reader::Plain(scanner) => {
                let scan = scanner.push(self.decoder.push(token).expose());
                (scan.emit.into(), scan.stopped)
            }
            Reader::Parts(parser) => {
                let parts = match self.model.mark(token) {
                    Some(mark) => {
                        let mut parts = parser.push(self.decoder.flush().expose());
                        parts.append(&parser.mark(mark));
                        parts
                    }
                    None => parser.push(self.decoder.push(token).expose()),
                };
                (parts, parser.stopped())
            }
        }
    }

    /// Whether tools were called.
    #[must_use]
    pub fn called(&self) -> bool {
        match &self.reader {
            Reader::Plain(_) => false,
            Reader::Parts(parser) => parser.calls() > 0,
        }
    }

    /// What was held back, when the answer ends otherwise.
    #[must_use]
    pub fn finish(mut self) -> AnswerEnd {
        let rest = self.decoder.flush();
        let (parts, stopped) = match &mut self.reader {
            Reader::Plain(scanner) => {
                let scan = scanner.push(rest.expose());
                let mut parts = AnswerParts::from(scan.emit);
                parts.push(PartKind::Text, scanner.flush().expose());
                (parts, scan.stopped)
            }
            Reader::Parts(parser) => {
                let mut parts = parser.push(rest.expose());
                parts.append(&parser.finish());
                (parts, parser.stopped())
            }
        };
        AnswerEnd { parts, stopped, called: self.called() }
    }
}
