"""The tokenizer, and conversations as token ids in the ChatML form of the chat template.

Special tokens are placed by hand and never recognised inside text: a user who types "<|im_end|>" gets plain letters.
"""

import functools
import json
import math

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

import questions
from gguf_file import SPECIALS

# The split that GGUF names "qwen2": every digit is its own token.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def with_split(tokenizer):
    """Adds the parts around the merges: how text is cut before them and put together after."""
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def learn_tokens(vocab):
    """(tokens, merges) learnt from the wordings; all 256 bytes are tokens, so any text can be encoded."""
    tokenizer = with_split(Tokenizer(models.BPE()))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocab - len(SPECIALS), initial_alphabet=alphabet, max_token_length=12,
                                  show_progress=False)
    tokenizer.train_from_iterator(questions.tokenizer_text(), trainer)
    count = tokenizer.get_vocab_size()
    if count != vocab - len(SPECIALS):
        raise ValueError(f"the wordings give only {count} tokens")
    tokens = [tokenizer.id_to_token(i) for i in range(count)]
    return tokens, [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]


class Chat:
    """Text and conversations to ids and back."""

    def __init__(self, tokens, merges):
        vocabulary = {token: i for i, token in enumerate(tokens)}
        self.tokenizer = with_split(Tokenizer(models.BPE(vocab=vocabulary, merges=merges)))
        self.pad = len(tokens)  # <|endoftext|>
        self.start, self.end = self.pad + 1, self.pad + 2
        self.newline = self.encode("\n")
        # Letter groups of lower-case tokens: words to spell are built from these too.
        letters = {token.removeprefix("Ġ") for token in tokens}
        self.pieces = sorted(t for t in letters if 2 <= len(t) <= 6 and t.isascii() and t.isalpha() and t.islower())

    @functools.lru_cache(200_000)
    def encode(self, text):
        return tuple(self.tokenizer.encode(text).ids)

    def decode(self, ids):
        return self.tokenizer.decode([i for i in ids if i < self.pad])

    def prompt(self, messages):
        """What the chat template makes of the messages, up to where the model answers."""
        ids = []
        for role, text in messages:
            ids += [self.start, *self.encode(f"{role}\n{text}"), self.end, *self.newline]
        return ids + [self.start, *self.encode("assistant\n")]

    def length(self, messages):
        return sum(len(self.encode(f"{role}\n{text}")) + 2 + len(self.newline) for role, text in messages)

    def lesson(self, messages):
        """(ids, weight of predicting each id): only answers count, and short ones weigh more per token."""
        ids, weights = [], []
        for role, text in messages:
            answer = [*self.encode(text), self.end] if role == "assistant" else []
            head = [self.start, *self.encode("assistant\n" if answer else f"{role}\n{text}")]
            head += [] if answer else [self.end]
            ids += head + answer + [*self.newline]
            weights += [0.0] * len(head) + [1 / math.sqrt(len(answer))] * len(answer) if answer else [0.0] * len(head)
            weights += [0.0] * len(self.newline)
        return ids, weights
