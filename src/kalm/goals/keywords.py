"""Whether a sentence speaks of a goal, judged by its keywords: object, direction, reference object.

Meant for what a language model writes about a rollout (paper, explanation accuracy). In the wordings of the
offline data the ball that goes somewhere is named before the one it goes to, in statements and passives
alike, so the order in which balls are named decides which is which. Words of directions stand beside the
wordings (``keywords`` in ``wordings/clevr_seen.yaml``).

Unusual: a slot is right only when nothing else is said of it. A sentence that names two directions or a
third ball gets no credit for one of them being right, so rambling does not pay.
"""

from __future__ import annotations

import re
from functools import cache

from kalm.goals.clevr import BALLS
from kalm.goals.language import read_bank
from kalm.types import Goal

OBJECT, DIRECTION, REFERENCE = "object", "direction", "reference"


def explains(text: str, goal: Goal) -> dict[str, bool]:
    """Say which slots of a CLEVR-Robot goal a sentence names, and nothing else in their place.

    Returns:
        A verdict per slot: `object` and `direction` of relations and moves, `reference` of relations. Goals
        of other kinds have no such slots: the result is empty.
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
    keywords = read_bank("clevr_seen")["keywords"]
    return {word: direction for direction, words in keywords.items() for word in words}
