//! Tools, and what the conversation says about them.

use darkbloom_content::{
    CALL_ARGUMENTS_BYTES_MAX, CALL_ID_BYTES_MAX, CALLS_MAX, Role, TOOL_DESCRIPTION_BYTES_MAX, TOOL_NAME_BYTES_MAX,
    TOOL_PARAMETERS_BYTES_MAX, TOOLS_MAX, Tool, ToolCall, ToolChoice, is_tool_name,
};
use darkbloom_types::SecretString;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{check_object, join, misplaced, missing, optional, wrong_type, wrong_value};
use crate::error::ApiError;
use crate::json::{Json, Members};

/// What OpenAI's interface means where a tool has no `parameters`.
const NO_PARAMETERS: &str = r#"{"type": "object", "properties": {}}"#;

/// The tools that the model may call, none where the caller's choice is `none`, and whether it must.
pub(super) fn read(members: &Members, body: &[u8]) -> Result<(Vec<Tool>, ToolChoice), ApiError> {
    let listed = optional(members, "tools", "tools", "an array of tools", Json::array)?.unwrap_or_default();
    if listed.len() > TOOLS_MAX {
        return Err(wrong_value("tools", &format!("an array of at most {TOOLS_MAX} tools")));
    }
    let mut tools: Vec<Tool> = Vec::with_capacity(listed.len());
    for (index, tool) in listed.iter().enumerate() {
        let tool = read_tool(&format!("tools[{index}]"), tool)?;
        if tools.iter().any(|other| other.name == tool.name) {
            return Err(wrong_value(&format!("tools[{index}].function.name"), "a name that no other tool has"));
        }
        tools.push(tool);
    }
    if !tools.is_empty() {
        put_parameters(&mut tools, body)?;
    }
    let parallel = optional(members, "parallel_tool_calls", "parallel_tool_calls", "a boolean", Json::boolean)?;
    let once = parallel == Some(false);
    let Some(choice) = read_choice(members, &tools, once)? else { return Ok((Vec::new(), ToolChoice::Free)) };
    if once && choice == ToolChoice::Free && !tools.is_empty() {
        let message = "`parallel_tool_calls` may be `false` only where `tool_choice` makes the model call: nothing else \
                       limits how often it does; leave it out, and take the first call";
        return Err(ApiError::invalid("unsupported_value", "parallel_tool_calls", message));
    }
    Ok((tools, choice))
}

/// Whether the model must call; nothing where it may not.
fn read_choice(members: &Members, tools: &[Tool], once: bool) -> Result<Option<ToolChoice>, ApiError> {
    let expected = "`auto`, `none`, `required` or an object that names a function";
    let choice = match members.get("tool_choice") {
        None | Some(Json::Null) => return Ok(Some(ToolChoice::Free)),
        Some(Json::Text(choice)) => match choice.expose() {
            "auto" => return Ok(Some(ToolChoice::Free)),
            "none" => return Ok(None),
            "required" => ToolChoice::Required { once },
            _ => return Err(wrong_value("tool_choice", expected)),
        },
        Some(Json::Object(choice)) => {
            check_object("tool_choice", "tool_choice", choice)?;
            let (place, function) = read_function("tool_choice", choice)?;
            check_object("tool_choice.function", &place, function)?;
            let name = read_name(&place, function)?;
            if tools.iter().all(|tool| tool.name != name) {
                return Err(wrong_value(&join(&place, "name"), "the name of one of the `tools`"));
            }
            ToolChoice::Named(name)
        }
        Some(Json::Bool(_) | Json::Integer(_) | Json::Float(_) | Json::Array(_)) => {
            return Err(wrong_type("tool_choice", expected));
        }
    };
    if tools.is_empty() {
        let message = "`tool_choice` makes the model call a tool, and there are no `tools`";
        return Err(ApiError::invalid("invalid_value", "tool_choice", message));
    }
    Ok(Some(choice))
}

/// A tool but for its parameters.
fn read_tool(place: &str, tool: &Json) -> Result<Tool, ApiError> {
    let members = tool.object().ok_or_else(|| wrong_type(place, "an object"))?;
    check_object("tools[]", place, members)?;
    let (place, function) = read_function(place, members)?;
    check_object("tools[].function", &place, function)?;
    let path = join(&place, "description");
    let description = optional(function, "description", &path, "a string", Json::text)?.unwrap_or_default();
    if description.len() > TOOL_DESCRIPTION_BYTES_MAX {
        return Err(wrong_value(&path, &format!("at most {TOOL_DESCRIPTION_BYTES_MAX} bytes long")));
    }
    optional(function, "parameters", &join(&place, "parameters"), "an object", Json::object)?;
    let name = read_name(&place, function)?;
    Ok(Tool { name, description: description.into(), parameters: NO_PARAMETERS.into() })
}

/// Adds each tool's parameters as they stand in the body: models are used to the order in which people write a schema.
fn put_parameters(tools: &mut [Tool], body: &[u8]) -> Result<(), ApiError> {
    #[derive(Deserialize)]
    struct Body<'b> {
        #[serde(borrow)]
        tools: Vec<Listed<'b>>,
    }
    #[derive(Deserialize)]
    struct Listed<'b> {
        #[serde(borrow)]
        function: Function<'b>,
    }
    #[derive(Deserialize)]
    struct Function<'b> {
        #[serde(borrow)]
        parameters: Option<&'b RawValue>,
    }
    let body: Body<'_> = serde_json::from_slice(body).map_err(|error| super::malformed(&error))?;
    for (index, (tool, listed)) in tools.iter_mut().zip(&body.tools).enumerate() {
        let Some(parameters) = listed.function.parameters else { continue };
        if parameters.get().len() > TOOL_PARAMETERS_BYTES_MAX {
            let path = format!("tools[{index}].function.parameters");
            return Err(wrong_value(&path, &format!("at most {TOOL_PARAMETERS_BYTES_MAX} bytes long")));
        }
        tool.parameters = parameters.get().into();
    }
    Ok(())
}

/// The calls that a message makes.
pub(super) fn read_calls(place: &str, members: &Members) -> Result<Vec<ToolCall>, ApiError> {
    let path = join(place, "tool_calls");
    let calls = optional(members, "tool_calls", &path, "an array of calls", Json::array)?.unwrap_or_default();
    if calls.len() > CALLS_MAX {
        return Err(wrong_value(&path, &format!("an array of at most {CALLS_MAX} calls")));
    }
    calls.iter().enumerate().map(|(index, call)| read_call(&format!("{path}[{index}]"), call)).collect()
}

fn read_call(place: &str, call: &Json) -> Result<ToolCall, ApiError> {
    let members = call.object().ok_or_else(|| wrong_type(place, "an object"))?;
    check_object("messages[].tool_calls[]", place, members)?;
    let path = join(place, "id");
    let id = text(members, "id", &path)?;
    let id = checked_id(&path, id)?;
    let (place, function) = read_function(place, members)?;
    check_object("messages[].tool_calls[].function", &place, function)?;
    let name = read_name(&place, function)?;
    let path = join(&place, "arguments");
    let arguments = text(function, "arguments", &path)?;
    if arguments.len() > CALL_ARGUMENTS_BYTES_MAX {
        return Err(wrong_value(&path, &format!("at most {CALL_ARGUMENTS_BYTES_MAX} bytes long")));
    }
    Ok(ToolCall { id, name, arguments: arguments.into() })
}

/// The call that a message of a tool answers; other messages answer none.
pub(super) fn read_call_id(place: &str, members: &Members, role: Role) -> Result<Option<SecretString>, ApiError> {
    let path = join(place, "tool_call_id");
    let given = members.get("tool_call_id").is_some_and(|id| !id.is_null());
    match (role, given) {
        (Role::Tool, _) => checked_id(&path, text(members, "tool_call_id", &path)?).map(Some),
        (Role::System | Role::User | Role::Assistant, true) => Err(misplaced(&path, "tool")),
        (Role::System | Role::User | Role::Assistant, false) => Ok(None),
    }
}

fn checked_id(path: &str, id: &str) -> Result<SecretString, ApiError> {
    if (1..=CALL_ID_BYTES_MAX).contains(&id.len()) {
        Ok(id.into())
    } else {
        Err(wrong_value(path, &format!("1 to {CALL_ID_BYTES_MAX} bytes long")))
    }
}

/// The function of a tool or a call, which are of no other type.
fn read_function<'j>(place: &str, members: &'j Members) -> Result<(String, &'j Members), ApiError> {
    let path = join(place, "type");
    if text(members, "type", &path)? != "function" {
        return Err(wrong_value(&path, "`function`"));
    }
    let path = join(place, "function");
    let function = members.get("function").ok_or_else(|| missing(&path))?;
    let function = function.object().ok_or_else(|| wrong_type(&path, "an object"))?;
    Ok((path, function))
}

fn read_name(place: &str, function: &Members) -> Result<SecretString, ApiError> {
    let path = join(place, "name");
    let name = text(function, "name", &path)?;
    if is_tool_name(name) {
        Ok(name.into())
    } else {
        Err(wrong_value(&path, &format!("1 to {TOOL_NAME_BYTES_MAX} letters, digits, `_` and `-`")))
    }
}

/// A text that must be there.
fn text<'j>(members: &'j Members, name: &str, path: &str) -> Result<&'j str, ApiError> {
    let value = members.get(name).ok_or_else(|| missing(path))?;
    value.text().ok_or_else(|| wrong_type(path, "a string"))
}
