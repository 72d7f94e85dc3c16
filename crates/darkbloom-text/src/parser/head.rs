//! What stands before a call's arguments, and before a message's body in gpt-oss's answers.
//!
//! A head is short, so it is read again from its beginning with each character: the reader has no state of its own.

use darkbloom_content::{PartKind, is_tool_name};
use darkbloom_types::SecretString;

/// Longest head in bytes: a name of 64 and what the longest of the formats writes around it, twice over for white space.
pub(super) const HEAD_BYTES_MAX: usize = 256;

/// Which head stands here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeadKind {
    /// A call as a JSON object, behind a marker that says so.
    Object,
    /// The same without a marker, or in a fence of which `json` is a kind that stands in many answers: only the name of a
    /// tool on offer makes it a call. The head begins with the bracket or the fence.
    Bare,
    /// The next call in an array.
    Element,
    /// Behind `[TOOL_CALLS]`.
    Mistral,
    /// Behind `<｜tool▁call▁begin｜>`.
    DeepSeek,
    /// Where the prompt has already written who speaks.
    Begun,
    /// Behind `<|start|>`.
    Message,
    /// Behind `<|channel|>`.
    Channel,
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
}

/// What a head says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head<'h> {
    /// It is not whole.
    Partial,
    /// A call, and the bracket that opens its arguments.
    Call { name: &'h str, after: After },
    /// A message of this kind.
    Body(PartKind),
    /// No head. What it says begins here.
    None { text: &'h str },
}

/// Reads a head. `offered` has the names of the tools on offer; there is no call where it is absent.
pub(super) fn read<'h>(kind: HeadKind, head: &'h str, offered: Option<&[SecretString]>) -> Head<'h> {
    let mut cursor = Cursor { rest: head };
    let read = match kind {
        HeadKind::Object => cursor.object().map(|name| Head::Call { name, after: After::Object }),
        HeadKind::Element => cursor.object().map(|name| Head::Call { name, after: After::Element }),
        HeadKind::Bare => cursor.bare(),
        HeadKind::Mistral => cursor.mistral(),
        HeadKind::DeepSeek => cursor.deepseek(),
        HeadKind::Begun | HeadKind::Message | HeadKind::Channel => return cursor.harmony(kind, head, offered),
    };
    let known = |name: &str| offered.is_some_and(|offered| offered.iter().any(|offered| offered.expose() == name));
    match read {
        Ok(Head::Call { name, .. }) if kind == HeadKind::Bare && !known(name) => Head::None { text: head },
        Ok(head) => head,
        Err(Stop::More) => Head::Partial,
        Err(Stop::Wrong) => Head::None { text: head },
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
    rest: &'h str,
}

impl<'h> Cursor<'h> {
    /// `{"name": "…", "arguments": {`, where `"type": "function"` may come first and `parameters` be the second key.
    fn object(&mut self) -> Result<&'h str, Stop> {
        self.white();
        self.literal("{")?;
        let mut key = self.key()?;
        if key == "type" {
            self.literal("\"function\"")?;
            self.white();
            self.literal(",")?;
            key = self.key()?;
        }
        if key != "name" {
            return Err(Stop::Wrong);
        }
        self.literal("\"")?;
        let name = self.name()?;
        self.literal("\"")?;
        self.white();
        self.literal(",")?;
        if !matches!(self.key()?, "arguments" | "parameters") {
            return Err(Stop::Wrong);
        }
        self.literal("{")?;
        Ok(name)
    }

    fn bare(&mut self) -> Result<Head<'h>, Stop> {
        let fenced = self.maybe("```")?;
        if fenced && !self.maybe("tool_code")? {
            self.literal("json")?;
        }
        let after = if fenced { After::ObjectInFence } else { After::Object };
        self.object().map(|name| Head::Call { name, after })
    }

    fn mistral(&mut self) -> Result<Head<'h>, Stop> {
        self.white();
        if self.maybe("[")? {
            return self.object().map(|name| Head::Call { name, after: After::Element });
        }
        let name = self.name()?;
        if self.maybe("[CALL_ID]")? {
            self.word()?;
        }
        self.maybe("[ARGS]")?;
        self.white();
        self.literal("{")?;
        Ok(Head::Call { name, after: After::Nothing })
    }

    /// `function<｜tool▁sep｜>NAME`, a line end and a fence with the arguments; or `NAME<｜tool▁sep｜>` and the arguments.
    fn deepseek(&mut self) -> Result<Head<'h>, Stop> {
        self.white();
        let first = self.name()?;
        self.literal("<｜tool▁sep｜>")?;
        self.white();
        if self.maybe("{")? {
            return Ok(Head::Call { name: first, after: After::Nothing });
        }
        if first != "function" {
            return Err(Stop::Wrong);
        }
        let name = self.name()?;
        self.white();
        self.literal("```json")?;
        self.white();
        self.literal("{")?;
        Ok(Head::Call { name, after: After::Fence })
    }

    /// `assistant to=RECIPIENT<|channel|>CHANNEL to=RECIPIENT <|constrain|>TYPE<|message|>`: the recipient stands in one
    /// of two places or nowhere, the type or what goes before it may be missing.
    fn harmony(mut self, kind: HeadKind, head: &'h str, offered: Option<&[SecretString]>) -> Head<'h> {
        let (channel, recipient) = match self.message_head(kind) {
            Ok(read) => read,
            Err(Stop::More) => return Head::Partial,
            Err(Stop::Wrong) => return Head::None { text: head },
        };
        let name = recipient.and_then(|recipient| recipient.strip_prefix("functions."));
        let Some(name) = name.filter(|name| offered.is_some() && is_tool_name(name)) else {
            return Head::Body(if channel == "analysis" { PartKind::Reasoning } else { PartKind::Text });
        };
        let body = self.rest;
        self.white();
        match self.literal("{") {
            Ok(()) => Head::Call { name, after: After::Nothing },
            Err(Stop::More) => Head::Partial,
            Err(Stop::Wrong) => Head::None { text: body },
        }
    }

    fn message_head(&mut self, kind: HeadKind) -> Result<(&'h str, Option<&'h str>), Stop> {
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
            self.literal("<|channel|>")?;
        }
        self.white();
        let channel = self.word()?;
        self.white();
        if self.maybe("to=")? {
            recipient = Some(self.word()?);
            self.white();
        }
        if self.maybe("<|constrain|>")? || !self.maybe("<|message|>")? {
            self.word()?;
            self.white();
            self.literal("<|message|>")?;
        }
        Ok((channel, recipient))
    }

    fn white(&mut self) {
        self.rest = self.rest.trim_ascii_start();
    }

    fn literal(&mut self, text: &str) -> Result<(), Stop> {
        if self.maybe(text)? { Ok(()) } else { Err(Stop::Wrong) }
    }

    /// Whether this stands here.
    fn maybe(&mut self, text: &str) -> Result<bool, Stop> {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                Ok(true)
            }
            None if text.starts_with(self.rest) => Err(Stop::More),
            None => Ok(false),
        }
    }

    /// A key and what stands between it and its value.
    fn key(&mut self) -> Result<&'h str, Stop> {
        self.white();
        self.literal("\"")?;
        let key = self.word()?;
        self.literal("\"")?;
        self.white();
        self.literal(":")?;
        self.white();
        Ok(key)
    }

    fn name(&mut self) -> Result<&'h str, Stop> {
        let name = self.word()?;
        if is_tool_name(name) { Ok(name) } else { Err(Stop::Wrong) }
    }

    /// Letters and what names have beside them; they end with something else.
    fn word(&mut self) -> Result<&'h str, Stop> {
        let of_word = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.');
        let end = self.rest.find(|letter| !of_word(letter)).ok_or(Stop::More)?;
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        if word.is_empty() { Err(Stop::Wrong) } else { Ok(word) }
    }
}
