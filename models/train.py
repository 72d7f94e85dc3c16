#!/usr/bin/env python3
"""Makes the small chat model of this repository: trains it, measures it, and writes what the tests expect of it.

  train.py train --out OUT [--seed 7] [--steps 6000 | --minutes 40]   OUT/darkbloom-tiny-q8_0.gguf and -f16.gguf
  train.py train --out OUT2 --polish OUT/darkbloom-tiny-f16.gguf --seed 8 --steps 1383      a second, gentle run
  train.py train --out OUT3 --polish OUT2/darkbloom-tiny-q8_0.gguf --seed 9 --steps 1200 --late 0.6     a third
  train.py score MODEL.gguf [-n 200]                                  exact answers to held-out questions, by task
  train.py ask MODEL.gguf "What is 17 + 25?" [--system "You are Nora."]
  train.py questions MODEL.gguf --out FILE [-n 200]                   the questions of the score, for another program
  train.py expect MODEL.gguf --out FOLDER                             heldout.jsonl and tokenizer-golden.json

All text is generated and every random choice comes from --seed; nothing is downloaded.
"""

import argparse
import os
import random
import time

import numpy as np
import torch

import expectations
import network
from chatml import Chat, learn_tokens
from gguf_file import Shape, read_model, write_model
from measure import answer, score
from questions import Draw, conversation, long_conversation

SHAPE = Shape(layers=6, width=192, heads=6, kv_heads=2, head_size=32, ffn=512, vocab=448, context=1024, rope_base=1e4)
NAME = "darkbloom-tiny"

BATCH_TOKENS = 2304  # a step takes about a quarter of a second on two cores
SHORT_ROW = 192  # every conversation of one to three turns fits
LONG_EVERY = 4  # one step in four has rows as long as the context; in the third run one in two
EASY_STEPS = 800  # easy operands and words fade out over these
POLISH_RATE = 0.2  # of the full learning rates, in the second run
SAVE_EVERY = 500
SCORE_EVERY = 1000


# ---------------------------------------------------------------- batches


def take_fitting(pool, room):
    at = next((i for i, lesson in enumerate(pool) if len(lesson[0]) <= room), None)
    return None if at is None else pool.pop(at)


def packed(chat, lessons, rows, length):
    """Rows of length + 1 ids packed with whole conversations; segments number them so that none sees another."""
    ids = np.full((rows, length + 1), chat.pad, np.int64)
    segments = np.zeros((rows, length + 1), np.int32)
    value = np.zeros((rows, length + 1), np.float32)
    for row in range(rows):
        at, segment = 0, 1
        while (lesson := lessons(length + 1 - at, segment)) is not None:
            here = slice(at, at + len(lesson[0]))
            ids[row, here], value[row, here], segments[row, here] = *lesson, segment
            at, segment = here.stop, segment + 1
    return torch.tensor(ids), torch.tensor(segments), torch.tensor(value)


def batches(chat, seed, polish, late):
    """Endless batches; what they hold depends on the arguments alone."""
    draw, pool, step = Draw(random.Random(seed), chat.pieces, polish=polish, late=late), [], 0
    long_every = LONG_EVERY // 2 if late else LONG_EVERY

    def short(room, _segment):
        while len(pool) < 24:
            lesson = chat.lesson(conversation(draw))
            if len(lesson[0]) <= SHORT_ROW + 1:
                pool.append(lesson)
        return take_fitting(pool, room)

    def long_first(room, segment):
        if segment > 1:
            return short(room, segment)
        while True:
            goal = draw.rng.randint(200, SHAPE.context - 24)
            lesson = chat.lesson(long_conversation(draw, goal, chat.length))
            if len(lesson[0]) <= room:
                return lesson

    while True:
        draw.ease = 0.0 if polish else max(0.0, 1.0 - step / EASY_STEPS)
        if step % long_every == long_every - 1:
            yield packed(chat, long_first, BATCH_TOKENS // SHAPE.context, SHAPE.context)
        else:
            yield packed(chat, short, BATCH_TOKENS // SHORT_ROW, SHORT_ROW)
        step += 1


# ---------------------------------------------------------------- commands


def learning_rate(step, total):
    """Warm up, hold for the first third, then fall to zero in a straight line."""
    return min(1.0, (step + 1) / 100) * min(1.0, (total - step) / (total * 2 / 3))


def save(folder, tokens, merges, weights):
    for kind in ("q8_0", "f16"):
        path = os.path.join(folder, f"{NAME}-{kind}.gguf")
        arrays = ((name, w.detach().numpy()) for name, w in weights.items())
        write_model(path + ".part", NAME, SHAPE, kind, tokens, merges, arrays)
        os.replace(path + ".part", path)


def beginning(options):
    """(tokens, merges, weights) to start from: new ones, or those of an earlier run."""
    if options.polish:
        _, tokens, merges, arrays = read_model(options.polish)
        return tokens, merges, {name: torch.tensor(a) for name, a in arrays.items()}
    return *learn_tokens(SHAPE.vocab), network.first_weights(SHAPE, options.seed)


def train(options):
    os.makedirs(options.out, exist_ok=True)
    tokens, merges, weights = beginning(options)
    chat, peak = Chat(tokens, merges), POLISH_RATE if options.polish else 1.0
    for w in weights.values():
        w.requires_grad_()
    optimizer, started, average = network.Optimizer(weights), time.time(), None
    print(f"{sum(w.numel() for w in weights.values())} parameters", flush=True)
    total = options.steps
    for step, (ids, segments, value) in enumerate(batches(chat, options.seed, bool(options.polish), options.late)):
        minutes = (time.time() - started) / 60
        if options.minutes and minutes < options.minutes / 3:
            total = 3 * (step + 1)  # still holding: the end is three times as far as the hold
        now = network.loss(weights, SHAPE, ids, segments, value)
        now.backward()
        optimizer.step(peak * learning_rate(step, total))
        average = now.item() if average is None else 0.98 * average + 0.02 * now.item()
        done = step + 1
        if done % 100 == 0 or done == total:
            print(f"step {done} of {total} loss {average:.4f} {minutes:.1f} min", flush=True)
        if done % SAVE_EVERY == 0 or done == total:
            save(options.out, tokens, merges, weights)
        if done % SCORE_EVERY == 0 and done < total:
            print_score(score(weights, SHAPE, chat, 40))
        if done == total:
            break
    print(f"same again with --steps {total}", flush=True)
    run_score(argparse.Namespace(model=os.path.join(options.out, f"{NAME}-q8_0.gguf"), n=200))


def load(path):
    shape, tokens, merges, arrays = read_model(path)
    return {k: torch.tensor(a) for k, a in arrays.items()}, shape, Chat(tokens, merges)


def print_score(result):
    print("  " + "  ".join(f"{task} {share:.1%}" for task, share in result.items()), flush=True)


def run_score(options):
    print_score(score(*load(options.model), options.n))


def run_ask(options):
    messages = [("system", options.system)] if options.system else []
    print(answer(*load(options.model), messages + [("user", options.question)]))


def run_expect(options):
    weights, shape, chat = load(options.model)
    expectations.write_heldout(os.path.join(options.out, "heldout.jsonl"), weights, shape, chat)
    expectations.write_golden(os.path.join(options.out, "tokenizer-golden.json"), chat)


def run_questions(options):
    _, shape, chat = load(options.model)
    expectations.write_questions(options.out, shape, chat, options.n)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("train")
    one.add_argument("--out", required=True)
    one.add_argument("--seed", type=int, default=7)
    one.add_argument("--steps", type=int, default=6000)
    one.add_argument("--minutes", type=float, help="choose the steps so that training takes about this long")
    one.add_argument("--polish", metavar="MODEL.gguf", help="second run: go on from these weights at a low rate")
    one.add_argument("--late", type=float, default=0.0, metavar="SHARE",
                     help="third run: this share of long conversations asks only at the end for the name they began with")
    one.set_defaults(run=train)
    one = commands.add_parser("score")
    one.add_argument("model")
    one.add_argument("-n", type=int, default=200, help="questions for each task")
    one.set_defaults(run=run_score)
    one = commands.add_parser("ask")
    one.add_argument("model")
    one.add_argument("question")
    one.add_argument("--system")
    one.set_defaults(run=run_ask)
    one = commands.add_parser("questions")
    one.add_argument("model")
    one.add_argument("--out", required=True)
    one.add_argument("-n", type=int, default=200, help="questions for each task")
    one.set_defaults(run=run_questions)
    one = commands.add_parser("expect")
    one.add_argument("model")
    one.add_argument("--out", required=True)
    one.set_defaults(run=run_expect)
    return parser.parse_args()


if __name__ == "__main__":
    chosen = parse()
    chosen.run(chosen)
