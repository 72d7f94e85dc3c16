#!/usr/bin/env python3
"""Writes models with random weights and real shapes, for speed and memory work. What they say is noise.

  random_weights.py --preset tiny --kind q8_0 OUT.gguf
  random_weights.py --preset 0.6b --kind q4_0 OUT.gguf

Architecture `qwen3`, like the trained model. The weights are a pure function of seed, name and size, so each kind of
one preset holds the same model. The files are large and soon made again: they are never committed.
"""

import argparse
import dataclasses
import itertools
import math
import zlib

import numpy as np

from gguf_file import KINDS, SPECIALS, Shape, write_model

PRESETS = {
    # for tests that need any model at all, in a second
    "tiny": Shape(layers=4, width=128, heads=4, kv_heads=2, head_size=32, ffn=384, vocab=1024, context=4096,
                  rope_base=1e6),
    # the sizes that Qwen3-0.6B publishes in its configuration
    "0.6b": Shape(layers=28, width=1024, heads=16, kv_heads=8, head_size=128, ffn=3072, vocab=151_936, context=40_960,
                  rope_base=1e6),
}
# So that a small vocabulary still merges ordinary text, these come first in the pairs.
COMMON = " etaoinshrdlucmfwypvbgkqjxzETAOINSHRDLU0123456789.,-"


def byte_letters():
    """The 256 printable letters that byte-level BPE writes for bytes, in byte order (as GPT-2 chose them)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    spare = itertools.count(256)
    return [chr(byte if byte in printable else next(spare)) for byte in range(256)]


def all_merges(letters):
    """Pairs of bytes, common ones first, then each pair with one byte more: (left, right), without repeats."""
    order = [ord(c) for c in COMMON]
    order += [byte for byte in range(256) if byte not in order]
    ranked = [letters[byte] for byte in order]
    pairs = [(a, total - a) for total in range(511) for a in range(max(0, total - 255), min(total, 255) + 1)]
    yield from ((ranked[a], ranked[b]) for a, b in pairs)
    yield from ((ranked[a] + ranked[b], last) for a, b in pairs for last in ranked)


def vocabulary(size):
    """(tokens without SPECIALS, merges): with SPECIALS exactly `size` tokens."""
    letters = byte_letters()
    merges = list(itertools.islice(all_merges(letters), size - len(SPECIALS) - len(letters)))
    return letters + [left + right for left, right in merges], merges


def random_weight(name, dimensions, seed):
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = rng.standard_normal(dimensions, dtype=np.float32)
    if len(dimensions) == 1:
        return 1 + np.float32(0.1) * values
    return values * np.float32(1 / math.sqrt(dimensions[1]))


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--preset", choices=PRESETS, default="tiny")
    parser.add_argument("--kind", choices=KINDS, default="q8_0")
    parser.add_argument("--vocab", type=int, help="another vocabulary size than the preset's")
    parser.add_argument("--seed", type=int, default=7)
    return parser, parser.parse_args()


def main():
    parser, options = parse()
    shape = PRESETS[options.preset]
    if options.vocab is not None:
        shape = dataclasses.replace(shape, vocab=options.vocab)
    if not 256 + len(SPECIALS) <= shape.vocab <= 1_000_000:
        parser.error(f"--vocab must be between {256 + len(SPECIALS)} and 1000000")
    tokens, merges = vocabulary(shape.vocab)
    weights = ((name, random_weight(name, dimensions, options.seed)) for name, dimensions in shape.tensors())
    write_model(options.out, f"random-{options.preset}", shape, options.kind, tokens, merges, weights)


if __name__ == "__main__":
    main()
