//! What stands before a call's arguments, and before a message's body in gpt-oss's answers.
//!
//! A head is short, so it is read again from its beginning with each letter: the reader has no state of its own.

use darkbloom_content::{PartKind, is_tool_name};
use darkbloom_types::SecretString;
use zeroize::Zeroizing;

use super::Unit;
use crate::format::{Mark, Written};

/// Longest head in bytes, but for arguments in it: a name of 64 and what the longest of the formats writes around it, twice
/// over for white space.
pub(super) const HEAD_BYTES_MAX: usize = 256;
/// Longest word in a head in bytes: a recipient of gpt-oss's, which is a name and what stands before it, twice over.
const WORD_BYTES_MAX: usize = 160;

/// Which head stands here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadKind {
    /// A call as a JSON object, behind a marker that says so.
    Object,
    /// The same without a marker, or in a fence of which `json` is a kind that stands in many answers. The head begins with
    /// the bracket or the fence.
    Bare,
    /// The next call in an array.
    Element,
    /// Behind `[TOOL_CALLS]`.
    Mistral,
    /// Behind `<｜tool▁calls▁begin｜>`.
    DeepSeekList,
    /// Behind `<｜tool▁call▁begin｜>`.
    DeepSeek,
    /// Where the prompt has already written who speaks.
    Begun,
    /// Behind `<|start|>`.
    Message,
    /// Behind `<|channel|>`.
    Channel,
}

impl HeadKind {
    /// Whether it is the head of a message.
    pub(super) fn is_message(self) -> bool {
        matches!(self, Self::Begun | Self::Message | Self::Channel)
    }
}

/// What follows a call's arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Nothing of the call's.
    Nothing,
    /// The end of a fence.
    Fence,
    /// The rest of the object that the arguments stand in.
    Object,
    /// That, and the end of a fence.
    ObjectInFence,
    /// The rest of the object, and more calls of the same array.
    Element,
    /// More calls of the same array.
    List,
}

/// How a call's arguments stand there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Given {
    /// As an object, whose bracket was read.
    Object,
    /// As a text with JSON in it, of which the bracket was read.
    Text,
    /// There are none, and that was read.
    Nothing,
}

/// What a head says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// It is not whole.
    Partial,
    /// A call, up to where its arguments begin.
    Call { name: SecretString, given: Given, after: After },
    /// Arguments before the name: their bracket was read.
    Early,
    /// A message of this kind.
    Body(PartKind),
    /// No head. What it says begins with this unit.
    None { from: usize },
}

/// What a reader of heads has to know.
#[derive(Clone, Copy)]
pub(super) struct Known<'k> {
    /// The format's markers.
    pub(super) marks: &'k [Mark],
    /// The names of the tools on offer; there is no call where they are absent.
    pub(super) offered: Option<&'k [SecretString]>,
}

impl Known<'_> {
    fn is_offered(&self, name: &str) -> bool {
        self.offered.is_some_and(|offered| offered.iter().any(|offered| offered.expose() == name))
    }
}

/// Reads a head.
pub(super) fn read(kind: HeadKind, head: &[Unit], known: Known<'_>) -> Head {
    let mut cursor = Cursor { rest: head, known };
    let read = match kind {
        HeadKind::Object => cursor.object(After::Object),
        HeadKind::Element => cursor.object(After::Element),
        HeadKind::Bare => cursor.bare(),
        HeadKind::Mistral => cursor.mistral(),
        HeadKind::DeepSeekList => cursor.deepseek_list(),
        HeadKind::DeepSeek => cursor.deepseek(),
        HeadKind::Begun | HeadKind::Message | HeadKind::Channel => return cursor.harmony(kind, head.len()),
    };
    offered_only(read, known)
}

/// Reads what stands behind arguments that came before the name.
pub(super) fn read_late(kind: HeadKind, rest: &[Unit], known: Known<'_>) -> Head {
    let after = if kind == HeadKind::Object { After::Object } else { After::Element };
    offered_only(Cursor { rest, known }.late(after), known)
}

/// A call of a tool that nobody offered is none: whoever asked has nothing to do it with.
fn offered_only(read: Result<Head, Stop>, known: Known<'_>) -> Head {
    match read {
        Ok(Head::Call { name, .. }) if !known.is_offered(name.expose()) => Head::None { from: 0 },
        Ok(head) => head,
        Err(Stop::More) => Head::Partial,
        Err(Stop::Wrong) => Head::None { from: 0 },
    }
}

/// Why reading stops.
enum Stop {
    /// The head may go on as it should.
    More,
    /// It does not.
    Wrong,
}

struct Cursor<'h> {
    rest: &'h [Unit],
    known: Known<'h>,
}

/// A word of a head, wiped on drop.
type Word = Zeroizing<String>;

impl Cursor<'_> {
    /// `{"name": "…", "arguments": …`, where `"type": "function"` may come first and `parameters` be the key. Arguments may
    /// be an object, one in a text, `null` or absent; or they come first.
    fn object(&mut self, after: After) -> Result<Head, Stop> {
        self.white();
        self.literal("{")?;
        let mut key = self.key()?;
        if *key == "type" {
            self.literal("\"function\"")?;
            self.comma()?;
            key = self.key()?;
        }
        if matches!(&**key, "arguments" | "parameters") {
            if self.maybe("{")? {
                return Ok(Head::Early);
            }
            self.literal("null")?;
            return self.late(after);
        }
        if *key != "name" {
            return Err(Stop::Wrong);
        }
        let name = self.quoted_name()?;
        self.white();
        if self.maybe("}")? {
            let after = if after == After::Element { After::List } else { After::Nothing };
            return Ok(Head::Call { name, given: Given::Nothing, after });
        }
        self.comma()?;
        if !matches!(&**self.key()?, "arguments" | "parameters") {
            return Err(Stop::Wrong);
        }
        let given = self.given()?;
        Ok(Head::Call { name, given, after })
    }

    fn given(&mut self) -> Result<Given, Stop> {
        if self.maybe("{")? {
            return Ok(Given::Object);
        }
        if !self.maybe("\"")? {
            self.literal("null")?;
            return Ok(Given::Nothing);
        }
        self.white();
        if self.maybe("{")? {
            return Ok(Given::Text);
        }
        self.literal("\"")?;
        Ok(Given::Nothing)
    }

    /// `, "name": "…"` behind arguments.
    fn late(&mut self, after: After) -> Result<Head, Stop> {
        self.comma()?;
        if *self.key()? != "name" {
            return Err(Stop::Wrong);
        }
        let name = self.quoted_name()?;
        Ok(Head::Call { name, given: Given::Nothing, after })
    }

    fn quoted_name(&mut self) -> Result<SecretString, Stop> {
        self.literal("\"")?;
        let name = self.name()?;
        self.literal("\"")?;
        Ok(name)
    }

    fn bare(&mut self) -> Result<Head, Stop> {
        let fenced = self.maybe("```")?;
        if fenced && !self.maybe("tool_code")? {
            self.literal("json")?;
        }
        let head = self.object(if fenced { After::ObjectInFence } else { After::Object })?;
        // Many an object has a name and nothing else.
        let none = matches!(head, Head::Early | Head::Call { after: After::Nothing, .. });
        if none { Err(Stop::Wrong) } else { Ok(head) }
    }

    fn mistral(&mut self) -> Result<Head, Stop> {
        self.white();
        if self.maybe("[")? {
            return self.object(After::Element);
        }
        let name = self.name()?;
        if self.marker("[CALL_ID]")? {
            self.word()?;
        }
        // Where the marker before the name is letters, anybody could write it.
        if !self.marker("[ARGS]")? && self.is_letters("[TOOL_CALLS]") {
            return Err(Stop::Wrong);
        }
        self.white();
        self.literal("{")?;
        Ok(Head::Call { name, given: Given::Object, after: After::Nothing })
    }

    fn deepseek_list(&mut self) -> Result<Head, Stop> {
        self.white();
        if !self.marker("<｜tool▁call▁begin｜>")? {
            return Err(Stop::Wrong);
        }
        self.deepseek()
    }

    /// `function<｜tool▁sep｜>NAME`, a line end and a fence with the arguments; or `NAME<｜tool▁sep｜>` and the arguments.
    fn deepseek(&mut self) -> Result<Head, Stop> {
        self.white();
        let first = self.name()?;
        if !self.marker("<｜tool▁sep｜>")? {
            return Err(Stop::Wrong);
        }
        self.white();
        if self.maybe("{")? {
            return Ok(Head::Call { name: first, given: Given::Object, after: After::Nothing });
        }
        if first.expose() != "function" {
            return Err(Stop::Wrong);
        }
        let name = self.name()?;
        self.white();
        self.literal("```json")?;
        self.white();
        self.literal("{")?;
        Ok(Head::Call { name, given: Given::Object, after: After::Fence })
    }

    /// `assistant to=RECIPIENT<|channel|>CHANNEL to=RECIPIENT <|constrain|>TYPE<|message|>`: the recipient stands in one
    /// of two places or nowhere, the type or what goes before it may be missing.
    fn harmony(mut self, kind: HeadKind, units: usize) -> Head {
        let (channel, recipient) = match self.message_head(kind) {
            Ok(read) => read,
            Err(Stop::More) => return Head::Partial,
            Err(Stop::Wrong) => return Head::None { from: 0 },
        };
        let name = recipient.as_ref().and_then(|recipient| recipient.strip_prefix("functions."));
        let Some(name) = name.filter(|name| self.known.is_offered(name)) else {
            return Head::Body(if *channel == "analysis" { PartKind::Reasoning } else { PartKind::Text });
        };
        let body = units - self.rest.len();
        self.white();
        match self.literal("{") {
            Ok(()) => Head::Call { name: name.into(), given: Given::Object, after: After::Nothing },
            Err(Stop::More) => Head::Partial,
            Err(Stop::Wrong) => Head::None { from: body },
        }
    }

    fn message_head(&mut self, kind: HeadKind) -> Result<(Word, Option<Word>), Stop> {
        let mut recipient = None;
        if kind == HeadKind::Message {
            self.literal("assistant")?;
        }
        if kind != HeadKind::Channel {
            self.white();
            if self.maybe("to=")? {
                recipient = Some(self.word()?);
                self.white();
            }
            if !self.marker("<|channel|>")? {
                return Err(Stop::Wrong);
            }
        }
        self.white();
        let channel = self.word()?;
        self.white();
        if self.maybe("to=")? {
            recipient = Some(self.word()?);
            self.white();
        }
        if self.marker("<|constrain|>")? || !self.marker("<|message|>")? {
            self.word()?;
            self.white();
            if !self.marker("<|message|>")? {
                return Err(Stop::Wrong);
            }
        }
        Ok((channel, recipient))
    }

    fn white(&mut self) {
        while let [Unit::Letter(white), rest @ ..] = self.rest
            && white.is_ascii_whitespace()
        {
            self.rest = rest;
        }
    }

    fn comma(&mut self) -> Result<(), Stop> {
        self.white();
        self.literal(",")
    }

    fn literal(&mut self, text: &str) -> Result<(), Stop> {
        if self.maybe(text)? { Ok(()) } else { Err(Stop::Wrong) }
    }

    /// Whether these letters stand here.
    fn maybe(&mut self, text: &str) -> Result<bool, Stop> {
        let mut rest = self.rest.iter();
        for letter in text.chars() {
            match rest.next() {
                None => return Err(Stop::More),
                Some(unit) if *unit != Unit::Letter(letter) => return Ok(false),
                Some(_) => {}
            }
        }
        self.rest = rest.as_slice();
        Ok(true)
    }

    fn is_letters(&self, marker: &str) -> bool {
        self.known.marks.iter().all(|mark| mark.text != marker || mark.written == Written::Letters)
    }

    /// Whether this marker stands here.
    fn marker(&mut self, text: &str) -> Result<bool, Stop> {
        if self.is_letters(text) {
            return self.maybe(text);
        }
        match self.rest {
            [] => Err(Stop::More),
            [Unit::Mark(mark), rest @ ..]
                if self.known.marks.get(usize::from(*mark)).is_some_and(|it| it.text == text) =>
            {
                self.rest = rest;
                Ok(true)
            }
            [..] => Ok(false),
        }
    }

    /// A key and what stands between it and its value.
    fn key(&mut self) -> Result<Word, Stop> {
        self.white();
        self.literal("\"")?;
        let key = self.word()?;
        self.literal("\"")?;
        self.white();
        self.literal(":")?;
        self.white();
        Ok(key)
    }

    fn name(&mut self) -> Result<SecretString, Stop> {
        let name = self.word()?;
        if is_tool_name(&name) { Ok(SecretString::from(name.as_str())) } else { Err(Stop::Wrong) }
    }

    /// Letters and what names have beside them; they end with something else.
    fn word(&mut self) -> Result<Word, Stop> {
        // It never grows, so no copy stays behind.
        let mut word = Zeroizing::new(String::with_capacity(WORD_BYTES_MAX));
        loop {
            match self.rest {
                [] => return Err(Stop::More),
                [Unit::Letter(letter), rest @ ..]
                    if letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.') =>
                {
                    if word.len() == WORD_BYTES_MAX {
                        return Err(Stop::Wrong);
                    }
                    word.push(*letter);
                    self.rest = rest;
                }
                [..] => return if word.is_empty() { Err(Stop::Wrong) } else { Ok(word) },
            }
        }
    }
}
