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
    decoder: TokenDecoder,
    /// Absent where the model only says something.
    parser: Option<AnswerParser>,
    scanner: StopScanner,
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
        let format = model.answer_format();
        let offered = request.tools.iter().map(|tool| tool.name.clone());
        let parser = (format != Default::default()).then(|| AnswerParser::new(format, offered.collect(), opening));
        Self { decoder: model.decoder(), parser, scanner: StopScanner::new(&request.stop) }
    }

    /// What is certain after this token, and whether a stop string ended the answer.
    pub fn push(&mut self, token: TokenId) -> (AnswerParts, bool) {
        let text = self.decoder.push(token);
        let read = match &mut self.parser {
            Some(parser) => parser.push(text.expose()),
            None => AnswerParts::from(text),
        };
        scan(&mut self.scanner, read)
    }

    /// Whether tools were called.
    #[must_use]
    pub fn called(&self) -> bool {
        self.parser.as_ref().is_some_and(|parser| parser.calls() > 0)
    }

    /// What was held back, when the answer ends otherwise.
    #[must_use]
    pub fn finish(self) -> AnswerParts {
        let Self { decoder, parser, mut scanner } = self;
        let rest = decoder.finish();
        let read = match parser {
            Some(mut parser) => {
                let mut read = parser.push(rest.expose());
                read.append(&parser.finish());
                read
            }
            None => AnswerParts::from(rest),
        };
        let (mut parts, stopped) = scan(&mut scanner, read);
        if !stopped {
            parts.push(PartKind::Text, scanner.flush().expose());
        }
        parts
    }
}

/// What is before the first stop string, and whether there is one.
fn scan(scanner: &mut StopScanner, read: AnswerParts) -> (AnswerParts, bool) {
    let mut parts = AnswerParts::default();
    for part in read {
        if part.kind == PartKind::Text {
            let scan = scanner.push(part.text.expose());
            parts.push(PartKind::Text, scan.emit.expose());
            if scan.stopped {
                return (parts, true);
            }
        } else {
            parts.push(PartKind::Text, scanner.flush().expose());
            parts.push(part.kind, part.text.expose());
        }
    }
    (parts, false)
}
