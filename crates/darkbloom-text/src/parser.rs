//! Tells text, reasoning and calls of tools apart in an answer that arrives in pieces.
//!
//! The answer is read letter by letter, so what comes out does not depend on how it was cut. A marker that is one token of
//! the vocabulary comes by itself, and its letters in other tokens are letters. A control token is never shown; a marker
//! that anybody may write counts only where it belongs, and is text elsewhere: reasoning begins before anything was said,
//! and what closes something follows what it closes.
//!
//! Held back is only what may still become a marker, the white space before it, and the head of a call until the bracket
//! that opens its arguments; arguments are handed on as they come, and end where their object does. Where a model writes
//! them before the name, a bounded length of them is held back. What turns out to be no call is text, and so is a call of a
//! tool that nobody offered, and what a model writes after arguments that are no JSON or reach a limit. White space beside
//! reasoning and calls belongs to neither and is left out.
//!
//! ```text
//!             marker of reasoning                       a head that is whole
//!   Say(Text) ◀────────────────▶ Say(Reasoning)   Head ─────────────────────▶ Arguments ─▶ Tail ─▶ List
//!       │ ▲                                        ▲ │                            │ end      │       │
//!       │ └──────────── what is no call ───────────┼─┴── and what follows one ────┴──────────┴───────┤
//!       └───────────────── marker of a call ───────┘◀──────────────── the next of an array ──────────┘
//! ```

use std::sync::Arc;

use darkbloom_content::{AnswerParts, PartKind, STOP_BYTES_MAX};
use darkbloom_types::SecretString;
use zeroize::{DefaultIsZeroes, Zeroizing};

use self::head::{After, HEAD_BYTES_MAX, HeadKind};
use self::quoted::Quoted;
use self::scanner::Scanner;
use self::voice::{Voice, WHITE_BYTES_MAX};
use crate::format::{AnswerFormat, CallSyntax, MARKER_BYTES_MAX, Mark, Marker, Written};

mod calls;
mod head;
mod quoted;
mod scanner;
mod voice;

/// Longest arguments that are read before the name of what they are for, in bytes. They are held back until it comes, and
/// every answer ends with frames that could hold as much, so this is what most calls need and far from what they may have.
const EARLY_BYTES_MAX: usize = 1 << 10;
/// Most of an answer that is held back at any time, whatever it says, in bytes: the beginning of a stop string, of a
/// character, white space, the beginning of a marker or a whole one and what stands behind it.
pub const ANSWER_HELD_BYTES_MAX: usize =
    STOP_BYTES_MAX - 1 + 3 + WHITE_BYTES_MAX + MARKER_BYTES_MAX + HEAD_BYTES_MAX + EARLY_BYTES_MAX + 4;
/// Most units that are held back or read again: none is shorter than a byte, and what a marker becomes letters of is no longer.
const UNITS_MAX: usize = HEAD_BYTES_MAX + EARLY_BYTES_MAX + MARKER_BYTES_MAX + 4;
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

/// How the answers of a model are read.
#[derive(Clone)]
pub(crate) struct Reading {
    pub(crate) format: AnswerFormat,
    /// The markers of that format.
    pub(crate) marks: Arc<[Mark]>,
    /// Whether an answer ends with its first call, since no conversation could show the model more of them.
    pub(crate) one_call: bool,
}

/// What an answer consists of: letters, and markers that are tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Letter(char),
    /// Which of the format's markers.
    Mark(u8),
}

impl Default for Unit {
    fn default() -> Self {
        Self::Letter('\0')
    }
}

impl DefaultIsZeroes for Unit {}

/// What the next unit belongs to.
#[derive(Clone)]
enum State {
    /// Text or reasoning.
    Say(PartKind),
    Head(HeadKind),
    /// The arguments in a head, whose name follows.
    Early(Scanner, HeadKind),
    /// Behind so many units of a head with arguments, where the name is to come.
    Late(usize, HeadKind),
    Arguments(Scanner, After),
    /// Arguments that are written as a text.
    Quoted(Quoted, Scanner, After),
    /// Behind them, where that text ends.
    Unquote(After),
    /// The rest of a call's object.
    Tail(Scanner, After),
    /// Between the calls of an array.
    List,
}

/// Reads one answer.
pub(crate) struct AnswerParser {
    calls_as: Option<CallSyntax>,
    marks: Arc<[Mark]>,
    one_call: bool,
    /// The names of the tools; absent where the request has none, and then there are no calls.
    offered: Option<Arc<[SecretString]>>,
    state: State,
    /// What may begin a marker.
    pending: Zeroizing<String>,
    /// A head or a tail as far as it came.
    head: Zeroizing<Vec<Unit>>,
    /// Bytes of it.
    held: usize,
    /// The marker before it.
    led: Option<Mark>,
    /// What is to be read again, the next one last.
    again: Zeroizing<Vec<Unit>>,
    /// Whether nothing was said yet, or not since the last call or thought.
    fresh: bool,
    /// Whether a fence may still be closed.
    fence: bool,
    calls: usize,
    /// Bytes of the present call's arguments.
    arguments: usize,
    voice: Voice,
}

impl Clone for AnswerParser {
    /// Keeps the room of the buffers, so that none grows in the copy either.
    fn clone(&self) -> Self {
        let Self { calls_as, marks, one_call, offered, state, pending, head, held, led, again, fresh, fence, .. } =
            self;
        let mut copy = Self {
            calls_as: *calls_as,
            marks: Arc::clone(marks),
            one_call: *one_call,
            offered: offered.clone(),
            state: state.clone(),
            pending: Zeroizing::new(String::with_capacity(MARKER_BYTES_MAX + 4)),
            head: Zeroizing::new(Vec::with_capacity(UNITS_MAX)),
            held: *held,
            led: *led,
            again: Zeroizing::new(Vec::with_capacity(UNITS_MAX)),
            fresh: *fresh,
            fence: *fence,
            calls: self.calls,
            arguments: self.arguments,
            voice: self.voice.clone(),
        };
        copy.pending.push_str(pending);
        copy.head.extend_from_slice(head);
        copy.again.extend_from_slice(again);
        copy
    }
}

impl AnswerParser {
    /// A parser for one answer; `offered` has the names of the request's tools, `stops` its stop strings.
    pub(crate) fn new(
        reading: Reading,
        offered: impl Iterator<Item = SecretString>,
        stops: &[SecretString],
        opening: Opening,
    ) -> Self {
        let kind = if opening == Opening::Reasoning { PartKind::Reasoning } else { PartKind::Text };
        let harmony = reading.format.calls == Some(CallSyntax::Harmony);
        let offered: Arc<[SecretString]> = offered.collect();
        Self {
            calls_as: reading.format.calls,
            marks: reading.marks,
            one_call: reading.one_call,
            offered: Some(offered).filter(|offered| !offered.is_empty()),
            state: if harmony { State::Head(HeadKind::Begun) } else { State::Say(kind) },
            // None of them grows, so no copy stays behind.
            pending: Zeroizing::new(String::with_capacity(MARKER_BYTES_MAX + 4)),
            head: Zeroizing::new(Vec::with_capacity(UNITS_MAX)),
            held: 0,
            led: None,
            again: Zeroizing::new(Vec::with_capacity(UNITS_MAX)),
            fresh: true,
            fence: false,
            calls: 0,
            arguments: 0,
            voice: Voice::new(stops, kind),
        }
    }

    /// What is certain with this piece of text.
    pub(crate) fn push(&mut self, text: &str) -> AnswerParts {
        text.chars().for_each(|letter| self.read(Unit::Letter(letter)));
        self.voice.take()
    }

    /// What is certain with the token of this marker of the format.
    pub(crate) fn mark(&mut self, mark: u8) -> AnswerParts {
        self.read(Unit::Mark(mark));
        self.voice.take()
    }

    /// How many calls there were.
    pub(crate) fn calls(&self) -> usize {
        self.calls
    }

    /// Whether the answer is over: a stop string is complete, or the only call that it may have.
    pub(crate) fn stopped(&self) -> bool {
        self.voice.stopped()
    }

    /// What was held back, when the answer ends here. Nothing may follow.
    pub(crate) fn finish(&mut self) -> AnswerParts {
        // What is read again may look like another head: each time it is shorter.
        loop {
            match self.state {
                State::Head(kind) => {
                    if kind.is_message() && self.is_about_a_message() {
                        self.leave_head();
                    }
                    self.no_head(kind, 0);
                }
                State::Early(_, kind) | State::Late(_, kind) => self.no_head(kind, 0),
                State::Tail(..) | State::Quoted(..) if !self.head.is_empty() => self.head_is_text(),
                State::Say(_)
                | State::Arguments(..)
                | State::Quoted(..)
                | State::Unquote(_)
                | State::Tail(..)
                | State::List => break,
            }
            self.read_again();
        }
        if let State::Say(kind) = self.state {
            self.say_pending(kind);
        }
        self.voice.finish()
    }

    fn read(&mut self, unit: Unit) {
        self.again.push(unit);
        self.read_again();
    }

    /// Reads what waits. A head that is none is read again without what made it one, so this ends.
    fn read_again(&mut self) {
        while let Some(unit) = self.again.pop() {
            if self.stopped() {
                self.again.clear();
                return;
            }
            match &mut self.state {
                State::Say(kind) => {
                    let kind = *kind;
                    match unit {
                        Unit::Letter(letter) => self.look(kind, letter),
                        Unit::Mark(_) => self.read_mark(kind, self.mark_of(unit)),
                    }
                }
                State::Head(kind) => {
                    let kind = *kind;
                    self.hold(unit);
                    self.read_head(kind);
                }
                State::Early(..) => self.read_early(unit),
                State::Late(from, kind) => {
                    let (from, kind) = (*from, *kind);
                    self.hold(unit);
                    self.read_late(from, kind);
                }
                State::Arguments(..) | State::Quoted(..) => self.read_argument(unit),
                State::Unquote(after) => match unit {
                    Unit::Letter('"') => {
                        let after = *after;
                        self.argued(after);
                    }
                    Unit::Letter(_) | Unit::Mark(_) => self.broken(unit),
                },
                State::Tail(..) => self.read_tail(unit),
                State::List => match unit {
                    Unit::Letter(',') => self.state = State::Head(HeadKind::Element),
                    Unit::Letter(']') => self.speak(),
                    Unit::Letter(white) if white.is_ascii_whitespace() => {}
                    Unit::Letter(_) | Unit::Mark(_) => self.broken(unit),
                },
            }
        }
    }

    fn mark_of(&self, unit: Unit) -> Option<Mark> {
        match unit {
            Unit::Letter(_) => None,
            Unit::Mark(mark) => self.marks.get(usize::from(mark)).copied(),
        }
    }

    /// How many bytes of the answer it stands for.
    fn len(&self, unit: Unit) -> usize {
        match unit {
            Unit::Letter(letter) => letter.len_utf8(),
            Unit::Mark(_) => self.mark_of(unit).map_or(0, |mark| mark.text.len()),
        }
    }

    fn hold(&mut self, unit: Unit) {
        self.held += self.len(unit);
        self.head.push(unit);
    }

    /// A letter of text or reasoning, which may belong to a marker.
    fn look(&mut self, kind: PartKind, letter: char) {
        let between = kind == PartKind::Text && self.fresh && self.pending.is_empty() && self.bare_calls();
        if between && letter == '{' {
            self.hold(Unit::Letter(letter));
            self.state = State::Head(HeadKind::Bare);
            return;
        }
        if between && self.calls > 0 && matches!(letter, ';' | ',') {
            return;
        }
        self.pending.push(letter);
        while !self.pending.is_empty() {
            match self.pending(kind) {
                Pending::Is(found) => {
                    self.pending.clear();
                    match found {
                        Found::Mark(mark) => self.act(kind, mark),
                        Found::Fence(fence) => {
                            fence.chars().for_each(|letter| self.hold(Unit::Letter(letter)));
                            self.state = State::Head(HeadKind::Bare);
                        }
                        Found::FenceEnd => self.fence = false,
                    }
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
        self.offered.is_some() && matches!(self.calls_as, Some(CallSyntax::Llama | CallSyntax::Gemma))
    }

    /// What is pending.
    fn pending(&self, kind: PartKind) -> Pending {
        let marks = self.marks.iter().filter(|mark| mark.written == Written::Letters && self.counts(kind, mark));
        let marks = marks.map(|mark| (mark.text, Found::Mark(*mark)));
        let closing = (kind == PartKind::Text && self.fence).then_some(("```", Found::FenceEnd));
        let fences =
            kind == PartKind::Text && !self.fence && self.calls_as == Some(CallSyntax::Gemma) && self.offered.is_some();
        let opening = FENCES.into_iter().filter(|_| fences).map(|fence| (fence, Found::Fence(fence)));
        let mut pending = Pending::IsText;
        for (text, found) in closing.into_iter().chain(marks).chain(opening) {
            if *self.pending == text {
                return Pending::Is(found);
            }
            if text.starts_with(&**self.pending) {
                pending = Pending::MayBecome;
            }
        }
        pending
    }

    /// Whether what stands here is the marker, and not somebody's word about it.
    fn counts(&self, kind: PartKind, mark: &Mark) -> bool {
        if mark.written == Written::Control {
            return true;
        }
        let text = kind == PartKind::Text;
        match mark.marker {
            // Some models repeat the one that ends the prompt.
            Marker::Reason => self.fresh,
            Marker::Speak => !text || self.fresh,
            // Within reasoning nothing is called.
            Marker::Call | Marker::Calls => text && self.offered.is_some(),
            Marker::Called => text && self.fresh && self.calls > 0,
            Marker::Message | Marker::Channel | Marker::End => true,
            Marker::OfHead => false,
        }
    }

    /// A marker that is a token, in text or reasoning.
    fn read_mark(&mut self, kind: PartKind, mark: Option<Mark>) {
        self.say_pending(kind);
        let Some(mark) = mark else { return };
        if self.counts(kind, &mark) {
            self.act(kind, mark);
        } else {
            mark.text.chars().for_each(|letter| self.say(kind, letter));
        }
    }

    fn say_pending(&mut self, kind: PartKind) {
        while !self.pending.is_empty() {
            let first = self.pending.remove(0);
            self.say(kind, first);
        }
    }

    fn act(&mut self, kind: PartKind, mark: Mark) {
        let head = match (mark.marker, self.calls_as) {
            (Marker::Reason, _) => {
                self.state = State::Say(PartKind::Reasoning);
                return;
            }
            (Marker::Speak, _) if kind == PartKind::Reasoning => return self.speak(),
            (Marker::End, _) => return self.speak(),
            (Marker::Message, _) => HeadKind::Message,
            (Marker::Channel, _) => HeadKind::Channel,
            (Marker::Call | Marker::Calls, Some(syntax)) if self.offered.is_some() => match (syntax, mark.marker) {
                (CallSyntax::Mistral, _) => HeadKind::Mistral,
                (CallSyntax::DeepSeek, Marker::Calls) => HeadKind::DeepSeekList,
                (CallSyntax::DeepSeek, _) => HeadKind::DeepSeek,
                (CallSyntax::Hermes | CallSyntax::Llama | CallSyntax::Gemma | CallSyntax::Harmony, _) => {
                    HeadKind::Object
                }
            },
            (Marker::Speak | Marker::Called | Marker::OfHead | Marker::Call | Marker::Calls, _) => return,
        };
        self.led = Some(mark);
        self.state = State::Head(head);
    }

    /// A letter that belongs to no marker.
    fn say(&mut self, kind: PartKind, letter: char) {
        if !letter.is_whitespace() {
            (self.fresh, self.fence) = (false, false);
        }
        self.voice.say(kind, letter);
    }

    /// Whatever was begun is over.
    fn speak(&mut self) {
        self.voice.apart();
        self.fresh = true;
        self.state = State::Say(PartKind::Text);
    }
}

/// What the letters are that are held back.
enum Pending {
    Is(Found),
    MayBecome,
    /// At least the first of them.
    IsText,
}

/// What was held back.
enum Found {
    Mark(Mark),
    /// A fence that may hold a call.
    Fence(&'static str),
    /// The end of one that did.
    FenceEnd,
}

#[cfg(test)]
mod tests;
