"""Whether a sentence speaks of a goal of CLEVR-Robot, judged by its keywords.

Meant for what a language model writes about a rollout (paper, explanation accuracy). The slots are object,
direction and reference object. In the wordings of the offline data the ball that goes somewhere is named
before the one it goes to, in statements and passives alike, so the order in which balls are named decides
which is which. Keywords stand beside the wordings (``sentences/seen.yaml``).

Unusual: a slot is right only when nothing else is said of it. A sentence that names two directions or a
third ball gets no credit for one of them being right, so rambling does not pay.
"""

from __future__ import annotations

import re
from functools import cache

from kalm.envs.clevr.spec import BALLS, SPEC
from kalm.envs.sentences import read_bank
from kalm.types import Goal

OBJECT, DIRECTION, REFERENCE = "object", "direction", "reference"


def explains(text: str, goal: Goal) -> dict[str, bool]:
    """Say which slots of a goal a sentence names, and nothing else in their place.

    Returns:
        A verdict per slot: `object` and `direction` of relations and moves, `reference` of relations. Other
        goals have no such slots: the result is empty.
    """
    if goal.kind not in ("relation", "move"):
        return {}
    words = re.findall(r"[a-z]+", text.lower())
    balls = [word for word in words if word in BALLS]
    directions = {_directions()[word] for word in words if word in _directions()}
    verdicts = {OBJECT: balls[:1] == [goal["ball"]], DIRECTION: directions == {goal["direction"]}}
    if goal.kind == "relation":
        verdicts[REFERENCE] = balls[1:] == [goal["reference"]]
    return verdicts


@cache
def _directions() -> dict[str, str]:
    """Keyword -> direction."""
    keywords = read_bank(SPEC.name, "seen")["keywords"]
    return {word: direction for direction, words in keywords.items() for word in words}
