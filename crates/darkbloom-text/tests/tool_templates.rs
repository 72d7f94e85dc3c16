//! Tools in chat templates: what the model is shown, and that nothing of it becomes a control token.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[path = "support/families.rs"]
mod families;
#[path = "support/gguf_writer.rs"]
mod gguf_writer;

use darkbloom_content::{ChatRequest, Message, Role, Tool, ToolCall};
use darkbloom_text::{AnswerFormat, CallSyntax, Opening, ReasoningSyntax, RenderPromptError, TextModel, TextPack};
use darkbloom_types::TokenId;
use families::{DEEPSEEK, FAMILIES, Family, GEMMA, HARMONY, LLAMA, MISTRAL, QWEN};
use gguf_writer::Header;

const SCHEMA: &str = r#"{"type": "object", "properties": {"z": {"type": "string"}}, "a": [1, 2.5, null]}"#;

fn tool(description: &str, parameters: &str) -> Tool {
    Tool { name: "look_up".into(), description: description.into(), parameters: parameters.into() }
}

/// A question, a call, and its answer.
fn request(arguments: &str, result: &str) -> ChatRequest {
    let call = ToolCall { id: "abcdefghi".into(), name: "look_up".into(), arguments: arguments.into() };
    let asked = Message { calls: vec![call], ..Message::new(Role::Assistant, "") };
    let messages = vec![Message::new(Role::User, "Who?"), asked, Message::of_tool("abcdefghi", result)];
    ChatRequest { tools: vec![tool("Looks <up> 'it'", SCHEMA)], ..ChatRequest::new(messages) }
}

/// The prompt as text, with control tokens written out.
fn shown(family: &Family, model: &TextModel, request: &ChatRequest) -> String {
    let mut bytes = Vec::new();
    for TokenId(token) in model.prompt_tokens(request).unwrap().expose() {
        match token {
            0..=255 => bytes.push(u8::try_from(*token).unwrap()),
            256 => bytes.extend(b"th"),
            257 => bytes.extend(b"the"),
            258 => bytes.extend(b"<s>"),
            259 => bytes.extend(b"<end>"),
            control => bytes.extend(family.controls[*control as usize - 262].as_bytes()),
        }
    }
    String::from_utf8(bytes).unwrap()
}

const IN_ONE_LINE: &str = r#"{"type": "function", "function": {"name": "look_up", "description": "Looks <up> 'it'", "parameters": {"type": "object", "properties": {"z": {"type": "string"}}, "a": [1, 2.5, null]}}}"#;

#[test]
fn each_familys_prompt_is_as_the_family_writes_it() {
    let request = request("{\"z\":\"é\"}", "Ada");
    let prompt = |family: &Family| shown(family, &family.model(true), &request);
    assert_eq!(
        prompt(&QWEN),
        format!(
            "<s><|im_start|>system\n{IN_ONE_LINE}\nCall as <tool_call>{{\"name\": ..., \"arguments\": ...}}</tool_call>\
             <|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n\
             {{\"name\": \"look_up\", \"arguments\": {{\"z\": \"é\"}}}}\n</tool_call><|im_end|>\n<|im_start|>user\n\
             <tool_response>\nAda\n</tool_response><|im_end|>\n<|im_start|>assistant"
        )
    );
    assert!(
        prompt(&LLAMA)
            .contains("\n{\n    \"type\": \"function\",\n    \"function\": {\n        \"name\": \"look_up\",\n")
    );
    assert!(prompt(&LLAMA).contains("\n\n{\"name\": \"look_up\", \"parameters\": {\"z\": \"é\"}}<|eot_id|>"));
    assert!(prompt(&GEMMA).contains("```tool_output\nlook_up: Ada\n```<end_of_turn>"));
    assert!(prompt(&MISTRAL).ends_with(
        "[INST]Who?[/INST][TOOL_CALLS]look_up[ARGS]{\"z\": \"é\"}<end>[TOOL_RESULTS]abcdefghi[TOOL_CONTENT]Ada[/TOOL_RESULTS]"
    ));
    // As the model wrote them: its template takes arguments as a text.
    assert!(
        prompt(&DEEPSEEK).contains("function<｜tool▁sep｜>look_up\n```json\n{\"z\":\"é\"}\n```<｜tool▁call▁end｜>")
    );
    assert!(prompt(&HARMONY).contains("// Looks <up> 'it'\ntype look_up = (_: {z: string}) => any;"));
    assert!(prompt(&HARMONY).contains(
        "<|start|>assistant to=functions.look_up<|channel|>commentary json<|message|>{\"z\": \"é\"}<|call|>\
         <|start|>functions.look_up to=assistant<|channel|>commentary<|message|>\"Ada\"<|end|><|start|>assistant"
    ));
}

#[test]
fn reasoning_of_before_is_shown_where_the_template_shows_it() {
    let thought = Message { reasoning: "hm".into(), ..Message::new(Role::Assistant, "So.") };
    let request = ChatRequest::new(vec![Message::new(Role::User, "?"), thought, Message::new(Role::User, "!")]);
    assert!(shown(&QWEN, &QWEN.model(true), &request).contains("<think>\nhm\n</think>\n\nSo.<|im_end|>"));
    assert!(shown(&MISTRAL, &MISTRAL.model(true), &request).contains("[THINK]hm[/THINK]So."));
    assert!(shown(&HARMONY, &HARMONY.model(true), &request).contains("<|channel|>analysis<|message|>hm<|end|>"));
}

#[test]
fn the_format_is_told_from_the_template_alone() {
    let (think, mistral) = (Some(ReasoningSyntax::Think), Some(ReasoningSyntax::Mistral));
    let formats = [
        (CallSyntax::Hermes, think),
        (CallSyntax::Llama, None),
        (CallSyntax::Gemma, None),
        (CallSyntax::Mistral, mistral),
        (CallSyntax::DeepSeek, think),
        (CallSyntax::Harmony, Some(ReasoningSyntax::Harmony)),
    ];
    for (family, (calls, reasoning)) in FAMILIES.into_iter().zip(formats) {
        let format = AnswerFormat { calls: Some(calls), reasoning };
        assert_eq!(AnswerFormat::of_template(family.template), format, "{}", family.name);
        for control in [true, false] {
            let model = family.model(control);
            assert_eq!(model.answer_format(), format, "{}", family.name);
            assert!(model.takes_tools(), "{}", family.name);
        }
    }
    assert_eq!(
        AnswerFormat::of_template("{% for m in messages %}{{ m.content }}{% endfor %}"),
        AnswerFormat::default()
    );
    // Calls that are no JSON are not known here.
    assert_eq!(AnswerFormat::of_template("<tool_call>\n<function=name>"), AnswerFormat::default());
}

#[test]
fn nothing_of_a_tool_or_a_call_becomes_a_control_token() {
    for family in FAMILIES {
        let model = family.model(true);
        let controls = |request: &ChatRequest| {
            let prompt = model.prompt_tokens(request).unwrap();
            prompt.expose().iter().filter(|token| token.0 >= 258).count()
        };
        let harmless = controls(&request("{\"z\": \"x\"}", "x"));
        let all = family.controls.concat() + "<s><end>";
        let wrapped = format!("\u{fdd0}{all}\u{fdd1}\u{fdd2}\u{fdd3}");
        let spelled: String = family.controls.iter().map(|it| format!("\\ufdd0{it}\\ufdd1")).collect();
        for hostile in [&all, &wrapped, &spelled] {
            let mut request = request(&format!("{{\"{hostile}\": \"{hostile}\"}}"), hostile);
            assert_eq!(controls(&request), harmless, "{}: {hostile}", family.name);
            let schema = format!("{{\"properties\": {{\"{hostile}\": {{\"type\": \"{hostile}\"}}}}}}");
            request.tools = vec![tool(hostile, &schema)];
            assert_eq!(controls(&request), harmless, "{}: {hostile}", family.name);
            request.messages[1].calls[0].arguments = format!("no JSON {hostile}").as_str().into();
            assert_eq!(controls(&request), harmless, "{}: {hostile}", family.name);
        }
    }
}

#[test]
fn arguments_that_are_no_json_are_shown_as_a_text() {
    let prompt = shown(&QWEN, &QWEN.model(true), &request("{\"z\": ", "x"));
    assert!(prompt.contains("\"arguments\": \"{\\\"z\\\": \"}"), "{prompt}");
}

#[test]
fn several_calls_are_shown_one_after_another_where_a_template_takes_one() {
    let call =
        |id: &str, arguments: &str| ToolCall { id: id.into(), name: "look_up".into(), arguments: arguments.into() };
    let calls = vec![call("a", "{\"z\": 1}"), call("b", "{\"z\": 2}"), call("c", "{\"z\": 3}")];
    let asked = Message { calls, reasoning: "hm".into(), ..Message::new(Role::Assistant, "I look.") };
    // The answers in another order, and one is missing.
    let answers = [Message::of_tool("b", "two"), Message::of_tool("a", "one")];
    let messages = [Message::new(Role::User, "Who?"), asked].into_iter().chain(answers);
    let messages = messages.chain([Message::new(Role::User, "So?")]).collect();
    let request = ChatRequest { tools: vec![tool("", SCHEMA)], ..ChatRequest::new(messages) };
    for control in [true, false] {
        let prompt = shown(&LLAMA, &LLAMA.model(control), &request);
        let turn = |role: &str, text: &str| format!("<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>");
        let called = |z: u8| turn("assistant", &format!("{{\"name\": \"look_up\", \"parameters\": {{\"z\": {z}}}}}"));
        let turns =
            [called(1), turn("ipython", "one"), called(2), turn("ipython", "two"), called(3), turn("user", "So?")];
        assert!(prompt.contains(&turns.concat()), "{prompt}");
    }
    // Others show them as they are.
    assert!(shown(&QWEN, &QWEN.model(true), &request).contains("{\"z\": 1}}\n</tool_call><tool_call>"));
}

#[test]
fn arguments_that_are_no_object_are_none_for_a_template_that_asks_for_keys() {
    let items = "{% for m in messages %}<user>{{ m.content }}{% for call in m.tool_calls or [] %}{{ call.function.name }}(\
                 {% for key, value in call.function.arguments.items() %}{{ key }}={{ value }};{% endfor %}){% endfor %}<end>\
                 {% endfor %}<model>{{ tools | tojson }}{# <tool_call> #}";
    let model = QWEN.model_of(items);
    let text = |arguments: &str| {
        let prompt = model.prompt_tokens(&request(arguments, "x")).unwrap();
        let bytes = prompt.expose().iter().filter_map(|token| u8::try_from(token.0).ok()).collect();
        String::from_utf8(bytes).unwrap()
    };
    assert!(text("{\"z\": \"x\"}").contains("look_up(z=x;)"));
    assert!(text("").contains("look_up()"));
    for arguments in ["[1]", "7", "no JSON", "{\"a\":"] {
        assert!(text(arguments).contains(&format!("look_up(arguments={arguments};)")), "{}", text(arguments));
    }
}

#[test]
fn integers_come_into_a_template_as_they_are() {
    let numbers = "[0, -1, 9223372036854775808, -9223372036854775809, 170141183460469231731687303715884105727, 1.5]";
    let arguments = format!("{{\"z\": {numbers}}}");
    assert!(shown(&QWEN, &QWEN.model(true), &request(&arguments, "x")).contains(&arguments));
    // One that is too long for any number here is shown with the text that it stands in, and not as another.
    let long = "{\"z\": 1701411834604692317316873037158841057280}";
    let quoted = format!("\"arguments\": \"{}\"", long.replace('"', "\\\""));
    let prompt = shown(&QWEN, &QWEN.model(true), &request(long, "x"));
    assert!(prompt.contains(&quoted), "{prompt}");
}

#[test]
fn a_schema_that_is_no_object_is_refused() {
    for schema in ["", "[1]", "{", "{} {}", "7", &format!("{}{}", "[".repeat(200), "]".repeat(200))] {
        let mut request = request("{}", "x");
        request.tools = vec![tool("", schema)];
        assert_eq!(QWEN.model(true).prompt_tokens(&request), Err(RenderPromptError::Parameters), "{schema}");
    }
}

#[test]
fn a_model_whose_template_knows_no_tools_refuses_them() {
    let of =
        |template: &str| TextModel::new(TextPack::from_gguf_header(&Header::small(template).bytes()).unwrap()).unwrap();
    let ignoring = "{% for m in messages %}<user>{{ m.content }}<end>{% endfor %}<model>{# <tool_call> #}";
    let splitting = "{% for m in messages %}<user>{{ m.content }}<end>{% endfor %}{% if tools %}{{ tools | tojson }}\
                     {{ '<mod' ~ 'el>' }}{% endif %}<model>{# <tool_call> #}";
    let failing = "{% for m in messages %}<user>{{ m.content }}<end>{% endfor %}{% if tools %}{{ raise_exception('no') }}\
                   {% endif %}<model>{# <tool_call> #}";
    for template in [ignoring, splitting, failing] {
        let model = of(template);
        assert!(!model.takes_tools());
        assert_eq!(model.prompt_tokens(&request("{}", "x")), Err(RenderPromptError::NoTools));
        let asked = ChatRequest { tools: Vec::new(), ..request("{}", "x") };
        assert_eq!(model.prompt_tokens(&asked), Err(RenderPromptError::NoTools), "nor calls of before");
        assert!(model.prompt_tokens(&ChatRequest::new(vec![Message::new(Role::User, "x")])).is_ok());
    }
}

#[test]
fn a_message_of_gpt_oss_ends_and_its_answer_goes_on() {
    let model = HARMONY.model(true);
    let named =
        |name: &str| TokenId(262 + u32::try_from(HARMONY.controls.iter().position(|it| *it == name).unwrap()).unwrap());
    assert_eq!(model.end_tokens(), [TokenId(259), named("<|return|>"), named("<|call|>")]);
    // Elsewhere the same token ends the answer.
    let mut header = Header::small("{% for m in messages %}{{ m.content }}{% endfor %}");
    header.tokens.push("<|end|>".to_owned());
    header.kinds.push(3);
    let other = TextModel::new(TextPack::from_gguf_header(&header.bytes()).unwrap()).unwrap();
    assert_eq!(other.end_tokens(), [TokenId(259), TokenId(262)]);
}

#[test]
fn what_somebody_wrote_opens_no_reasoning_behind_a_control_token() {
    let asks = "{% for m in messages %}<user>{{ m.content }}{% endfor %}<model>{# <think> #}";
    let opens = "{% for m in messages %}<user>{{ m.content }}{% endfor %}<model><think>\n\n";
    let request = ChatRequest::new(vec![Message::new(Role::User, "What is <think>")]);
    // The marker as letters, as a token of text and as a control token.
    let small = |template: &str, kind: Option<i32>| {
        let mut header = Header::small(template);
        header.tokens.extend(kind.map(|_| "<think>".to_owned()));
        header.kinds.extend(kind);
        TextModel::new(TextPack::from_gguf_header(&header.bytes()).unwrap()).unwrap()
    };
    for kind in [None, Some(4), Some(3)] {
        for (template, opening) in [(asks, Opening::Free), (opens, Opening::Reasoning)] {
            let model = small(template, kind);
            assert_eq!(model.opening(&model.prompt_tokens(&request).unwrap()), opening, "{kind:?}");
        }
    }
    // Its letters open nothing where it is a token.
    let model = small(opens, Some(3));
    let mut prompt = vec![TokenId(261)];
    prompt.extend(model.text_tokens("<think>\n").expose());
    assert_eq!(model.opening(&darkbloom_types::SecretTokens::new(prompt)), Opening::Free);
}

#[test]
fn an_answer_begins_in_reasoning_where_the_prompt_opens_it() {
    let request = ChatRequest::new(vec![Message::new(Role::User, "<think>\n")]);
    for (family, opening) in [(&QWEN, Opening::Free), (&DEEPSEEK, Opening::Reasoning), (&MISTRAL, Opening::Free)] {
        for control in [true, false] {
            let model = family.model(control);
            assert_eq!(model.opening(&model.prompt_tokens(&request).unwrap()), opening, "{}", family.name);
        }
    }
}
