"""Reads and writes the GGUF files of this folder: architecture `qwen3`, byte-level BPE, ChatML.

Weights carry their GGUF names without the `.weight` ending; a matrix has one row for each output.
"""

from dataclasses import dataclass

import gguf
import numpy as np

# The first three are control tokens; the others may stand in text and are kept for tool calls and reasoning.
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>"]
CONTROL_COUNT = 3
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
KINDS = {
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
}


@dataclass(frozen=True)
class Shape:
    """What the GGUF header says about a model. Embedding and output weights are always shared."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    vocab: int
    context: int
    rope_base: float
    norm_eps: float = 1e-6

    def tensors(self):
        """(name, dimensions) of each weight, in file order; one dimension means a norm."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        yield "token_embd", (self.vocab, self.width)
        for i in range(self.layers):
            block = f"blk.{i}."
            yield block + "attn_norm", (self.width,)
            yield block + "attn_q", (queries, self.width)
            yield block + "attn_k", (keys, self.width)
            yield block + "attn_v", (keys, self.width)
            yield block + "attn_q_norm", (self.head_size,)
            yield block + "attn_k_norm", (self.head_size,)
            yield block + "attn_output", (self.width, queries)
            yield block + "ffn_norm", (self.width,)
            yield block + "ffn_gate", (self.ffn, self.width)
            yield block + "ffn_up", (self.ffn, self.width)
            yield block + "ffn_down", (self.width, self.ffn)
        yield "output_norm", (self.width,)


def write_model(path, name, shape, kind, tokens, merges, weights):
    """Writes one model. `tokens` excludes SPECIALS, which follow them; `weights` yields (name, float32 array)."""
    quantisation, file_type = KINDS[kind]
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_name(name)
    writer.add_file_type(file_type)
    add_shape(writer, shape)
    add_tokenizer(writer, tokens, merges)
    for weight, values in weights:
        if values.ndim == 1:
            writer.add_tensor(weight + ".weight", values)
        else:
            writer.add_tensor(weight + ".weight", gguf.quants.quantize(values, quantisation), raw_dtype=quantisation)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_shape(writer, shape):
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(shape.norm_eps)


def add_tokenizer(writer, tokens, merges):
    first = len(tokens)  # id of the first special token
    types = [gguf.TokenType.NORMAL] * first + [gguf.TokenType.CONTROL] * CONTROL_COUNT
    types += [gguf.TokenType.USER_DEFINED] * (len(SPECIALS) - CONTROL_COUNT)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens + SPECIALS)
    writer.add_token_types(types)
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_bos_token_id(first)
    writer.add_pad_token_id(first)
    writer.add_eos_token_id(first + SPECIALS.index("<|im_end|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)


def read_model(path):
    """The inverse of `write_model`: (shape, tokens without SPECIALS, merges, weights as float32)."""
    reader = gguf.GGUFReader(path)
    field = lambda key: reader.get_field(key).contents()
    arch = field("general.architecture")
    tokens = field("tokenizer.ggml.tokens")
    if arch != "qwen3" or tokens[-len(SPECIALS):] != SPECIALS:
        raise ValueError(f"{path} is not a model that this folder wrote")
    shape = Shape(
        layers=field("qwen3.block_count"), width=field("qwen3.embedding_length"),
        heads=field("qwen3.attention.head_count"), kv_heads=field("qwen3.attention.head_count_kv"),
        head_size=field("qwen3.attention.key_length"), ffn=field("qwen3.feed_forward_length"),
        vocab=len(tokens), context=field("qwen3.context_length"),
        rope_base=field("qwen3.rope.freq_base"), norm_eps=field("qwen3.attention.layer_norm_rms_epsilon"),
    )
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    stored = {t.name.removesuffix(".weight"): gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    weights = {}
    for name, dimensions in shape.tensors():
        weights[name] = np.ascontiguousarray(stored.pop(name), np.float32)
        if weights[name].shape != dimensions:
            raise ValueError(f"{name} has shape {weights[name].shape}, expected {dimensions}")
    if stored:
        raise ValueError(f"unexpected weights: {sorted(stored)}")
    return shape, tokens[:-len(SPECIALS)], merges, weights
