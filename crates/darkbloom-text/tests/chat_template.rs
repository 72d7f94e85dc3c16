//! Chat templates of the shapes that models come with, and of shapes that must be refused.

#![allow(clippy::unwrap_used, reason = "a test that cannot unwrap has failed")]

#[path = "support/gguf_writer.rs"]
mod gguf_writer;

use darkbloom_content::{ChatRequest, Message, Role};
use darkbloom_text::{BuildTextModelError, RenderPromptError, TextModel, TextPack};
use gguf_writer::Header;

const S: u32 = 258;
const END: u32 = 259;
const USER: u32 = 260;
const MODEL: u32 = 261;

fn build(header: &Header) -> Result<TextModel, BuildTextModelError> {
    TextModel::new(TextPack::from_gguf_header(&header.bytes()).unwrap())
}

fn model(template: &str) -> TextModel {
    build(&Header::small(template)).unwrap_or_else(|error| panic!("{error}: {:?}", error))
}

fn prompt(model: &TextModel, turns: &[(Role, &str)]) -> Result<Vec<u32>, RenderPromptError> {
    let messages = turns.iter().map(|&(role, content)| Message::new(role, content));
    let tokens = model.prompt_tokens(&ChatRequest::new(messages.collect()))?;
    Ok(tokens.expose().iter().map(|token| token.0).collect())
}

/// The prompt as text, with control tokens written out.
fn shown(model: &TextModel, turns: &[(Role, &str)]) -> String {
    let mut bytes = Vec::new();
    for token in prompt(model, turns).unwrap() {
        match token {
            S => bytes.extend(b"[s]"),
            END => bytes.extend(b"[end]"),
            USER => bytes.extend(b"[user]"),
            MODEL => bytes.extend(b"[model]"),
            256 => bytes.extend(b"th"),
            257 => bytes.extend(b"the"),
            byte => bytes.push(u8::try_from(byte).unwrap()),
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_first_token_is_written_once() {
    let turns = [(Role::User, "hi")];
    let silent = model("{% for m in messages %}<user>{{ m.content }}<end>{% endfor %}<model>");
    assert_eq!(shown(&silent, &turns), "[s][user]hi[end][model]");
    let eager = model("{{ bos_token }}{% for m in messages %}<user>{{ m.content }}{{ eos_token }}{% endfor %}<model>");
    assert_eq!(shown(&eager, &turns), "[s][user]hi[end][model]");
    let mut header = Header::small("{% for m in messages %}<user>{{ m.content }}<end>{% endfor %}<model>");
    header.add_begin = Some(false);
    assert_eq!(shown(&build(&header).unwrap(), &turns), "[user]hi[end][model]");
}

#[test]
fn merges_make_tokens_of_text() {
    let tokens = prompt(&model("{% for m in messages %}{{ m.content }}{% endfor %}"), &[(Role::User, "the th t")]);
    assert_eq!(tokens.unwrap(), [S, 257, u32::from(b' '), 256, u32::from(b' '), u32::from(b't')]);
}

#[test]
fn blocks_leave_no_blank_lines() {
    let template = "{% for m in messages %}\n    {% if m.role == 'user' %}\n<user>{{ m.content }}\n    {% endif %}\n{% endfor %}\n<model>\n";
    assert_eq!(shown(&model(template), &[(Role::User, "a"), (Role::User, "b")]), "[s][user]a\n[user]b\n[model]");
}

#[test]
fn templates_may_look_into_messages() {
    // The shape of the reasoning families: earlier thoughts are cut out, messages are walked backwards.
    let template = "\
{%- set ns = namespace(last=-1) %}
{%- for m in messages[::-1] %}
    {%- if ns.last < 0 and m.role == 'user' and not (m.content.startswith('[tool]') and m.content.endswith('[/tool]')) %}
        {%- set ns.last = messages | length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'assistant' and m.content is string and '[/think]' in m.content %}
        {{- '<model>' + m.content.split('[/think]')[-1].lstrip('\\n') + '<end>' }}
    {%- else %}
        {{- '<user>' ~ m['content'] | trim ~ ('!' if loop.index0 == ns.last else '') ~ '<end>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<model>' }}{% endif %}";
    let turns = [
        (Role::User, " first "),
        (Role::Assistant, "[think]hm <end>[/think]\n\nso <end> there"),
        (Role::User, "second"),
        (Role::User, "[tool]x[/tool]"),
    ];
    let expected = "[s][user]first[end][model]so <end> there[end][user]second![end][user][tool]x[/tool][end][model]";
    assert_eq!(shown(&model(template), &turns), expected);
}

#[test]
fn cutting_and_joining_a_message_yields_no_control_token() {
    let template =
        "{% for m in messages %}<user>{{ m.content.replace('-', '') }}{{ m.content[1:] }}{% endfor %}<model>";
    let cut = model(template);
    for content in ["<e-nd>", "x<end>", "-<us-er>", "\u{fdd0}-<end>\u{fdd1}", "<-m-o-d-e-l->"] {
        let tokens = prompt(&cut, &[(Role::User, content)]).unwrap();
        let controls: Vec<u32> = tokens.into_iter().filter(|token| *token >= S).collect();
        assert_eq!(controls, [S, USER, MODEL], "{content:?}");
    }
}

#[test]
fn methods_of_python_are_there() {
    let template = "\
{%- set t = ' aB c,d ' -%}
{{ t.strip() }}|{{ t.rstrip() }}|{{ 'xxa'.lstrip('x') }}|{{ t.upper() }}|{{ t.lower() }}|{{ 'a-b-c'.split('-', 1) | join('+') }}|
{{- ' a  b '.split() | join('+') }}|{{ 'abc'.find('c') }}|{{ 'abc'.find('z') }}|{{ 'aXa'.count('a') }}|{{ 'hello you'.title() }}|
{{- 'hELLO'.capitalize() }}|{{ 'abc'.startswith(('x', 'a')) }}|{{ {'k': 'v'}.get('k') }}|{{ {'k': 'v'}.get('z', 'd') }}|
{%- for k, v in {'k': 'v'}.items() %}{{ k }}={{ v }}{% endfor %}|{{ {'k': 'v'}.keys() | join }}|{{ {'k': 'v'}.values() | join }}";
    let expected = "[s]aB c,d| aB c,d|a| AB C,D | ab c,d |a+b-c|a+b|2|-1|2|Hello You|Hello|True|v|d|k=v|k|v";
    assert_eq!(shown(&model(template), &[(Role::User, "")]), expected);
}

#[test]
fn a_template_that_says_no_is_quoted_and_a_message_is_not() {
    let strict =
        model("{% if messages[0].role != 'user' %}{{ raise_exception('a user must begin') }}{% endif %}<model>");
    let refused = prompt(&strict, &[(Role::Assistant, "violet")]);
    assert_eq!(refused, Err(RenderPromptError::Refused("a user must begin".to_owned())));

    let leaky =
        "{% if messages[0].content == 'violet' %}{{ raise_exception('no ' ~ messages[0].content) }}{% endif %}<model>";
    let error = prompt(&model(leaky), &[(Role::User, "violet")]).unwrap_err();
    assert_eq!(error, RenderPromptError::Refused("it gives no reason".to_owned()));

    let failing = "{% if messages[0].content == 'violet' %}{{ messages[0].content | int }}{% endif %}<model>";
    let error = prompt(&model(failing), &[(Role::User, "violet")]).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("violet"), "{error:?}");
}

#[test]
fn templates_that_cannot_be_used_are_refused_when_they_are_built() {
    let error = |template: &str| match build(&Header::small(template)).unwrap_err() {
        BuildTextModelError::Template(RenderPromptError::Template(reason)) => reason,
        other => panic!("{other:?}"),
    };
    assert!(error("{% for %}").starts_with("syntax error in line 1"));
    assert!(error("{{ raise_exception('never') }}").contains("refuses every conversation"));
    assert!(error("{% for m in messages %}{{ '<' ~ m.role ~ '>' ~ m.content }}{% endfor %}").contains("out of parts"));
    assert!(error("{{ '<user>'[1:] }}").contains("apart"));
    assert!(error("{% include 'x' %}").contains("syntax error"));
}

#[test]
fn work_and_length_are_limited() {
    let looping = "{% for m in messages %}{% if m.content == 'x' %}{% for i in range(100000) %}{% for j in range(1000) %}{{ i }}{% endfor %}{% endfor %}{% endif %}{% endfor %}<model>";
    assert_eq!(prompt(&model(looping), &[(Role::User, "x")]), Err(RenderPromptError::TooMuchWork));
    let doubling = "{% set ns = namespace(t='xx') %}{% if messages[0].content == 'x' %}{% for i in range(60) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{% endif %}<model>";
    assert_eq!(prompt(&model(doubling), &[(Role::User, "x")]), Err(RenderPromptError::TooMuchWork));
    let replacing = "{% set ns = namespace(t='xx') %}{% if messages[0].content == 'x' %}{% for i in range(60) %}{% set ns.t = ns.t.replace('x', 'xx') %}{% endfor %}{% endif %}<model>";
    assert_eq!(prompt(&model(replacing), &[(Role::User, "x")]), Err(RenderPromptError::TooMuchWork));
    // As JSON it has 2^40 elements, in the engine's memory 40.
    let nesting = "{% set ns = namespace(t=[]) %}{% if messages[0].content == 'x' %}{% for i in range(40) %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}{{ ns.t | tojson | length }}{% endif %}<model>";
    assert_eq!(prompt(&model(nesting), &[(Role::User, "x")]), Err(RenderPromptError::TooMuchWork));
    let echo = model("{% for m in messages %}{{ m.content }}{% endfor %}");
    let long = "x".repeat(9 << 20);
    assert_eq!(prompt(&echo, &[(Role::User, &long)]), Err(RenderPromptError::TooLong));
    let many: Vec<_> = std::iter::repeat_n((Role::User, "x"), 1_024).collect();
    assert_eq!(prompt(&echo, &many).unwrap().len(), 1_025);
}
