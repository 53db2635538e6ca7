"""Sentences from patterns: choices, named lists and slots, written as text.

``(a|b|)`` stands for one of these (they may nest), ``$name`` for one entry of the list of that name, ``_x``
for a slot. One pattern so stands for many sentences, and the files of patterns (``texts/*.yaml``) stay
legible.

Unusual: every eighth pattern of a list that is drawn with `Draw.pattern` is held out. No request that is
taught is made of one; those that measure the reader are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, TypeVar

import numpy as np
import yaml

HELD_OUT_EVERY = 8
CHOICE = re.compile(r"\(([^()]*\|[^()]*)\)")
LIST = re.compile(r"\$([a-z]+)")
SLOT = re.compile(r"_([a-zA-Z0-9]*)")

Part = Literal["taught", "held out"]
T = TypeVar("T")


@cache
def texts(name: str) -> dict[str, Any]:
    """Read a file of patterns."""
    file = resources.files("kalm.reader").joinpath("texts", f"{name}.yaml")
    return yaml.safe_load(file.read_text("utf-8"))


@dataclass(frozen=True)
class Draw:
    """Draws patterns, all at random.

    Attributes:
        rng: the source of chance.
        part: which patterns: those that are taught, or those that are held out to measure.
    """

    rng: np.random.Generator
    part: Part = "taught"

    def chance(self, probability: float) -> bool:
        """Whether something of this probability happens."""
        return bool(self.rng.random() < probability)

    def one(self, options: Sequence[T]) -> T:
        """Draw one of these."""
        return options[int(self.rng.integers(len(options)))]

    def some(self, options: Sequence[T], count: int) -> list[T]:
        """Draw different ones."""
        return [options[int(i)] for i in self.rng.permutation(len(options))[:count]]

    def weighted(self, shares: Mapping[str, float]) -> str:
        """Draw a name by its share."""
        weights = np.array(list(shares.values()))
        return list(shares)[int(self.rng.choice(len(weights), p=weights / weights.sum()))]

    def pattern(self, options: Sequence[T]) -> T:
        """Draw one of those of this part; a list of less than `HELD_OUT_EVERY` has no held-out ones."""
        if len(options) < HELD_OUT_EVERY:
            return self.one(options)
        held = slice(HELD_OUT_EVERY - 1, None, HELD_OUT_EVERY)
        if self.part == "held out":
            return self.one(options[held])
        return self.one(
            [option for i, option in enumerate(options) if i % HELD_OUT_EVERY != HELD_OUT_EVERY - 1]
        )

    def settle(self, pattern: str, lists: Mapping[str, Sequence[str]]) -> str:
        """Replace all lists and choices of a pattern; slots stay."""
        while found := LIST.search(pattern):
            pattern = f"{pattern[: found.start()]}{self.one(lists[found[1]])}{pattern[found.end() :]}"
        while found := CHOICE.search(pattern):
            chosen = self.one(found[1].split("|"))
            pattern = f"{pattern[: found.start()]}{chosen}{pattern[found.end() :]}"
        return pattern


def fill(pattern: str, slots: Mapping[str, str]) -> str:
    """Replace the slots of a pattern, e.g. ``_x`` by ``slots["x"]``, again within what was put in."""
    while SLOT.search(pattern):
        pattern = SLOT.sub(lambda found: slots[found[1]], pattern)
    return pattern


def sentence(text: str, draw: Draw) -> str:
    """Give a text the looks of a sentence, or now and then those of a hasty one."""
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r" ([,.?!;:])", r"\1", text)
    text = re.sub(r"([.?!]) ([a-z])", lambda found: f"{found[1]} {found[2].upper()}", text)
    closed = text[-1:] in ".?!"
    look = draw.rng.random()
    if look < 0.06:
        return text[:1].lower() + text[1:] if text[:2] not in ("I ", "I'") else text
    if not closed:
        text += "!" if look < 0.12 else "."
    return text[:1].upper() + text[1:]
