//! A conversation as chat templates expect it: OpenAI's messages and tools, as values of the template engine.

use std::collections::HashMap;

use darkbloom_content::{ChatRequest, Message, Role, Tool, ToolCall};
use darkbloom_types::SecretString;
use minijinja::context;
use minijinja::value::Value;

use super::json::{self, Guard};

/// What a template expects of a call's arguments: most turn an object into JSON themselves, some put a text as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arguments {
    Object,
    Text,
}

/// The messages of a request, each text of it guarded.
pub(super) fn messages(request: &ChatRequest, arguments: Arguments, guard: Guard) -> Value {
    let mut called = HashMap::new();
    let mut messages = Vec::with_capacity(request.messages.len());
    for message in &request.messages {
        called.extend(message.calls.iter().map(|call| (call.id.expose(), call.name.expose())));
        let name = message.call_id.as_ref().and_then(|id| called.get(id.expose()).copied());
        messages.push(one(message, name, arguments, guard));
    }
    Value::from(messages)
}

/// Templates ask whether a key is there, so what is absent has none.
fn one(message: &Message, name: Option<&str>, arguments: Arguments, guard: Guard) -> Value {
    let text = |text: &str| Value::from(guard(text).expose());
    let content = text(message.content.expose());
    let role = message.role.name();
    if message.role == Role::Tool {
        let id = message.call_id.as_ref().map_or("", SecretString::expose);
        return context! { role, content, tool_call_id => text(id), name => text(name.unwrap_or_default()) };
    }
    let mut pairs = vec![("role", Value::from(role))];
    // Of a message that only calls, OpenAI's interface says that it has no content.
    let silent = message.content.is_empty() && !message.calls.is_empty();
    pairs.push(("content", if silent { Value::from(()) } else { content }));
    if !message.reasoning.is_empty() {
        pairs.push(("reasoning_content", text(message.reasoning.expose())));
    }
    if !message.calls.is_empty() {
        let calls = message.calls.iter().map(|call| one_call(call, arguments, guard));
        pairs.push(("tool_calls", Value::from_iter(calls)));
    }
    Value::from_pairs(pairs)
}

fn one_call(call: &ToolCall, arguments: Arguments, guard: Guard) -> Value {
    let text = |text: &str| Value::from(guard(text).expose());
    let object = match arguments {
        // What is no JSON was the model's own mistake: it is shown as it was.
        Arguments::Object => json::read(call.arguments.expose(), guard),
        Arguments::Text => None,
    };
    let arguments = object.unwrap_or_else(|| text(call.arguments.expose()));
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
    if parameters.kind() != minijinja::value::ValueKind::Map {
        return None;
    }
    let (name, description) = (text(&tool.name), text(&tool.description));
    Some(context! { type => "function", function => context! { name, description, parameters } })
}
