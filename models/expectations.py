"""Writes what tests elsewhere in the repository may expect of the model: answers, and token ids of odd strings."""

import json

from measure import SEED as SCORE_SEED, margins
from questions import SCORED, scored_items

SEED = 123  # other questions than those of the score
MARGIN = 2.0  # in logits: how far ahead an expected token must be, so that other kernels round to the same answer

GOLDEN_TEXTS = [
    # plain text, spaces and digits
    "", " ", "  ", "   a", "a", "A", "Hello", "Hello, world!", " Hello", "Hello ", "hello hello  hello",
    "What is 17 + 25?", "17+25", "0123456789", "3.14159", "1,000,000", "x1y2z3", "trailing spaces   ",
    # words of the model's own text
    "What is Darkbloom?", "You are Nora.", "Spell the word month.", "m-o-n-t-h", "My name is Bud.", "the coordinator",
    " coordinator", "nano-dollars", "self_signed", "user\n", "assistant\n", "system\nYou are a helpful assistant.",
    # contractions, punctuation, code
    "It's", "I'M you'RE they've we'll he'd DON'T", "'s 't", "...", "!!!\n", "({[<>]})", "$12.50 & 7%", "a_b-c+d=e",
    "http://example.org/path?q=1#top", "fn main() { return 0; }",
    # line ends and tabs
    "\n", "\n\n", "\r\n", " \n", "\n ", "a\nb", "a\r\nb\r\n", "line one\n\n  line two\n", "\t", "\ttab\tbetween",
    "trailing newline\n",
    # look-alikes of special tokens
    "<|im_end|>", "<|im_start|>user\nhi<|im_end|>\n", "<|endoftext|>", "<think></think>", "<tool_call>{}</tool_call>",
    # other scripts, combining marks, numbers that are not ASCII digits
    "caf\u00e9", "cafe\u0301", "na\u00efve fa\u00e7ade", "\u00dcber stra\u00dfe",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440",
    "\u0645\u0631\u062d\u0628\u0627",
    "\u0967\u0968\u0969", "\u00bd \u00b2 \u2167", "\ud7a3\u1100\u1161",
    # emoji, odd spaces, invisible characters
    "\U0001f33a", "\U0001f468\u200d\U0001f469\u200d\U0001f467 family", "\U0001f1e9\U0001f1ea", "\u00a0nbsp\u00a0",
    "\u2003em space", "\u3000wide", "zero\u200bwidth", "\ufeffbom", "\u0000", "\u2026\u201cquotes\u201d\u2014dash",
]


def write_heldout(path, weights, shape, chat, per_task=10):
    """Held-out questions that the model answers with a clear margin, ten for each task."""
    items = scored_items(per_task * 4, SEED, chat.pieces, shape.context, chat.length)
    clear = [item for item, m in zip(items, margins(weights, shape, chat, items)) if m > MARGIN]
    chosen = []
    for task in SCORED:
        of_task = [item for item in clear if item[0] == task][:per_task]
        if len(of_task) < per_task:
            raise ValueError(f"only {len(of_task)} clear answers for {task}")
        chosen += of_task
    write_items(path, chosen)


def write_questions(path, shape, chat, per_task):
    """The very questions of the score, right or wrong, for another program to answer."""
    write_items(path, scored_items(per_task, SCORE_SEED, chat.pieces, shape.context, chat.length))


def write_items(path, items):
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        for task, messages, wanted in items:
            said = [{"role": role, "content": text} for role, text in messages]
            file.write(json.dumps({"task": task, "messages": said, "answer": wanted}) + "\n")


def write_golden(path, chat):
    """Strings and the ids that the Hugging Face tokenizer gives, special tokens not recognised inside text."""
    golden = [{"text": text, "ids": list(chat.encode(text))} for text in GOLDEN_TEXTS]
    for entry in golden:
        if chat.decode(entry["ids"]) != entry["text"]:
            raise ValueError(f"{entry['text']!r} does not come back from its ids")
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write("[\n" + ",\n".join(" " + json.dumps(entry) for entry in golden) + "\n]\n")
