"""How well a model answers held-out questions, and what it answers."""

import numpy as np
import torch
import torch.nn.functional as F

import network
from questions import SCORED, scored_items

SEED = 99  # of the questions that the score is made of


@torch.no_grad()
def margins(weights, shape, chat, items):
    """For each item by how many logits its least certain answer token leads; below zero the answer is wrong.

    Greedy decoding gives the expected answer exactly when each of its tokens comes first after the true ones
    before it, so one pass is enough.
    """
    sequences = []
    for _, messages, answer in items:
        prompt, wanted = chat.prompt(messages), [*chat.encode(answer), chat.end]
        sequences.append((prompt + wanted, len(prompt)))
    order = sorted(range(len(items)), key=lambda i: len(sequences[i][0]))
    found = [0.0] * len(items)
    while order:
        longest = len(sequences[order[-1]][0])
        some = [order.pop() for _ in range(min(len(order), max(1, 12_288 // longest)))]
        ids = torch.full((len(some), longest), chat.pad)
        for row, i in enumerate(some):
            ids[row, :len(sequences[i][0])] = torch.tensor(sequences[i][0])
        states = network.hidden(weights, shape, ids)
        for row, i in enumerate(some):
            whole, start = sequences[i]
            found[i] = answer_margin(weights, states[row, start - 1:len(whole) - 1], torch.tensor(whole[start:]))
    return found


def answer_margin(weights, states, wanted):
    logits = F.linear(states, weights["token_embd"])
    of_wanted = logits.gather(1, wanted[:, None])[:, 0]
    others = logits.scatter(1, wanted[:, None], float("-inf")).max(1).values
    return float((of_wanted - others).min())


def score(weights, shape, chat, per_task):
    """Share of exact answers, over all tasks together and by task."""
    items = scored_items(per_task, SEED, chat.pieces, shape.context, chat.length)
    right = [m > 0 for m in margins(weights, shape, chat, items)]
    by_task = {t: float(np.mean([r for r, item in zip(right, items) if item[0] == t])) for t in SCORED}
    return {"all": float(np.mean(right)), **by_task}


@torch.no_grad()
def answer(weights, shape, chat, messages, limit=128):
    """Plain greedy decoding without a cache."""
    ids = chat.prompt(messages)
    start = len(ids)
    while len(ids) < min(start + limit, shape.context):
        state = network.hidden(weights, shape, torch.tensor([ids]))[0, -1]
        token = int(F.linear(state, weights["token_embd"]).argmax())
        if token == chat.end:
            break
        ids.append(token)
    return chat.decode(ids[start:])
