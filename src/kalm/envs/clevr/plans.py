"""What a goal of CLEVR-Robot is made of, in relations of single balls, and what it is mistaken for."""

from __future__ import annotations

from collections.abc import Sequence

from kalm.envs.clevr.spec import BALLS, DIRECTIONS
from kalm.types import Goal

OPPOSITE = {"behind": "front", "front": "behind", "left": "right", "right": "left"}


def counterfactuals(goal: Goal) -> tuple[Goal, ...]:
    """Return the goal with all its directions turned round; for a gathering, those around the other balls."""
    if goal.kind == "gather":
        return tuple(Goal.of("gather", center=ball) for ball in BALLS if ball != goal["center"])
    if goal.kind == "line":
        return (Goal.of("line", order=goal["order"][::-1]),)
    if goal.kind == "all":
        return (Goal.of("all", goals=[_turned(part).to_json() for part in goal["goals"]]),)
    return (_turned(goal),)


def plan_of(goal: Goal) -> tuple[Goal, ...]:
    """Return the relations that make up a goal; a gathering has its balls on all four sides of the center."""
    if goal.kind == "relation":
        return (goal,)
    if goal.kind == "all":
        return goal["goals"]
    if goal.kind == "line":
        order = goal["order"]
        return tuple(_relation(ball, left, "right") for left, ball in zip(order, order[1:], strict=False))
    if goal.kind == "gather":
        others = (ball for ball in BALLS if ball != goal["center"])
        pairs = zip(others, DIRECTIONS, strict=True)
        return tuple(_relation(ball, goal["center"], direction) for ball, direction in pairs)
    return ()  # one push has no relation


def goal_of(steps: Sequence[Goal]) -> Goal | None:
    """Return the goal that relations make up: a line or a gathering of all balls, else up to three at once.

    None for none, for more, and for two relations of the same balls: they cannot both be meant.
    """
    pairs = {frozenset((step["ball"], step["reference"])) for step in steps}
    if not steps or len(pairs) < len(steps):
        return None
    if len(steps) == 1:
        return steps[0]
    whole = (Goal.of("gather", center=steps[0]["reference"]), _line_of(steps))
    found = next((goal for goal in whole if goal and is_plan(steps, goal)), None)
    return found or (Goal("all", (("goals", tuple(steps)),)) if len(steps) <= 3 else None)


def _line_of(steps: Sequence[Goal]) -> Goal | None:
    """Return the line whose neighbours these are, if they join all balls to one."""
    after = {left: right for right, left, _ in map(_rightward, steps)}
    order = [ball for ball in BALLS if ball not in after.values()][:1]
    while order and order[-1] in after and len(order) < len(BALLS):
        order.append(after[order[-1]])
    return Goal.of("line", order=order) if sorted(order) == sorted(BALLS) else None


def is_plan(steps: Sequence[Goal], goal: Goal) -> bool:
    """Whether these relations are what a goal asks for, in any order.

    Neighbours in a line may be said from either side; around a center any directions will do that differ.
    """
    if any(step.kind != "relation" for step in steps):
        return False
    if goal.kind == "line":
        return sorted(map(_rightward, steps)) == sorted(map(_rightward, plan_of(goal)))
    if goal.kind == "gather":
        around = {(step["ball"], step["reference"]) for step in steps}
        wanted = {(part["ball"], part["reference"]) for part in plan_of(goal)}
        sides = {step["direction"] for step in steps}
        return around == wanted and len(steps) == len(sides) == len(wanted)
    wanted = plan_of(goal)
    return len(steps) == len(wanted) and set(steps) == set(wanted)


def _rightward(step: Goal) -> tuple[str, str, str]:
    """Return ball, reference and direction of a relation, with "left of" said as "right of"."""
    ball, reference = step["ball"], step["reference"]
    return (reference, ball, "right") if step["direction"] == "left" else (ball, reference, step["direction"])


def _turned(part: Goal) -> Goal:
    """Return a relation or move in the opposite direction."""
    return Goal.of(part.kind, **{**dict(part.slots), "direction": OPPOSITE[part["direction"]]})


def _relation(ball: str, reference: str, direction: str) -> Goal:
    return Goal.of("relation", ball=ball, reference=reference, direction=direction)
