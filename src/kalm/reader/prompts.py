"""How a scene, its plain sentences and a request are written for the reader, and how a plan is.

::

    Things: white vase, old lamp, tall crate
    Steps: Put the _ behind the _. | Put the _ to the left of the _. | ...
    Request: The lamp ought to have the vase on its left.
    Plan: white vase left old lamp

Sentences that differ only in the things they name are shown once, as a pattern. A plan holds what tells a
sentence from the others: the words that all of them have are left out, and small words, so that a third is
left to write, and every choice is one between words that mean something. Where two would be alike, more is
written.

A plan is its sentences in this short form, joined by ";", or "none": the request stays in its own words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from kalm.errors import KalmError

SEPARATOR = ";"
OWN_WORDS = " none"
THINGS, STEPS, REQUEST, PLAN = "Things: ", "Steps: ", "Request:", "\nPlan:"
GAP = "_"
# What says nothing by itself: "to the left of" and "in front of" are told apart by "left" and "front".
SMALL = frozenset(("a", "an", "and", "at", "in", "it", "its", "of", "on", "side", "the", "to"))
MOST_PATTERNS = 64


@dataclass(frozen=True)
class Menu:
    """Plain sentences as the reader is shown them and as it writes them.

    Attributes:
        sentences: N plain sentences.
        short: what is written of each in a plan.
        patterns: as they are shown.
        things: those that patterns leave a gap for.
    """

    sentences: tuple[str, ...]
    short: tuple[str, ...]
    patterns: tuple[str, ...]
    things: tuple[str, ...]

    @property
    def scene_text(self) -> str:
        """The part of the prompt that all requests about the scene share."""
        things = f"{THINGS}{', '.join(self.things)}\n" if self.things else ""
        return f"{things}{STEPS}{' | '.join(self.patterns)}\n{REQUEST}"

    @staticmethod
    def request_text(request: str) -> str:
        """Return the part of the prompt that is this request's own."""
        return f" {request}{PLAN}"


def make_menu(sentences: Sequence[str], things: Sequence[str]) -> Menu:
    """Describe plain sentences.

    Args:
        sentences: plain sentences, no two alike.
        things: names of what is in the scene; those that no sentence names are not shown.

    Raises:
        KalmError: there are none, two are alike, or too many have nothing in common.
    """
    if not sentences:
        raise KalmError("there are no plain sentences to read requests into.")
    if len(set(sentences)) != len(sentences):
        twice = next(text for text in sentences if sentences.count(text) > 1)
        raise KalmError(f"the plain sentence {twice!r} stands for two goals: no plan could tell them apart.")
    patterns, named = _patterns(sentences, things)
    if len(patterns) > MOST_PATTERNS:
        raise KalmError(
            f"{len(patterns)} kinds of plain sentences are more than the {MOST_PATTERNS} of a prompt. "
            "Name things alike in sentences and in the environment's entities, or use fewer sentences."
        )
    return Menu(tuple(sentences), shortened(sentences), patterns, named)


def shortened(sentences: Sequence[str]) -> tuple[str, ...]:
    """Leave out the words that all sentences have, and small words, as long as all stay different."""
    whole = [_uncapitalized(text.strip().rstrip(".!?")) for text in sentences]
    common = set.intersection(*(set(text.split()) for text in whole))
    for left_out in (common | SMALL, common):
        short = [" ".join(word for word in text.split() if word not in left_out) for text in whole]
        if all(short) and len(set(short)) == len(short):
            return tuple(short)
    return tuple(whole)


def _patterns(sentences: Sequence[str], things: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return sentences with gaps for things where all things take their turn there, and those things."""
    named = tuple(thing for thing in things if any(_finds(thing, text) for text in sentences))
    longest_first = sorted(named, key=len, reverse=True)
    gap = re.compile("|".join(rf"\b{re.escape(thing)}\b" for thing in longest_first)) if named else None
    found: dict[str, list[str]] = {}
    for text in sentences:
        found.setdefault(gap.sub(GAP, text) if gap else text, []).append(text)
    shown: list[str] = []
    gaps = False
    for pattern, members in found.items():
        turns = len(list(permutations(named, min(pattern.count(GAP), 3)))) if GAP in pattern else 0
        if turns == len(members) > 1:
            shown.append(pattern)
            gaps = True
        else:
            shown += members
    return tuple(shown), named if gaps else ()


def _finds(thing: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(thing)}\b", text) is not None


def _uncapitalized(text: str) -> str:
    """Return a text as it stands within a sentence."""
    return text[:1].lower() + text[1:] if text[:2] != "I " else text
