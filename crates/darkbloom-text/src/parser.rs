//! Tells text, reasoning and calls of tools apart in an answer that arrives in pieces.
//!
//! The answer is read character by character, so what comes out does not depend on how it was cut. Held back is only what
//! may still become a marker, the white space before it, and the head of a call until the bracket that opens its
//! arguments; arguments are handed on as they come, and end where their object does. What turns out to be no call is
//! text, without its markers. So is what a model writes after arguments that are no JSON or reach a limit. White space
//! beside reasoning and calls belongs to neither and is left out.
//!
//! ```text
//!             marker of reasoning                       a head that is whole
//!   Say(Text) ◀────────────────▶ Say(Reasoning)   Head ─────────────────────▶ Arguments ─▶ Tail ─▶ List
//!       │ ▲                                        ▲ │                            │ end      │       │
//!       │ └──────────── what is no call ───────────┼─┴── and what follows one ────┴──────────┴───────┤
//!       └───────────────── marker of a call ───────┘◀──────────────── the next of an array ──────────┘
//! ```

use darkbloom_content::{AnswerParts, CALL_ARGUMENTS_BYTES_MAX, CALLS_MAX, PartKind, STOP_BYTES_MAX};
use darkbloom_types::SecretString;
use zeroize::Zeroizing;

use self::head::{After, HEAD_BYTES_MAX, Head, HeadKind};
use self::scanner::{Scanned, Scanner};
use crate::format::{AnswerFormat, CallSyntax, MARKER_BYTES_MAX, Marker};

mod head;
mod scanner;

/// Longest white space that is held back because a marker may follow: some empty lines and an indentation.
const WHITE_BYTES_MAX: usize = 64;
/// Most of an answer that is held back at any time, whatever it says, in bytes: the beginning of a stop string, of a
/// character, white space, and a head or the beginning of a marker.
pub const ANSWER_HELD_BYTES_MAX: usize =
    STOP_BYTES_MAX - 1 + 3 + WHITE_BYTES_MAX + MARKER_BYTES_MAX + HEAD_BYTES_MAX + 4;
/// What fences calls in Gemma's answers.
const FENCES: [&str; 2] = ["```tool_code", "```json"];

/// Within what an answer begins.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Opening {
    /// It says something, thinks, or calls: it begins as the model likes.
    #[default]
    Free,
    /// The prompt ends with the marker that opens reasoning.
    Reasoning,
}

/// What the next character belongs to.
#[derive(Clone)]
enum State {
    /// Text or reasoning.
    Say(PartKind),
    Head(HeadKind),
    Arguments(Scanner, After),
    /// The rest of a call's object.
    Tail(Scanner, After),
    /// Between the calls of an array.
    List,
}

/// Reads one answer.
#[derive(Clone)]
pub(crate) struct AnswerParser {
    format: AnswerFormat,
    /// The names of the tools; absent where the request has none, and then there are no calls.
    offered: Option<Vec<SecretString>>,
    state: State,
    /// What may begin a marker.
    pending: Zeroizing<String>,
    /// White space before it.
    white: Zeroizing<String>,
    head: Zeroizing<String>,
    /// Characters that are to be read again, the next one last.
    again: Zeroizing<Vec<char>>,
    /// Whether white space is left out until something follows it.
    gap: bool,
    /// Whether nothing was said yet, or not since the last call.
    fresh: bool,
    /// Whether a fence may still be closed.
    fence: bool,
    calls: usize,
    /// Bytes of the present call's arguments.
    arguments: usize,
    out: AnswerParts,
}

impl AnswerParser {
    /// A parser for one answer in this format; `offered` has the names of the request's tools.
    pub(crate) fn new(format: AnswerFormat, offered: Vec<SecretString>, opening: Opening) -> Self {
        let state = match (format.calls, opening) {
            (Some(CallSyntax::Harmony), _) => State::Head(HeadKind::Begun),
            (_, Opening::Reasoning) => State::Say(PartKind::Reasoning),
            (_, Opening::Free) => State::Say(PartKind::Text),
        };
        // None of them grows, so no copy stays behind.
        let text = |bytes| Zeroizing::new(String::with_capacity(bytes));
        Self {
            format,
            offered: (!offered.is_empty()).then_some(offered),
            state,
            pending: text(MARKER_BYTES_MAX + 4),
            white: text(WHITE_BYTES_MAX + 4),
            head: text(HEAD_BYTES_MAX + 4),
            again: Zeroizing::new(Vec::with_capacity(HEAD_BYTES_MAX + 4)),
            gap: opening == Opening::Reasoning,
            fresh: true,
            fence: false,
            calls: 0,
            arguments: 0,
            out: AnswerParts::default(),
        }
    }

    /// What is certain with this piece.
    pub(crate) fn push(&mut self, text: &str) -> AnswerParts {
        text.chars().for_each(|character| self.read(character));
        std::mem::take(&mut self.out)
    }

    /// How many calls there were.
    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    /// What was held back, when the answer ends here.
    pub(crate) fn finish(mut self) -> AnswerParts {
        // What is read again may look like another head: each time it is shorter.
        while let State::Head(kind) = self.state {
            // What gpt-oss writes about its messages is no part of them; other heads that break off are text.
            if matches!(kind, HeadKind::Begun | HeadKind::Message | HeadKind::Channel) {
                self.head.clear();
            }
            self.no_head(kind, 0);
            self.read_again();
        }
        if let State::Say(kind) = self.state {
            let rest = std::mem::take(&mut self.pending);
            rest.chars().for_each(|character| self.say(kind, character));
            if !self.gap {
                self.out.push(kind, &self.white);
            }
        }
        self.out
    }

    fn read(&mut self, character: char) {
        self.again.push(character);
        self.read_again();
    }

    /// Reads what waits. A head that is none is read again without what made it one, so this ends.
    fn read_again(&mut self) {
        while let Some(character) = self.again.pop() {
            match &mut self.state {
                State::Say(kind) => {
                    let kind = *kind;
                    self.look(kind, character);
                }
                State::Head(kind) => {
                    let kind = *kind;
                    self.head.push(character);
                    self.read_head(kind);
                }
                State::Arguments(scanner, after) => {
                    let (scanned, after) = (scanner.push(character), *after);
                    self.read_argument(character, scanned, after);
                }
                State::Tail(scanner, after) => {
                    let (scanned, after) = (scanner.push(character), *after);
                    match scanned {
                        Scanned::Inside => {}
                        Scanned::Closed if after == After::Element => self.state = State::List,
                        Scanned::Closed => self.speak(),
                        Scanned::Broken => self.speak_again(character),
                    }
                }
                State::List => match character {
                    ',' => self.state = State::Head(HeadKind::Element),
                    ']' => self.speak(),
                    white if white.is_ascii_whitespace() => {}
                    other => self.speak_again(other),
                },
            }
        }
    }

    /// A character of text or reasoning, which may belong to a marker.
    fn look(&mut self, kind: PartKind, character: char) {
        let between = kind == PartKind::Text && self.fresh && self.pending.is_empty() && self.bare_calls();
        if between && character == '{' {
            self.head.push(character);
            self.state = State::Head(HeadKind::Bare);
            return;
        }
        if between && self.calls > 0 && matches!(character, ';' | ',') {
            return;
        }
        self.pending.push(character);
        while !self.pending.is_empty() {
            match self.pending(kind) {
                Pending::Is(found) => {
                    self.pending.clear();
                    self.act(found);
                    return;
                }
                Pending::MayBecome => return,
                Pending::IsText => {
                    let first = self.pending.remove(0);
                    self.say(kind, first);
                }
            }
        }
    }

    /// Whether calls come without a marker.
    fn bare_calls(&self) -> bool {
        self.offered.is_some() && matches!(self.format.calls, Some(CallSyntax::Llama | CallSyntax::Gemma))
    }

    /// What is pending.
    fn pending(&self, kind: PartKind) -> Pending {
        let here = |marker: &Marker| match kind {
            // Within reasoning nothing is called; gpt-oss's messages end in any case.
            PartKind::Reasoning if self.format.calls != Some(CallSyntax::Harmony) => {
                matches!(marker, Marker::Reason | Marker::Speak)
            }
            PartKind::Reasoning | PartKind::Text | PartKind::CallName | PartKind::CallArguments => true,
        };
        let markers = self.format.markers().filter(|(_, marker)| here(marker));
        let markers = markers.map(|(text, marker)| (text, Found::Marker(marker)));
        let closing = (kind == PartKind::Text && self.fence).then_some(("```", Found::FenceEnd));
        let fences = kind == PartKind::Text
            && !self.fence
            && self.format.calls == Some(CallSyntax::Gemma)
            && self.offered.is_some();
        let opening = FENCES.into_iter().filter(|_| fences).map(|fence| (fence, Found::Fence(fence)));
        let mut pending = Pending::IsText;
        for (text, found) in closing.into_iter().chain(markers).chain(opening) {
            if *self.pending == text {
                return Pending::Is(found);
            }
            if text.starts_with(&**self.pending) {
                pending = Pending::MayBecome;
            }
        }
        pending
    }

    fn act(&mut self, found: Found) {
        let marker = match found {
            Found::Marker(marker) => marker,
            Found::Fence(fence) => {
                self.head.push_str(fence);
                self.state = State::Head(HeadKind::Bare);
                return;
            }
            Found::FenceEnd => {
                self.fence = false;
                return;
            }
        };
        match marker {
            Marker::Nothing => {}
            Marker::Reason => {
                self.white.clear();
                self.gap = true;
                self.state = State::Say(PartKind::Reasoning);
            }
            Marker::Speak => self.speak(),
            Marker::Call => {
                if let (Some(_), Some(syntax)) = (&self.offered, self.format.calls) {
                    self.white.clear();
                    self.state = State::Head(match syntax {
                        CallSyntax::Mistral => HeadKind::Mistral,
                        CallSyntax::DeepSeek => HeadKind::DeepSeek,
                        CallSyntax::Hermes | CallSyntax::Llama | CallSyntax::Gemma | CallSyntax::Harmony => {
                            HeadKind::Object
                        }
                    });
                }
            }
            Marker::Message => {
                self.white.clear();
                self.state = State::Head(HeadKind::Message);
            }
            Marker::Channel => {
                self.white.clear();
                self.state = State::Head(HeadKind::Channel);
            }
        }
    }

    /// A character that belongs to no marker.
    fn say(&mut self, kind: PartKind, character: char) {
        if character.is_whitespace() {
            if self.gap {
                return;
            }
            if self.white.len() + character.len_utf8() > WHITE_BYTES_MAX {
                self.out.push(kind, &self.white);
                self.white.clear();
            }
            self.white.push(character);
            return;
        }
        (self.gap, self.fresh, self.fence) = (false, false, false);
        self.out.push(kind, &self.white);
        self.white.clear();
        self.out.push(kind, character.encode_utf8(&mut [0; 4]));
    }

    fn read_head(&mut self, kind: HeadKind) {
        let whole = match head::read(kind, &self.head, self.offered.as_deref()) {
            Head::Partial if self.head.len() <= HEAD_BYTES_MAX => return,
            Head::Partial => Err(0),
            Head::None { text } => Err(self.head.len() - text.len()),
            Head::Call { .. } if self.calls == CALLS_MAX => Err(0),
            Head::Call { name, after } => {
                self.out.push(PartKind::CallName, name);
                Ok(State::Arguments(Scanner::in_object(), after))
            }
            Head::Body(body) => Ok(State::Say(body)),
        };
        match whole {
            Err(from) => self.no_head(kind, from),
            Ok(state) => {
                if let State::Arguments(..) = state {
                    self.out.push(PartKind::CallArguments, "{");
                    (self.calls, self.arguments) = (self.calls + 1, 1);
                }
                self.head.clear();
                self.white.clear();
                self.gap = true;
                self.state = state;
            }
        }
    }

    /// What was read as a head is text, from this byte on.
    fn no_head(&mut self, kind: HeadKind, from: usize) {
        let head = std::mem::replace(&mut self.head, Zeroizing::new(String::with_capacity(HEAD_BYTES_MAX + 4)));
        self.state = State::Say(PartKind::Text);
        let mut text = head[from..].chars();
        if kind == HeadKind::Bare {
            // Its first character is what made it one.
            let first = text.next();
            first.into_iter().for_each(|first| self.say(PartKind::Text, first));
        }
        self.again.extend(text.rev());
    }

    fn read_argument(&mut self, character: char, scanned: Scanned, after: After) {
        self.arguments += character.len_utf8();
        if scanned == Scanned::Broken || self.arguments > CALL_ARGUMENTS_BYTES_MAX {
            return self.speak_again(character);
        }
        self.out.push(PartKind::CallArguments, character.encode_utf8(&mut [0; 4]));
        if scanned == Scanned::Inside {
            return;
        }
        match after {
            After::Nothing => self.speak(),
            After::Fence => {
                self.speak();
                self.fence = true;
            }
            After::Object | After::Element => self.state = State::Tail(Scanner::in_object(), after),
            After::ObjectInFence => {
                self.fence = true;
                self.state = State::Tail(Scanner::in_object(), after);
            }
        }
    }

    /// Whatever was begun is over.
    fn speak(&mut self) {
        self.white.clear();
        (self.gap, self.fresh) = (true, true);
        self.state = State::Say(PartKind::Text);
    }

    /// The same, and this character is the first of what follows.
    fn speak_again(&mut self, character: char) {
        self.speak();
        self.again.push(character);
    }
}

/// What the characters are that are held back.
enum Pending {
    Is(Found),
    MayBecome,
    /// At least the first of them.
    IsText,
}

/// What was held back.
enum Found {
    Marker(Marker),
    /// A fence that may hold a call.
    Fence(&'static str),
    /// The end of one that did.
    FenceEnd,
}

#[cfg(test)]
mod tests;
