//! Calls of tools as each format writes them: what `darkbloom_text` reads, and of that what its templates write.

use darkbloom_content::Tool;
use darkbloom_text::CallSyntax;

use super::grammar::{Writer, literal};
use super::{GuideFault, schema};

/// Writes the rules of one call, or of several, to these tools. Returns what refers to them.
pub(super) fn write(writer: &mut Writer<'_>, tools: &[&Tool], several: bool) -> Result<String, GuideFault> {
    let arguments: Vec<(&str, String)> = tools
        .iter()
        .map(|tool| {
            let schema = schema::read_parameters(tool.parameters.expose())?;
            Ok((tool.name.expose(), writer.schema(schema)))
        })
        .collect::<Result<_, GuideFault>>()?;
    // One of the tools: this, its name, that, its arguments, and the rest.
    let of_each = |before: &str, between: &str, after: &str| {
        let ways = arguments.iter().map(|(name, arguments)| {
            let head = literal(&format!("{before}{name}{between}"));
            if after.is_empty() {
                format!("{head} {arguments}")
            } else {
                format!("{head} {arguments} {}", literal(after))
            }
        });
        ways.collect::<Vec<_>>().join(" | ")
    };
    let object = |key: &str| of_each("{\"name\": \"", &format!("\", \"{key}\": "), "}");
    let calls = match writer.syntax().ok_or(GuideFault::Calls)? {
        CallSyntax::Hermes => {
            let (open, close) = (writer.mark("<tool_call>"), writer.mark("</tool_call>"));
            writer.rule("object", &object("arguments"));
            writer.rule("call", &format!("{open} \"\\n\" object \"\\n\" {close}"));
            if several { "call (\"\\n\" call)*" } else { "call" }.to_owned()
        }
        // Their templates take one call at a time.
        CallSyntax::Llama => {
            let mark = writer.token("<|python_tag|>").map(|mark| format!("{mark}?")).unwrap_or_default();
            writer.rule("object", &object("parameters"));
            format!("{mark} object")
        }
        CallSyntax::Gemma => {
            writer.rule("object", &object("parameters"));
            "\"```tool_code\\n\" object \"\\n```\"".to_owned()
        }
        CallSyntax::Mistral => {
            let open = writer.mark("[TOOL_CALLS]");
            if let Some(between) = writer.token("[ARGS]") {
                let ways = arguments.iter().map(|(name, arguments)| format!("{} {between} {arguments}", literal(name)));
                writer.rule("named", &ways.collect::<Vec<_>>().join(" | "));
                writer.rule("call", &format!("{open} named"));
                if several { "call+" } else { "call" }.to_owned()
            } else {
                writer.rule("object", &object("arguments"));
                let more = if several { "(\", \" object)*" } else { "" };
                format!("{open} \" \"? \"[\" object {more} \"]\"")
            }
        }
        CallSyntax::DeepSeek => {
            let marks = ["calls▁begin", "call▁begin", "sep", "call▁end", "calls▁end"];
            let marks = marks.map(|mark| writer.mark(&format!("<｜tool▁{mark}｜>")));
            let [begin, open, between, close, end] = marks;
            let fenced = of_each("", "\n```json\n", "\n```");
            writer.rule("fenced", &fenced);
            let ways = arguments.iter().map(|(name, arguments)| format!("{} {between} {arguments}", literal(name)));
            writer.rule("plain", &ways.collect::<Vec<_>>().join(" | "));
            writer.rule("call", &format!("{open} (\"function\" {between} fenced | plain) {close}"));
            let more = if several { "(\"\\n\"? call)*" } else { "" };
            format!("{begin} call {more} {end}")
        }
        // A call ends the model's turn.
        CallSyntax::Harmony => {
            let (channel, message) = (writer.must("<|channel|>")?, writer.must("<|message|>")?);
            let kind = writer.token("<|constrain|>").map(|mark| format!("({mark} \"json\")?")).unwrap_or_default();
            let ways = arguments.iter().map(|(name, arguments)| {
                format!("{} {kind} {message} {arguments}", literal(&format!("commentary to=functions.{name} ")))
            });
            writer.rule("addressed", &ways.collect::<Vec<_>>().join(" | "));
            format!("{channel} addressed")
        }
    };
    writer.rule("calls", &calls);
    Ok("calls".to_owned())
}
