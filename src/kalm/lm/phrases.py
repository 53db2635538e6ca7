"""Sentences of our own about things in space, and what they mean: text to learn before and beside grounding.

Patterns with slots (``texts/*.yaml``, data) are filled with things of daily life, so that a seed gives as
many different sentences as wanted. None of them is a goal's: no thing of a goal's world occurs, no pattern is
that of a goal, and they share no five words in a row with one (tested).

What a sentence asks for is a tuple of facts. Unusual: the words of a complaint are those of the *opposite*
fact; that the lamp should not be behind the sofa means that it goes in front of it.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from itertools import product
from typing import TypedDict

import numpy as np
import yaml

DIRECTIONS = ("behind", "left", "front", "right")
OPPOSITE = {"behind": "front", "front": "behind", "left": "right", "right": "left"}
COMPLAINTS = 0.5  # share among the sentences about one relation
KINDS = {"relation": 0.6, "motion": 0.3, "both": 0.1}  # shares of contrasts
CONTRAST = 6  # meanings in a contrast

Fact = tuple[str, str, str]  # (direction, thing, reference); reference "" where a thing moves by itself
Meaning = tuple[Fact, ...]


class Words(TypedDict):
    """What the slots of patterns are filled with.

    Attributes:
        nouns: things.
        adjectives: that tell things of one kind apart.
        tables: slot -> direction -> words for it.
        meanings: the plain way to say a relation and a motion.
    """

    nouns: list[str]
    adjectives: list[str]
    tables: dict[str, dict[str, str]]
    meanings: dict[str, str]


@cache
def words() -> Words:
    """Read what slots are filled with."""
    return yaml.safe_load(_text("words"))


@cache
def patterns(family: str) -> list[str]:
    """Read the patterns of a family."""
    return yaml.safe_load(_text(family))


@cache
def definitions() -> list[tuple[str, str]]:
    """Read the beginnings and ends of sentences that say what words of direction mean."""
    return [(beginning, end) for beginning, end in yaml.safe_load(_text("definitions"))]


def _text(name: str) -> str:
    return resources.files("kalm.lm").joinpath("texts", f"{name}.yaml").read_text("utf-8")


def contrast(rng: np.random.Generator) -> list[Meaning]:
    """Return `CONTRAST` different meanings about the same things: other directions, things exchanged."""
    kind = rng.choice(list(KINDS), p=list(KINDS.values()))
    first, second, third, fourth = things(4, rng)
    if kind == "relation":
        return _near_misses((first, second), (second, first), rng)
    if kind == "motion":
        return _near_misses((first, ""), (second, ""), rng)
    both = list(product(DIRECTIONS, DIRECTIONS))
    chosen = [both[i] for i in rng.permutation(len(both))[:CONTRAST]]
    return [((one, first, second), (two, third, fourth)) for one, two in chosen]


def _near_misses(pair: tuple[str, str], other: tuple[str, str], rng: np.random.Generator) -> list[Meaning]:
    """Return all directions of a pair, and some of another pair made of the same things."""
    some = rng.choice(DIRECTIONS, CONTRAST - len(DIRECTIONS), replace=False).tolist()
    return [((d, *pair),) for d in DIRECTIONS] + [((d, *other),) for d in some]


def things(count: int, rng: np.random.Generator) -> list[str]:
    """Draw different things; now and then of one kind, to be told apart by an adjective."""
    nouns = rng.choice(words()["nouns"], count, replace=False).tolist()
    adjectives = rng.choice(words()["adjectives"], count, replace=False).tolist()
    shape = rng.integers(3)
    if shape == 0:
        return nouns
    return [
        f"{adjective} {nouns[0] if shape == 1 else noun}"
        for adjective, noun in zip(adjectives, nouns, strict=True)
    ]


def pattern(meaning: Meaning, rng: np.random.Generator, complaints: float = COMPLAINTS) -> str:
    """Draw a pattern that can say a meaning of this form."""
    if len(meaning) == 2:
        family = "both"
    elif not meaning[0][2]:
        family = "motions"
    else:
        family = "complaints" if rng.random() < complaints else "relations"
    return str(rng.choice(patterns(family)))


def say(meaning: Meaning, pattern: str, short: bool = False) -> str:
    """Say a meaning by a pattern; `short` calls the second of two alike "one"."""
    slots = {}
    for number, fact in enumerate(meaning, start=1):
        slots |= _slots(fact, str(number) if len(meaning) > 1 else "", short)
    text = pattern.format(**slots)
    return text[0].upper() + text[1:]


def plainly(meaning: Meaning) -> str:
    """Say a meaning in the one plain way that all sentences are translated to."""
    forms = words()["meanings"]
    return " and ".join(
        forms["relation" if fact[2] else "motion"].format(**_slots(fact, "", False)) for fact in meaning
    )


def translation(rng: np.random.Generator) -> tuple[str, str]:
    """Draw a text to go on from and how it goes on: a sentence and its plain meaning, or a definition."""
    meanings = contrast(rng)
    meaning = meanings[rng.integers(len(meanings))]
    if rng.random() < len(definitions()) / 100:
        beginning, end = definitions()[rng.integers(len(definitions()))]
        thing, reference = things(2, rng)
        slots = _slots((meaning[0][0], thing, reference), "", False)
        return beginning.format(**slots), end.format(**slots)
    return say(meaning, pattern(meaning, rng), bool(rng.integers(2))), plainly(meaning)


def turned(fact: Fact) -> Fact:
    """Return the same fact told of the other thing: a left of b is b right of a."""
    direction, thing, reference = fact
    return (OPPOSITE[direction], reference, thing) if reference else fact


def _slots(fact: Fact, number: str, short: bool) -> dict[str, str]:
    """Return what the slots of a fact's patterns stand for; their names end in `number`."""
    direction, thing, reference = fact
    *adjective, noun = reference.split() or [""]
    if short and adjective and thing.endswith(f" {noun}"):
        reference = f"{adjective[0]} one"
    slots = {"thing": thing, "reference": reference}
    for name, table in words()["tables"].items():
        slots |= {name: table[direction], f"not_{name}": table[OPPOSITE[direction]]}
    return {slot + number: value for slot, value in slots.items()}
