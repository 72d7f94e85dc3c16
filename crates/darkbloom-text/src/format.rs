//! How a model writes its reasoning and its calls of tools, told from its chat template.

/// How a model calls tools. Each is the convention of a family's published chat templates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallSyntax {
    /// Qwen and others after Hermes: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`.
    Hermes,
    /// Llama 3: `{"name": …, "parameters": {…}}`, all of the answer or after `<|python_tag|>`; several are parted by `;`.
    Llama,
    /// Gemma: the same object as Llama's, by itself or in a fence of `tool_code` or `json`.
    Gemma,
    /// Mistral: `[TOOL_CALLS]` before a JSON array of calls, or before each `name[ARGS]{…}`.
    Mistral,
    /// DeepSeek: between `<｜tool▁call▁begin｜>` and `<｜tool▁call▁end｜>`, with the arguments in a fence or without.
    DeepSeek,
    /// gpt-oss (github.com/openai/harmony): a message `to=functions.NAME`.
    Harmony,
}

/// How a model marks its reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReasoningSyntax {
    /// `<think>…</think>`.
    Think,
    /// Mistral: `[THINK]…[/THINK]`.
    Mistral,
    /// gpt-oss: the channel `analysis`.
    Harmony,
}

/// What there is to tell apart in a model's answers. The default is a model that only says something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct AnswerFormat {
    /// How it calls tools, if it does.
    pub calls: Option<CallSyntax>,
    /// How it marks its reasoning, if it does.
    pub reasoning: Option<ReasoningSyntax>,
}

impl AnswerFormat {
    /// The format that a chat template's own text tells. Nothing but that text decides, so that everybody who has the
    /// template reads the model's answers alike.
    #[must_use]
    pub fn of_template(template: &str) -> Self {
        let has = |text: &str| template.contains(text);
        if has("<|channel|>") && has("<|message|>") {
            return Self { calls: Some(CallSyntax::Harmony), reasoning: Some(ReasoningSyntax::Harmony) };
        }
        // Some families write calls between Hermes's tags and not as JSON: Qwen3-Coder and GLM. They are not read here.
        let not_json = has("<function=") || has("<arg_key>");
        let calls = if has("<｜tool▁calls▁begin｜>") {
            Some(CallSyntax::DeepSeek)
        } else if has("[TOOL_CALLS]") {
            Some(CallSyntax::Mistral)
        } else if has("<|python_tag|>") || has("<|start_header_id|>") && has("\"parameters\"") {
            Some(CallSyntax::Llama)
        } else if has("<tool_call>") && !not_json {
            Some(CallSyntax::Hermes)
        } else if has("<start_of_turn>") && (has("tool_code") || has("\"parameters\"")) {
            Some(CallSyntax::Gemma)
        } else {
            None
        };
        let reasoning = if has("[THINK]") {
            Some(ReasoningSyntax::Mistral)
        } else if has("<think>") || has("</think>") {
            Some(ReasoningSyntax::Think)
        } else {
            None
        };
        Self { calls, reasoning }
    }

    /// The texts that structure an answer, each with what it does.
    pub(crate) fn markers(self) -> impl Iterator<Item = (&'static str, Marker)> {
        let calls: &[_] = match self.calls {
            None | Some(CallSyntax::Gemma) => &[],
            Some(CallSyntax::Hermes) => &[("<tool_call>", Marker::Call), ("</tool_call>", Marker::Called)],
            Some(CallSyntax::Llama) => &[("<|python_tag|>", Marker::Call)],
            Some(CallSyntax::Mistral) => {
                &[("[TOOL_CALLS]", Marker::Call), ("[ARGS]", Marker::OfHead), ("[CALL_ID]", Marker::OfHead)]
            }
            Some(CallSyntax::DeepSeek) => &[
                ("<｜tool▁calls▁begin｜>", Marker::Calls),
                ("<｜tool▁call▁begin｜>", Marker::Call),
                ("<｜tool▁sep｜>", Marker::OfHead),
                ("<｜tool▁call▁end｜>", Marker::Called),
                ("<｜tool▁calls▁end｜>", Marker::Called),
            ],
            Some(CallSyntax::Harmony) => &[
                ("<|start|>", Marker::Message),
                ("<|channel|>", Marker::Channel),
                ("<|constrain|>", Marker::OfHead),
                ("<|message|>", Marker::OfHead),
                ("<|end|>", Marker::End),
                ("<|call|>", Marker::End),
                ("<|return|>", Marker::End),
            ],
        };
        let reasoning: &[_] = match self.reasoning {
            None | Some(ReasoningSyntax::Harmony) => &[],
            Some(ReasoningSyntax::Think) => &[("<think>", Marker::Reason), ("</think>", Marker::Speak)],
            Some(ReasoningSyntax::Mistral) => &[("[THINK]", Marker::Reason), ("[/THINK]", Marker::Speak)],
        };
        calls.iter().chain(reasoning).copied()
    }
}

/// What a marker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Marker {
    /// Reasoning begins.
    Reason,
    /// Reasoning is over.
    Speak,
    /// A call follows.
    Call,
    /// Calls follow, the first with a marker of its own.
    Calls,
    /// A call, or several, are over.
    Called,
    /// The head of one of gpt-oss's messages begins.
    Message,
    /// Its channel follows.
    Channel,
    /// Such a message is over.
    End,
    /// It parts what stands in a head.
    OfHead,
}

/// How a vocabulary has a marker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    /// As letters, whichever tokens they are cut into.
    Letters,
    /// As one token that every text with these letters has: it may be the marker, or somebody's word about it.
    Whole,
    /// As a token that is never text.
    Control,
}

/// A marker of a model's format, as its vocabulary has it. Where it is one token, its letters in other tokens are letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) text: &'static str,
    pub(crate) marker: Marker,
    pub(crate) written: Written,
}

/// Longest marker in bytes; a test holds it.
pub(crate) const MARKER_BYTES_MAX: usize = 28;

#[cfg(test)]
mod tests {
    use super::*;

    const CALLS: [Option<CallSyntax>; 7] = [
        None,
        Some(CallSyntax::Hermes),
        Some(CallSyntax::Llama),
        Some(CallSyntax::Gemma),
        Some(CallSyntax::Mistral),
        Some(CallSyntax::DeepSeek),
        Some(CallSyntax::Harmony),
    ];
    const REASONING: [Option<ReasoningSyntax>; 4] =
        [None, Some(ReasoningSyntax::Think), Some(ReasoningSyntax::Mistral), Some(ReasoningSyntax::Harmony)];

    #[test]
    fn no_marker_begins_another_and_none_is_longer_than_the_limit() {
        for format in
            CALLS.iter().flat_map(|calls| REASONING.map(|reasoning| AnswerFormat { calls: *calls, reasoning }))
        {
            let markers: Vec<_> = format.markers().map(|(text, _)| text).collect();
            for (at, marker) in markers.iter().enumerate() {
                assert!(marker.len() <= MARKER_BYTES_MAX, "{marker}");
                let others = markers.iter().enumerate().filter(|(other, _)| *other != at);
                assert!(others.into_iter().all(|(_, other)| !other.starts_with(marker)), "{marker}");
            }
        }
    }
}
