"""Whether a sentence speaks of a task of Meta-World, judged by its keywords (``sentences/seen.yaml``).

Meant for what a language model writes about a rollout (paper, explanation accuracy). The slots are action and
object. Unusual: a slot is right only when nothing else is said of it, so rambling does not pay.
"""

from __future__ import annotations

import re
from functools import cache

from kalm.envs.metaworld.spec import SPEC
from kalm.envs.sentences import read_bank
from kalm.types import Goal, JsonObject

OBJECT, ACTION = "object", "action"


def explains(text: str, goal: Goal) -> dict[str, bool]:
    """Say which slots of a goal a sentence names, and nothing else in their place.

    Returns:
        Verdicts on `action` and `object` of tasks of one stage; empty for tasks of two.
    """
    task = _tasks().get(goal.kind)
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
def _tasks() -> dict[str, JsonObject]:
    """Task -> its action, the things a sentence must name, and those it may name beside them."""
    return read_bank(SPEC.name, "seen")["tasks"]


@cache
def _phrases() -> tuple[re.Pattern[str], dict[str, tuple[str, str]]]:
    """Return what finds keywords, the longest first, and keyword -> (slot, meaning)."""
    bank = read_bank(SPEC.name, "seen")
    meanings = {
        phrase: (slot, meaning)
        for slot, table in ((ACTION, "actions"), (OBJECT, "things"))
        for meaning, phrases in bank[table].items()
        for phrase in phrases
    }
    longest_first = sorted(meanings, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b"), meanings
