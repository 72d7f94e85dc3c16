//! A conversation as chat templates expect it: OpenAI's messages and tools, as values of the template engine.

use std::collections::HashMap;

use darkbloom_content::{ChatRequest, Message, Role, Tool, ToolCall};
use darkbloom_types::SecretString;
use minijinja::context;
use minijinja::value::{Value, ValueKind};

use super::json::{self, Guard};

/// What a template expects of a call's arguments: most turn an object into JSON themselves, some put a text as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Arguments {
    /// An object; what is none is shown as it was.
    #[default]
    Object,
    /// An object and nothing else: what is none becomes the value of a key.
    ObjectAlways,
    Text,
}

/// Which calls a template takes in one message of the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Turns {
    /// Several.
    #[default]
    Together,
    /// One. Several are shown as if the model had made them one after another, each when it had the answer to the one before.
    Apart,
    /// One, and no other before a person said something.
    One,
}

/// How a template takes calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CallStyle {
    pub(crate) arguments: Arguments,
    pub(crate) turns: Turns,
}

/// The key under which arguments stand that are no object, where the template takes nothing else.
const NO_OBJECT_KEY: &str = "arguments";

/// The messages of a request, each text of it guarded.
pub(super) fn messages(request: &ChatRequest, style: CallStyle, guard: Guard) -> Value {
    let mut called = HashMap::new();
    let mut messages = Vec::with_capacity(request.messages.len());
    let mut rest = &*request.messages;
    while let [message, after @ ..] = rest {
        rest = after;
        called.extend(message.calls.iter().map(|call| (call.id.expose(), call.name.expose())));
        let mut put = |message: &Message, calls: &[ToolCall], begins: bool| {
            let name = message.call_id.as_ref().and_then(|id| called.get(id.expose()).copied());
            messages.push(one(message, calls, begins, name, style.arguments, guard));
        };
        if style.turns != Turns::Apart || message.calls.len() < 2 {
            put(message, &message.calls, true);
            continue;
        }
        let answers = after.iter().take_while(|answer| answer.role == Role::Tool).count();
        let (answers, behind) = after.split_at(answers);
        let answered = |call: &ToolCall, answer: &Message| answer.call_id.as_ref() == Some(&call.id);
        for (index, call) in message.calls.iter().enumerate() {
            put(message, std::slice::from_ref(call), index == 0);
            answers.iter().filter(|answer| answered(call, answer)).for_each(|answer| put(answer, &[], true));
        }
        // Of calls before this message.
        let others = answers.iter().filter(|answer| !message.calls.iter().any(|call| answered(call, answer)));
        others.for_each(|answer| put(answer, &[], true));
        rest = behind;
    }
    Value::from(messages)
}

/// Templates ask whether a key is there, so what is absent has none. Where one message becomes several, the first of them
/// `begins` it and has what was said and thought.
fn one(
    message: &Message,
    calls: &[ToolCall],
    begins: bool,
    name: Option<&str>,
    arguments: Arguments,
    guard: Guard,
) -> Value {
    let text = |text: &str| Value::from(guard(text).expose());
    let content = text(message.content.expose());
    let role = message.role.name();
    if message.role == Role::Tool {
        let id = message.call_id.as_ref().map_or("", SecretString::expose);
        return context! { role, content, tool_call_id => text(id), name => text(name.unwrap_or_default()) };
    }
    let mut pairs = vec![("role", Value::from(role))];
    // Of a message that only calls, OpenAI's interface says that it has no content.
    let silent = !begins || message.content.is_empty() && !calls.is_empty();
    pairs.push(("content", if silent { Value::from(()) } else { content }));
    if begins && !message.reasoning.is_empty() {
        pairs.push(("reasoning_content", text(message.reasoning.expose())));
    }
    if !calls.is_empty() {
        let calls = calls.iter().map(|call| one_call(call, arguments, guard));
        pairs.push(("tool_calls", Value::from_iter(calls)));
    }
    Value::from_pairs(pairs)
}

fn one_call(call: &ToolCall, arguments: Arguments, guard: Guard) -> Value {
    let text = |text: &str| Value::from(guard(text).expose());
    let written = call.arguments.expose();
    let is_object = |value: &Value| value.kind() == ValueKind::Map;
    // Programs that send none mean the empty object.
    let object = || json::read(if written.is_empty() { "{}" } else { written }, guard);
    let arguments = match arguments {
        Arguments::Text => text(written),
        // What is no JSON was the model's own mistake: it is shown as it was.
        Arguments::Object => object().unwrap_or_else(|| text(written)),
        Arguments::ObjectAlways => {
            object().filter(is_object).unwrap_or_else(|| Value::from_pairs([(NO_OBJECT_KEY, text(written))]))
        }
    };
    let function = context! { name => text(call.name.expose()), arguments };
    context! { id => text(call.id.expose()), type => "function", function }
}

/// The tools of a request; nothing where it has none. `None` when the schema of one is no JSON object.
pub(super) fn tools(tools: &[Tool], guard: Guard) -> Option<Value> {
    if tools.is_empty() {
        return Some(Value::from(()));
    }
    let tools: Option<Vec<Value>> = tools.iter().map(|tool| one_tool(tool, guard)).collect();
    tools.map(Value::from)
}

fn one_tool(tool: &Tool, guard: Guard) -> Option<Value> {
    let text = |text: &SecretString| Value::from(guard(text.expose()).expose());
    let parameters = json::read(tool.parameters.expose(), guard)?;
    if parameters.kind() != ValueKind::Map {
        return None;
    }
    let (name, description) = (text(&tool.name), text(&tool.description));
    Some(context! { type => "function", function => context! { name, description, parameters } })
}
