//! One small model for each family's conventions. The templates are our own: they write what the published ones of the
//! family do, and nothing beside it.

use darkbloom_text::{TextModel, TextPack};

use super::gguf_writer::Header;

/// A family: its template, and those of its marks that are control tokens.
pub struct Family {
    pub name: &'static str,
    pub template: &'static str,
    pub controls: &'static [&'static str],
}

pub const QWEN: Family = Family {
    name: "qwen",
    template: r#"{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Call as <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}
{% if m.reasoning_content %}<think>
{{ m.reasoning_content }}
</think>

{% endif %}
{%- if m.role == 'tool' %}<tool_response>
{{ m.content }}
</tool_response>
{%- else %}{{ m.content or '' }}{% endif %}
{%- for call in m.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}<|im_start|>assistant
"#,
    controls: &["<|im_start|>", "<|im_end|>"],
};

pub const LLAMA: Family = Family {
    name: "llama",
    template: r#"{{ bos_token }}
{%- for m in messages %}<|start_header_id|>{{ 'ipython' if m.role == 'tool' else m.role }}<|end_header_id|>

{% if tools and loop.first %}Answer with {"name": function name, "parameters": its arguments}.
{% for tool in tools %}{{ tool | tojson(indent=4) }}
{% endfor %}{% endif %}
{%- if 'tool_calls' in m %}
{%- if m.tool_calls | length != 1 %}{{ raise_exception('one call at a time') }}{% endif %}
{%- set call = m.tool_calls[0].function %}{"name": "{{ call.name }}", "parameters": {{ call.arguments | tojson }}}
{%- else %}{{ m.content | trim }}{% endif %}<|eot_id|>
{%- endfor %}<|start_header_id|>assistant<|end_header_id|>

"#,
    controls: &["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"],
};

pub const GEMMA: Family = Family {
    name: "gemma",
    template: r#"{{ bos_token }}
{%- for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else 'user' }}
{% if tools and loop.first %}Functions: {{ tools | tojson }}
Call one as {"name": ..., "parameters": ...}.
{% endif %}
{%- for call in m.tool_calls or [] %}```tool_code
{"name": "{{ call.function.name }}", "parameters": {{ call.function.arguments | tojson }}}
```
{%- endfor %}
{%- if m.role == 'tool' %}```tool_output
{{ m.name }}: {{ m.content }}
```
{%- else %}{{ (m.content or '') | trim }}{% endif %}<end_of_turn>
{% endfor %}<start_of_turn>model
"#,
    controls: &["<start_of_turn>", "<end_of_turn>"],
};

pub const MISTRAL: Family = Family {
    name: "mistral",
    template: r#"{{ bos_token }}
{%- if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}[TOOL_RESULTS]{{ m.tool_call_id }}[TOOL_CONTENT]{{ m.content }}[/TOOL_RESULTS]
{%- elif m.role == 'assistant' %}
{%- if m.reasoning_content is defined %}[THINK]{{ m.reasoning_content }}[/THINK]{% endif %}
{%- if m.content %}{{ m.content }}{% endif %}
{%- for call in m.tool_calls or [] %}
{%- if call.id | length != 9 %}{{ raise_exception('ids have nine letters') }}{% endif %}
{{- '[TOOL_CALLS]' + call.function.name + '[ARGS]' + call.function.arguments | tojson }}
{%- endfor %}{{ eos_token }}
{%- else %}[INST]{{ m.content }}[/INST]{% endif %}
{%- endfor %}"#,
    controls: &[
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]",
        "[TOOL_CONTENT]",
        "[/TOOL_RESULTS]",
        "[TOOL_CALLS]",
        "[ARGS]",
        "[THINK]",
        "[/THINK]",
        "[INST]",
        "[/INST]",
    ],
};

pub const DEEPSEEK: Family = Family {
    name: "deepseek",
    template: r#"{{ bos_token }}
{%- if tools %}Tools: {{ tools | tojson }}{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}<｜tool▁output▁begin｜>{{ m.content }}<｜tool▁output▁end｜>
{%- elif m.role == 'assistant' %}<｜Assistant｜>
{%- if m['content'] is none %}<｜tool▁calls▁begin｜>
{%- for call in m['tool_calls'] %}
{{- '<｜tool▁call▁begin｜>' + call['type'] + '<｜tool▁sep｜>' + call['function']['name'] + '\n```json\n' + call['function']['arguments'] + '\n```<｜tool▁call▁end｜>' }}
{%- endfor %}<｜tool▁calls▁end｜>
{%- else %}{{ m.content.split('</think>')[-1] }}{% endif %}<｜end▁of▁sentence｜>
{%- else %}<｜User｜>{{ m.content }}{% endif %}
{%- endfor %}<｜Assistant｜><think>
"#,
    controls: &[
        "<｜Assistant｜>",
        "<｜User｜>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>",
        "<｜tool▁output▁begin｜>",
        "<｜tool▁output▁end｜>",
        "<｜end▁of▁sentence｜>",
    ],
};

pub const HARMONY: Family = Family {
    name: "gpt-oss",
    template: r#"{%- if tools %}<|start|>developer<|message|>
{%- for tool in tools %}// {{ tool.function.description }}
type {{ tool.function.name }} = (_: {
{%- for name, schema in tool.function.parameters.properties.items() %}{{ name }}: {{ schema.type }}{% endfor %}}) => any;
{% endfor %}<|end|>{% endif %}
{%- for m in messages %}
{%- if m.role == 'tool' %}<|start|>functions.{{ m.name }} to=assistant<|channel|>commentary<|message|>{{ m.content | tojson }}<|end|>
{%- elif m.role == 'assistant' %}
{%- if m.reasoning_content %}<|start|>assistant<|channel|>analysis<|message|>{{ m.reasoning_content }}<|end|>{% endif %}
{%- for call in m.tool_calls or [] %}<|start|>assistant to=functions.{{ call.function.name }}<|channel|>commentary json<|message|>{{ call.function.arguments | tojson }}<|call|>{% endfor %}
{%- if m.content %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>{% endif %}
{%- else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}
{%- endfor %}<|start|>assistant"#,
    controls: &["<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>"],
};

pub const FAMILIES: [&Family; 6] = [&QWEN, &LLAMA, &GEMMA, &MISTRAL, &DEEPSEEK, &HARMONY];

impl Family {
    /// A model whose marks are control tokens, or letters like all others.
    pub fn model(&self, control: bool) -> TextModel {
        if control { self.model_with(&[], 3) } else { Self::build(Header::small(self.template)) }
    }

    /// A model whose marks are control tokens, and these are tokens of a kind.
    #[allow(dead_code, reason = "not every test needs it")]
    pub fn model_with(&self, more: &[&str], kind: i32) -> TextModel {
        let mut header = Header::small(self.template);
        header.tokens.extend(self.controls.iter().chain(more).map(|token| (*token).to_owned()));
        header.kinds.extend(self.controls.iter().map(|_| 3));
        header.kinds.extend(more.iter().map(|_| kind));
        Self::build(header)
    }

    /// A model with another template, whose marks are letters.
    #[allow(dead_code, reason = "not every test needs it")]
    pub fn model_of(&self, template: &str) -> TextModel {
        Self::build(Header::small(template))
    }

    fn build(header: Header) -> TextModel {
        TextModel::new(TextPack::from_gguf_header(&header.bytes()).unwrap()).unwrap()
    }
}
