"""The network (architecture `qwen3`), its loss and its optimizer, in plain PyTorch on the CPU.

Weights are a dict with GGUF names, so that what is trained is what is written.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F


def first_weights(shape, seed):
    """Random matrices; those that write into the residual stream start at zero, the embedding small."""
    rng, weights = np.random.default_rng(seed), {}
    for name, dimensions in shape.tensors():
        if len(dimensions) == 1:
            values = np.ones(dimensions)
        else:
            scale = 0.0 if name.endswith(("attn_output", "ffn_down")) else 0.3 if name == "token_embd" else 1.0
            values = rng.standard_normal(dimensions) * scale / math.sqrt(dimensions[1])
        weights[name] = torch.tensor(values, dtype=torch.float32)
    return weights


def rotations(shape, length):
    """Cosines and sines of the position encoding (RoPE, NEOX order)."""
    steps = shape.rope_base ** (-torch.arange(0, shape.head_size, 2) / shape.head_size)
    angles = torch.arange(length)[:, None] * steps[None]
    return angles.cos()[:, None], angles.sin()[:, None]


def rotate(x, rotation):
    cos, sin = rotation
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def normed(x, weight, shape):
    return F.rms_norm(x.float(), (x.shape[-1],), weight, shape.norm_eps)


def attention(x, weight, shape, rotation, mask):
    rows, length, _ = x.shape
    split = lambda y, heads: y.view(rows, length, heads, shape.head_size)
    x = normed(x, weight("attn_norm"), shape)
    q = rotate(normed(split(F.linear(x, weight("attn_q")), shape.heads), weight("attn_q_norm"), shape), rotation)
    k = rotate(normed(split(F.linear(x, weight("attn_k")), shape.kv_heads), weight("attn_k_norm"), shape), rotation)
    v = split(F.linear(x, weight("attn_v")), shape.kv_heads).transpose(1, 2)
    k, v = (y.repeat_interleave(shape.heads // shape.kv_heads, 1) for y in (k.transpose(1, 2).to(v.dtype), v))
    q = q.transpose(1, 2).to(v.dtype)
    seen = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    return F.linear(seen.transpose(1, 2).reshape(rows, length, -1), weight("attn_output"))


def feed_forward(x, weight, shape):
    x = normed(x, weight("ffn_norm"), shape)
    return F.linear(F.silu(F.linear(x, weight("ffn_gate"))) * F.linear(x, weight("ffn_up")), weight("ffn_down"))


def hidden(weights, shape, ids, segments=None):
    """Last hidden states. Ids of one row see each other only within a segment; without segments, all earlier ones."""
    length, mask = ids.shape[1], None
    if segments is not None:
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        mask = ((segments[:, :, None] == segments[:, None, :]) & causal)[:, None]
    rotation = rotations(shape, length)
    x = F.embedding(ids, weights["token_embd"])
    for i in range(shape.layers):
        weight = lambda name: weights[f"blk.{i}.{name}"]
        x = x + attention(x, weight, shape, rotation, mask)
        x = x + feed_forward(x, weight, shape)
    return normed(x, weights["output_norm"], shape)


def loss(weights, shape, ids, segments, value):
    """Weighted cross-entropy of the next id, over the ids whose `value` is above zero."""
    value = value[:, 1:].flatten()
    counted = value > 0
    with torch.autocast("cpu", torch.bfloat16):
        states = hidden(weights, shape, ids[:, :-1], segments[:, :-1]).flatten(0, 1)[counted]
        logits = F.linear(states, weights["token_embd"])
    each = F.cross_entropy(logits.float(), ids[:, 1:].flatten()[counted], reduction="none")
    return (each * value[counted]).sum() / value.sum()


class Optimizer:
    """Muon (momentum made orthogonal; Keller Jordan, 2024) for the matrices, Adam for embedding and norms."""

    MUON_RATE, ADAM_RATE, MOMENTUM, DECAY = 0.02, 0.004, 0.95, 0.05

    def __init__(self, weights):
        self.weights = list(weights.values())
        by_muon = lambda name, w: w.ndim == 2 and name != "token_embd"
        rest = [w for name, w in weights.items() if not by_muon(name, w)]
        self.adam = torch.optim.Adam(rest, lr=self.ADAM_RATE, betas=(0.9, 0.98), fused=True)
        self.groups = {}  # same dimensions up to transposition: one batched iteration
        for name, w in weights.items():
            if by_muon(name, w):
                self.groups.setdefault(tuple(sorted(w.shape)), []).append((w, torch.zeros_like(w)))

    @torch.no_grad()
    def step(self, rate):
        """One update; `rate` from 0 to 1 scales both learning rates."""
        self.adam.param_groups[0]["lr"] = rate * self.ADAM_RATE
        self.adam.step()
        for group in self.groups.values():
            self.muon(group, rate * self.MUON_RATE)
        for w in self.weights:
            w.grad = None

    def muon(self, group, rate):
        updates = []
        for w, momentum in group:
            momentum.mul_(self.MOMENTUM).add_(w.grad)
            update = w.grad + self.MOMENTUM * momentum
            updates.append(update.T if update.shape[0] > update.shape[1] else update)
        for (w, _), update in zip(group, orthogonal(torch.stack(updates))):
            tall = w.shape[0] > w.shape[1]
            stretch = math.sqrt(w.shape[0] / w.shape[1]) if tall else 1.0
            w.mul_(1 - rate * self.DECAY).add_(update.T if tall else update, alpha=-rate * stretch)


def orthogonal(x):
    """Newton-Schulz iteration towards the nearest matrices with orthogonal rows; five rounds are near enough."""
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(5):
        square = x @ x.mT
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * (square @ square)) @ x
    return x.float()
