"""The text the model learns from: questions, answers and whole conversations, all generated here.

Every task keeps some of its questions out of training for good: one number pair, counting range, sorted set, word,
name or wording in ten, chosen by a hash that no seed changes. `held_out` on a `Draw` says which side to draw from.
"""

import hashlib
import random
from dataclasses import dataclass

DEFAULT_NAME = "Bud"

FACTS = [  # (question, other wording, answer); true of the project, short, ASCII
    ("What is Darkbloom?", "Describe Darkbloom.",
     "Darkbloom is private inference on machines you do not own, that anyone can check."),
    ("What is a provider?", "Explain the word provider.", "A provider is a machine that its owner lends out."),
    ("What is a consumer?", "Explain the word consumer.", "A consumer is a person who needs a language model."),
    ("What does the coordinator do?", "Explain the coordinator.",
     "The coordinator brings consumers and providers together."),
    ("What does the client do?", "Explain the client.", "The client checks providers and seals requests."),
    ("What is the gateway?", "Explain the gateway.", "The gateway is a client that the operator runs."),
    ("Who runs the coordinator?", "On whose server does the coordinator run?", "The operator runs the coordinator."),
    ("Who runs a provider?", "On whose machine does a provider run?", "The owner of a machine runs the provider."),
    ("Where does the client run?", "On whose machine does the client run?",
     "The client runs on the machine of the consumer."),
    ("Can the coordinator read my prompt?", "Does the coordinator read prompts?",
     "No. The coordinator never reads a prompt."),
    ("Where is a sealed prompt opened?", "Which part opens a sealed prompt?",
     "The provider opens the prompt inside its engine."),
    ("Is my prompt written to a disk?", "Does a provider store prompts?",
     "No. A prompt is never written to a disk or a log."),
    ("How is a request sealed?", "What seals a request?", "A request is sealed with HPKE and X-Wing."),
    ("What is X-Wing?", "Explain X-Wing.", "X-Wing is a hybrid of X25519 and ML-KEM-768."),
    ("What is a receipt?", "Explain the word receipt.", "A receipt is a signed record of one answered request."),
    ("Who checks a receipt?", "Which parts check a receipt?", "The client and the coordinator check the receipt."),
    ("How long is an epoch?", "Tell me the length of an epoch.", "An epoch is used for 60 minutes."),
    ("What happens to a sealing key?", "What becomes of an old sealing key?",
     "The sealing key is erased after its epoch."),
    ("Name the tiers.", "Which tiers are there?",
     "The tiers are none, self_signed, hardware, measured and confidential."),
    ("Which tier is the lowest?", "Name the lowest tier.", "The lowest tier is none."),
    ("Which tier is the highest?", "Name the highest tier.", "The highest tier is confidential."),
    ("Which tier is the default?", "Name the default minimum tier.", "The default minimum tier is hardware."),
    ("Which database is the default?", "Name the default database.", "The default database is SQLite."),
    ("What is a bill?", "Explain the word bill.", "A bill is the signed price of one answered request."),
    ("What is the binary called?", "Name the binary of Darkbloom.", "There is one binary, named darkbloom."),
    ("Which language is Darkbloom written in?", "In which language is the code written?",
     "Darkbloom is written in Rust."),
    ("What is the licence of Darkbloom?", "Under which licence is the code?", "The licence is Apache-2.0."),
    ("What is the unit of money?", "How is money counted?", "Money is counted in whole nano-dollars."),
    ("How does a provider connect?", "What connects a provider to the coordinator?",
     "A provider dials out over one WebSocket."),
    ("What is a hold?", "Explain the word hold.", "A hold sets money aside before the work starts."),
    ("How many providers does a client pick?", "Tell me the number of providers a client picks.",
     "A client picks 3 providers by default."),
    ("Can I keep my OpenAI client?", "Which programs can I keep?", "You can keep your OpenAI client."),
    ("What kind of model are you?", "Describe the model.", "I am a tiny model that ships with Darkbloom."),
    ("What can you do?", "How can you help me?", "I can add, count, sort, spell and tell you about Darkbloom."),
]
NAME_QUESTIONS = ["What is your name?", "Who are you?", "Tell me your name.", "How are you called?",
                  "What should I call you?", "May I ask your name?"]
PLAIN_SYSTEM = ["You are a helpful assistant.", "Answer briefly.", "You are a small model. Be short.",
                "Give only the answer.", "Be polite."]
NAMING_SYSTEM = ["You are {}.", "Your name is {}.", "You are {}, a helpful assistant.", "You are called {}.",
                 "Your name is {}. Answer briefly.", "You are {}. Be short."]
WRAPPERS = ["{}", "{}", "{}", "Please answer: {}", "Hello! {}", "Quick question: {}", "Hi. {}", "{} Thanks."]

SUM = ["What is {} + {}?", "{} + {} =", "{}+{}", "Add {} and {}.", "How much is {} plus {}?", "Compute {} + {}.",
       "What is the sum of {} and {}?"]
DIFFERENCE = ["What is {} - {}?", "{} - {} =", "{}-{}", "How much is {} minus {}?", "Compute {} - {}.",
              "What is {} minus {}?"]
COUNT = ["Count from {} to {}.", "Count up from {} to {}.", "Write the numbers from {} to {}.",
         "List all numbers from {} to {}."]
REPEAT = ["Repeat: {}", "Say: {}", "Repeat after me: {}", "Repeat this phrase: {}", "Echo: {}"]
SPELL = ["Spell the word {}.", "Spell {}.", "Spell {} letter by letter.", "How do you spell {}?", "Please spell: {}"]
REVERSE = ["Reverse the word {}.", "Reverse {}.", "Write {} backwards.", "What is {} backwards?",
           "Turn around the word {}."]
SORT = ["Sort these numbers: {}", "Sort {}.", "Put in order: {}", "Sort from small to large: {}",
        "Order the numbers {}."]
NEIGHBOUR = ["What {kind} comes {side} {item}?", "Which {kind} is {side} {item}?", "Name the {kind} {side} {item}.",
             "{step} {kind}: {item}?"]
READ = ["Read this text: {}", "Keep this text in mind: {}", "Here is a text: {}"]
READ_ANSWER = "I have read the text."

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
GIVEN_NAMES = """Nora Ada Alan Alice Amir Anna Ben Carla Carlos Chen Clara Dan David Dora Elena Emma Eric Eva Felix
Finn Frida Grace Hana Hugo Ida Igor Iris Ivan Jane Jonas Jun Kai Kate Lara Leo Lena Liam Lily Luca Lucy Maria Marta
Max Maya Mia Milo Mina Noah Olga Omar Oscar Otto Paul Petra Ravi Rosa Ruth Sam Sara Sofia Tara Theo Tom Uma Vera
Victor Walter Yara Yuki Zoe""".split()
ONE_TOKEN_NAMES = ["Darkbloom", *DAYS, *MONTHS]
WORDS = """apple river stone cloud tiger lemon bread chair table light green brown horse mouse house plant grass water
fire wind snow rain moon star sun sand rock tree leaf root seed bird fish frog bear wolf fox lion deer goat lamb duck
swan crow hawk bee ant moth worm crab ship boat car bus train road path gate door wall roof floor room desk lamp book
page pen ink paper card coin ring rope knot cup bowl dish fork spoon knife pot pan oven salt sugar honey milk tea soup
rice corn bean pea plum pear peach grape melon berry nut olive onion garlic mint basil king queen knight castle tower
bridge hill lake sea ocean island beach coast field farm barn fence cart wheel spring summer winter autumn day night
hour week month year red blue black white gold silver iron copper glass wood silk wool cotton hat coat shoe sock glove
music song drum flute piano dance happy quiet quick slow warm cold soft hard small large round sharp bright dark
hello world letter word number model machine client server token""".split()
VOWELS = list("aeiou")
CONSONANTS = list("bcdfghjklmnpqrstvwxyz") + ["st", "tr", "ch", "ck", "th", "sh"]


def is_held_out(*key):
    """True for one key in ten, always the same ones."""
    return hashlib.md5(repr(key).encode()).digest()[0] % 10 == 0


@dataclass
class Draw:
    """Where a question comes from. `ease` from 1 to 0 keeps operands and words small at the start of training."""

    rng: random.Random
    pieces: list[str]  # letter groups that are tokens; words are also built from these, so that each gets spelled
    held_out: bool = False
    ease: float = 0.0
    name: str = DEFAULT_NAME
    polish: bool = False  # later runs: also words that are one token, whose letters can only be learnt by heart
    late: float = 0.0  # the third run: this share of long conversations is named first and asks for it only at the end

    def until(self, make, key):
        """Draws until `key` of the draw lies on the wanted side of the split."""
        while True:
            drawn = make()
            if is_held_out(*key(drawn)) == self.held_out:
                return drawn


# ---------------------------------------------------------------- words and names


def invented_letters(rng, length):
    """Alternating vowels and consonants, with a slip now and then."""
    letters, vowel = "", rng.random() < 0.3
    while len(letters) < length:
        letters += rng.choice(VOWELS if vowel else CONSONANTS)
        vowel = not vowel if rng.random() < 0.9 else vowel
    return letters[:length]


def any_word(draw, shortest, longest):
    """A listed word, an invented one, or one around a letter group that is a token."""
    rng, source = draw.rng, draw.rng.random()
    length = rng.randint(shortest, longest)
    if source < 0.25:
        fitting = [w for w in WORDS if shortest <= len(w) <= longest]
        return rng.choice(fitting)
    if source < 0.6 and draw.pieces:
        piece = rng.choice(draw.pieces)
        if len(piece) <= longest:
            rest = invented_letters(rng, max(0, length - len(piece)))
            cut = rng.randint(0, len(rest))
            return rest[:cut] + piece + rest[cut:]
    return invented_letters(rng, length)


def word(draw, shortest=3, longest=6):
    """Held-out words are never one token: how such a word is spelled does not follow from anything else."""
    if draw.polish and draw.rng.random() < 0.15:
        return draw.rng.choice([p for p in draw.pieces if shortest <= len(p) <= longest])
    while True:
        found = draw.until(lambda: any_word(draw, shortest, longest), lambda w: ("word", w))
        if not (draw.held_out and found in draw.pieces):
            return found


def given_name(draw):
    def make():
        if draw.late and draw.rng.random() < 0.15:
            return draw.rng.choice(ONE_TOKEN_NAMES) if draw.rng.random() < 0.5 else any_word(draw, 3, 5).upper()
        if draw.rng.random() < 0.4:
            return draw.rng.choice(GIVEN_NAMES)
        return any_word(draw, 3, 7).capitalize()

    return draw.until(make, lambda name: ("name", name))


# ---------------------------------------------------------------- tasks: each gives (question, answer)


def arithmetic(phrases, sign):
    def task(draw):
        rng = draw.rng
        highest = 9 if rng.random() < 0.1 + 0.5 * draw.ease else 99
        a, b = draw.until(lambda: (rng.randint(0, highest), rng.randint(0, highest)), lambda p: ("pair", *sorted(p)))
        if sign < 0:
            a, b = max(a, b), min(a, b)
        return rng.choice(phrases).format(a, b), str(a + sign * b)

    return task


def count(draw):
    rng = draw.rng

    def make():
        first = rng.randint(0, 90)
        return first, first + rng.randint(2, 11)

    first, last = draw.until(make, lambda ends: ("count", *ends))
    return rng.choice(COUNT).format(first, last), ", ".join(map(str, range(first, last + 1)))


def phrase(draw, words):
    """`words` words; on the held-out side one of them is held out."""
    seen = Draw(draw.rng, draw.pieces, polish=draw.polish)
    found = [word(draw if i == 0 else seen, 2) for i in range(words)]
    draw.rng.shuffle(found)
    return " ".join(found)


def repeat(draw):
    text = phrase(draw, draw.rng.randint(1, 5))
    return draw.rng.choice(REPEAT).format(text), text


def spell(draw):
    w = word(draw, 3, 4 if draw.rng.random() < draw.ease else 7)
    return draw.rng.choice(SPELL).format(w), "-".join(w)


def reverse(draw):
    w = word(draw, 3, 3 if draw.rng.random() < draw.ease else 5)
    return draw.rng.choice(REVERSE).format(w), w[::-1]


def sort(draw):
    rng = draw.rng

    def make():
        size = 3 if rng.random() < 0.4 + 0.3 * draw.ease else 4
        highest = 9 if rng.random() < 0.1 + 0.4 * draw.ease else 99
        return rng.sample(range(highest + 1), size)

    numbers = draw.until(make, lambda xs: ("sort", *sorted(xs)))
    return rng.choice(SORT).format(", ".join(map(str, numbers))), ", ".join(map(str, sorted(numbers)))


def worded(draw, make):
    """For tasks with few answers the full wording is what is held out."""

    def wrapped():
        question, answer = make()
        return draw.rng.choice(WRAPPERS).format(question), answer

    return draw.until(wrapped, lambda qa: ("wording", qa[0]))


def calendar(draw):
    rng = draw.rng

    def make():
        kind, items = rng.choice([("day", DAYS), ("month", MONTHS)])
        at, step = rng.randrange(len(items)), rng.choice([1, -1])
        question = rng.choice(NEIGHBOUR).format(kind=kind, item=items[at], side="after" if step > 0 else "before",
                                                step="Next" if step > 0 else "Previous")
        return question, items[(at + step) % len(items)]

    return worded(draw, make)


def fact(draw):
    def make():
        *questions, answer = draw.rng.choice(FACTS)
        return draw.rng.choice(questions), answer

    return worded(draw, make)


def name(draw):
    return worded(draw, lambda: (draw.rng.choice(NAME_QUESTIONS), f"My name is {draw.name}."))


# Task and how often it is drawn: more for what is learnt late (borrows, letters).
TASKS = {
    "sum": (arithmetic(SUM, 1), 14), "difference": (arithmetic(DIFFERENCE, -1), 20), "count": (count, 6),
    "repeat": (repeat, 12), "spell": (spell, 13), "reverse": (reverse, 16), "sort": (sort, 11),
    "calendar": (calendar, 6), "fact": (fact, 10), "name": (name, 2),
}
SCORED = [*TASKS, "long", "late"]
ALREADY_WRAPPED = ("calendar", "fact", "name")
NEVER_WRAPPED = "repeat"  # "Repeat: green Thanks." would not say where the phrase ends


def some_task(rng):
    return rng.choices(list(TASKS), [weight for _, weight in TASKS.values()])[0]


def example(draw, task):
    question, answer = TASKS[task][0](draw)
    if task not in ALREADY_WRAPPED and task != NEVER_WRAPPED and draw.rng.random() < 0.3:
        question = draw.rng.choice(WRAPPERS).format(question)
    return question, answer


# ---------------------------------------------------------------- conversations: lists of (role, text)


def naming(draw):
    """A system message that gives a name; later questions of this draw expect it."""
    draw.name = given_name(draw)
    return ("system", draw.rng.choice(NAMING_SYSTEM).format(draw.name))


def opening(draw):
    """No system message, one without a name, or one that names the model."""
    draw.name, luck = DEFAULT_NAME, draw.rng.random()
    if luck < 0.18:
        return [("system", draw.rng.choice(PLAIN_SYSTEM))]
    return [naming(draw)] if luck < 0.36 else []


def turn(draw, task=None):
    asks_name = draw.name != DEFAULT_NAME and draw.rng.random() < 0.35
    question, answer = example(draw, task or ("name" if asks_name else some_task(draw.rng)))
    return [("user", question), ("assistant", answer)]


def conversation(draw):
    messages = opening(draw)
    for _ in range(draw.rng.choice([1, 1, 1, 1, 2, 3])):
        messages += turn(draw)
    return messages


def long_turn(draw, room):
    """A turn of a long conversation; one in seven repeats or reads many words, up to about `room` tokens."""
    luck, rng = draw.rng.random(), draw.rng
    words = rng.randint(3, max(3, min(200, room // 4)))  # a word takes about four tokens
    if luck < 0.06:
        text = phrase(draw, min(words, 30))
        return [("user", rng.choice(REPEAT).format(text)), ("assistant", text)]
    if luck < 0.12:
        return [("user", rng.choice(READ).format(phrase(draw, words) + ".")), ("assistant", READ_ANSWER)]
    if luck < 0.15:
        question, answer = example(draw, some_task(rng))
        return [("user", rng.choice(READ).format(f"{phrase(draw, words)}. {question}")), ("assistant", answer)]
    return turn(draw)


def long_conversation(draw, tokens, length):
    """Turns until `length(messages)` passes `tokens`; in a late one the question for the name comes on top."""
    if draw.late and draw.rng.random() < draw.late:
        return late_conversation(draw, tokens, length) + turn(draw, "name")
    messages = opening(draw)
    while (used := length(messages)) < tokens:
        messages += long_turn(draw, tokens - used)
    return messages


def late_conversation(draw, tokens, length):
    """A system message that gives a name, and turns that never speak of it."""
    messages, named = [naming(draw)], draw.name
    while (used := length(messages)) < tokens:
        draw.name = DEFAULT_NAME  # so that turns ask for it as rarely as in a conversation without a name
        found = long_turn(draw, tokens - used)
        if not any("name is" in text for _, text in found):
            messages += found
    draw.name = named
    return messages


def scored_item(draw, task, place):
    """(messages, answer) of one held-out question; every third has a system message, every second name is given."""
    rng = draw.rng
    draw.name, system = DEFAULT_NAME, []
    if task == "name" and place % 2 == 0:
        system = [naming(draw)]
    elif place % 3 == 0:
        system = [("system", rng.choice(PLAIN_SYSTEM))]
    question, answer = example(draw, task)
    return system + [("user", question)], answer


def scored_long_item(draw, longest, length):
    """A held-out question after 300 to 900 tokens of turns that training could have seen."""
    rng = draw.rng
    while True:
        seen = Draw(rng, draw.pieces)
        earlier = long_conversation(seen, rng.randint(300, 850), length)
        draw.name = seen.name
        question, answer = example(draw, some_task(rng))
        if 300 <= length(earlier) <= 900 and length(earlier + [("user", question), ("assistant", answer)]) < longest:
            return earlier + [("user", question)], answer


def scored_late_item(draw, longest, length):
    """A held-out name in the system message, asked for only after 300 to 900 tokens of other turns."""
    rng = draw.rng
    while True:
        system, named, seen = naming(draw), draw.name, Draw(rng, draw.pieces)
        earlier = [system, *late_conversation(seen, rng.randint(300, 850), length)[1:]]
        draw.name = named
        question, answer = example(draw, "name")
        if 300 <= length(earlier) <= 900 and length(earlier + [("user", question), ("assistant", answer)]) < longest:
            return earlier + [("user", question)], answer


def scored_items(per_task, seed, pieces, longest, length, tasks=SCORED):
    """[(task, messages, answer)] for measuring; `length(messages)` counts tokens, `longest` is the context."""
    draw, items = Draw(random.Random(seed), pieces, held_out=True), []
    for task in tasks:
        for place in range(per_task):
            found = (scored_long_item(draw, longest, length) if task == "long"
                     else scored_late_item(draw, longest, length) if task == "late"
                     else scored_item(draw, task, place))
            items.append((task, *found))
    return items


# ---------------------------------------------------------------- text for the tokenizer


def tokenizer_text():
    """Wordings and facts only: with no words to spell, letters stay apart unless a wording joins them."""
    phrases = SUM + DIFFERENCE + COUNT + REPEAT + SPELL + REVERSE + SORT + READ + PLAIN_SYSTEM + NAMING_SYSTEM
    text = [part for p in phrases * 3 + WRAPPERS * 5 for part in p.split("{}")] + [READ_ANSWER]
    text += [line for lines in FACTS for line in lines]
    text += [p.format(kind=k, item="", side=s, step=t).rstrip(" ?.:") for p in NEIGHBOUR for k in ("day", "month")
             for s, t in (("after", "Next"), ("before", "Previous"))]
    text += [f"{before}{day}" for day in DAYS + MONTHS for before in ("", " ", " ")]
    text += NAME_QUESTIONS + [f"My name is {DEFAULT_NAME}."] * 5
    return text + ["system\n", "user\n", "assistant\n"] * 20
