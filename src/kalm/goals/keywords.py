"""Whether a sentence speaks of a goal, judged by its keywords.

Meant for what a language model writes about a rollout (paper, explanation accuracy). CLEVR-Robot's slots are
object, direction and reference object. In the wordings of its offline data the ball that goes somewhere is
named before the one it goes to, in statements and passives alike, so the order in which balls are named
decides which is which. Meta-World's slots are action and object. Keywords stand beside the wordings
(``wordings/clevr_seen.yaml``, ``wordings/metaworld_seen.yaml``); no kind of goal is in both worlds.

Unusual: a slot is right only when nothing else is said of it. A sentence that names two directions or a
third ball gets no credit for one of them being right, so rambling does not pay.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from kalm.goals.clevr import BALLS
from kalm.goals.language import read_bank
from kalm.goals.metaworld_tasks import TASKS
from kalm.types import Goal

OBJECT, DIRECTION, REFERENCE, ACTION = "object", "direction", "reference", "action"


def explains(text: str, goal: Goal) -> dict[str, bool]:
    """Say which slots of a goal a sentence names, and nothing else in their place.

    Returns:
        A verdict per slot: `object` and `direction` of relations and moves, `reference` of relations;
        `action` and `object` of Meta-World's tasks of one stage. Other goals have no such slots: the result
        is empty.
    """
    if goal.kind in TASKS:
        return _task(text, goal.kind)
    if goal.kind not in ("relation", "move"):
        return {}
    words = re.findall(r"[a-z]+", text.lower())
    balls = [word for word in words if word in BALLS]
    directions = {_directions()[word] for word in words if word in _directions()}
    verdicts = {OBJECT: balls[:1] == [goal["ball"]], DIRECTION: directions == {goal["direction"]}}
    if goal.kind == "relation":
        verdicts[REFERENCE] = balls[1:] == [goal["reference"]]
    return verdicts


def _task(text: str, name: str) -> dict[str, bool]:
    """Judge what is said of a Meta-World task; one that is not in the table has two actions."""
    task = _tasks().get(name)
    if task is None:
        return {}
    pattern, meanings = _phrases()
    said = {meanings[phrase] for phrase in pattern.findall(text.lower())}
    actions = {meaning for slot, meaning in said if slot == ACTION}
    things = {meaning for slot, meaning in said if slot == OBJECT}
    needed = set(task["things"])
    return {
        ACTION: actions == {task["action"]},
        OBJECT: needed <= things <= needed | set(task.get("beside", ())),
    }


@cache
def _tasks() -> dict[str, dict[str, Any]]:
    """Task -> its action, the things a sentence must name, and those it may name beside them."""
    return read_bank("metaworld_seen")["tasks"]


@cache
def _phrases() -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
    """Return what finds Meta-World's keywords, the longest first, and keyword -> (slot, meaning)."""
    bank = read_bank("metaworld_seen")
    meanings = {
        phrase: (slot, meaning)
        for slot, table in ((ACTION, "actions"), (OBJECT, "things"))
        for meaning, phrases in bank[table].items()
        for phrase in phrases
    }
    longest_first = sorted(meanings, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b"), meanings


@cache
def _directions() -> dict[str, str]:
    """Keyword -> direction."""
    keywords = read_bank("clevr_seen")["keywords"]
    return {word: direction for direction, words in keywords.items() for word in words}
