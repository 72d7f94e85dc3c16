//! The format of an answer.

use darkbloom_content::{AnswerShape, FORMAT_SCHEMA_BYTES_MAX};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{check_object, missing, optional, wrong_type, wrong_value};
use crate::error::ApiError;
use crate::json::{Json, Members};

/// What an answer is held to. The fields that have no effect on it are added to the hints.
pub(super) fn read(members: &Members, body: &[u8], hints: &mut Vec<&'static str>) -> Result<AnswerShape, ApiError> {
    let place = "response_format";
    let Some(format) = optional(members, place, place, "an object", Json::object)? else {
        return Ok(AnswerShape::Free);
    };
    hints.extend(check_object(place, place, format)?);
    let path = "response_format.type";
    let kind = format.get("type").ok_or_else(|| missing(path))?;
    let kind = kind.text().ok_or_else(|| wrong_type(path, "a string"))?;
    let given = format.get("json_schema").is_some_and(|schema| !schema.is_null());
    match kind {
        "text" | "json_object" if given => {
            let message = "`response_format.json_schema` may stand only where `response_format.type` is `json_schema`";
            Err(ApiError::invalid("invalid_value", "response_format.json_schema", message))
        }
        "text" => Ok(AnswerShape::Free),
        "json_object" => Ok(AnswerShape::JsonObject),
        "json_schema" => read_schema(format, body, hints),
        _ => Err(wrong_value(path, "`text`, `json_object` or `json_schema`")),
    }
}

fn read_schema(format: &Members, body: &[u8], hints: &mut Vec<&'static str>) -> Result<AnswerShape, ApiError> {
    let place = "response_format.json_schema";
    let named = format.get("json_schema").ok_or_else(|| missing(place))?;
    let named = named.object().ok_or_else(|| wrong_type(place, "an object"))?;
    hints.extend(check_object(place, place, named)?);
    let path = "response_format.json_schema.name";
    named.get("name").ok_or_else(|| missing(path))?.text().ok_or_else(|| wrong_type(path, "a string"))?;
    let path = "response_format.json_schema.schema";
    named.get("schema").ok_or_else(|| missing(path))?.object().ok_or_else(|| wrong_type(path, "an object"))?;
    let schema = written(body)?;
    if schema.len() > FORMAT_SCHEMA_BYTES_MAX {
        return Err(wrong_value(path, &format!("at most {FORMAT_SCHEMA_BYTES_MAX} bytes long")));
    }
    Ok(AnswerShape::Json(schema.into()))
}

/// The schema as it stands in the body: answers have their members in its order.
fn written(body: &[u8]) -> Result<&str, ApiError> {
    #[derive(Deserialize)]
    struct Body<'b> {
        #[serde(borrow)]
        response_format: Format<'b>,
    }
    #[derive(Deserialize)]
    struct Format<'b> {
        #[serde(borrow)]
        json_schema: Named<'b>,
    }
    #[derive(Deserialize)]
    struct Named<'b> {
        #[serde(borrow)]
        schema: &'b RawValue,
    }
    let body: Body<'_> = serde_json::from_slice(body).map_err(|error| super::malformed(&error))?;
    Ok(body.response_format.json_schema.schema.get())
}
