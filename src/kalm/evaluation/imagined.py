"""How good rollouts are, judged by their states: whether they reach their goals and could have happened.

Meant for imagined rollouts, and run on real ones for comparison. Initial states are given, not imagined, so
only the states after an action count. Which violations and plausibility measures there are is the world's
business.

Unusual: the verdict on a one-step goal looks at the action, so a rollout can do the right thing and imagine
the wrong outcome, or the reverse. Both shares are reported for one-step goals, as in the paper.

A match rate says how often a goal comes true, not whether it was understood: *goal first* does
(`kalm.data.scoring.first_true`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.data.scoring import first_true, one_step, transitions, violated
from kalm.envs.base import World
from kalm.evaluation.statistics import Rate, rate
from kalm.types import LEVELS, Instruction, JsonObject


@dataclass(frozen=True)
class Quality:
    """What was measured on the rollouts of one level.

    Attributes:
        rollouts: how many.
        length: mean number of actions.
        match: share that reaches its goal (the stored `success`).
        action_match: of the one-step rollouts, the share whose action is right; None without such rollouts.
        change_match: of the one-step rollouts, the share whose change of state is right.
        violations: measure -> (share of rollouts with at least one such state, share of states). The second
            has no interval: states of one rollout are no independent draws.
        motion: measure -> mean over all transitions.
        kinds: kind of goal -> share that reaches it, where a level has several kinds; goals made of goals are
            told apart by how many, e.g. ``"all of 2"``.
        goal_first: of the rollouts in which the goal or a counterfactual comes true, the share in which the
            goal does first; None where there are none.
        first_by_direction: the same per direction that is asked for, and per kind of goal where it names no
            single one.
        first_by_family: the same per family of wordings (`Instruction.family`).
    """

    rollouts: int
    length: float
    match: Rate
    action_match: Rate | None
    change_match: Rate | None
    violations: dict[str, tuple[Rate, float]]
    motion: dict[str, float]
    kinds: dict[str, Rate] = field(default_factory=dict)
    goal_first: Rate | None = None
    first_by_direction: dict[str, Rate] = field(default_factory=dict)
    first_by_family: dict[str, Rate] = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Return JSON-ready values."""
        return {
            "rollouts": self.rollouts,
            "length": self.length,
            "match": self.match.to_json(),
            "action_match": self.action_match and self.action_match.to_json(),
            "change_match": self.change_match and self.change_match.to_json(),
            "violations": {
                name: [some.to_json(), states] for name, (some, states) in self.violations.items()
            },
            "motion": self.motion,
            "kinds": _rates_to_json(self.kinds),
            "goal_first": self.goal_first and self.goal_first.to_json(),
            "first_by_direction": _rates_to_json(self.first_by_direction),
            "first_by_family": _rates_to_json(self.first_by_family),
        }

    @classmethod
    def from_json(cls, data: JsonObject) -> Quality:
        """Inverse of `to_json`; what earlier versions did not measure is missing."""
        read, first = Rate.from_json, data.get("goal_first")
        return cls(
            rollouts=data["rollouts"],
            length=data["length"],
            match=read(data["match"]),
            action_match=data["action_match"] and read(data["action_match"]),
            change_match=data["change_match"] and read(data["change_match"]),
            violations={name: (read(some), states) for name, (some, states) in data["violations"].items()},
            motion=data["motion"],
            kinds=_rates_from_json(data["kinds"]),
            goal_first=first and read(first),
            first_by_direction=_rates_from_json(data.get("first_by_direction", {})),
            first_by_family=_rates_from_json(data.get("first_by_family", {})),
        )


def quality(rollouts: RolloutSet, world: World) -> dict[str, Quality]:
    """Measure the rollouts of each level that has any, in the order of `LEVELS`, other levels last."""
    levels = rollouts.levels
    known = [level for level in LEVELS if level in levels]
    others = sorted(set(levels) - set(known))
    return {level: measure(rollouts.take(levels == level), world) for level in [*known, *others]}


def measure(rollouts: RolloutSet, world: World) -> Quality:
    """Measure at least one rollout, all levels together."""
    assert len(rollouts) > 0, "nothing to measure"
    before, actions, after = transitions(rollouts)
    right, changed = one_step(rollouts, world)
    first = first_true(rollouts, world)
    asked = [rollouts.instructions[which] for which in rollouts.which]
    return Quality(
        rollouts=len(rollouts),
        length=float(rollouts.lengths.mean()),
        match=_share(rollouts.success),
        action_match=_share(right) if len(right) else None,
        change_match=_share(changed) if len(changed) else None,
        violations={
            name: (_share(rows), float(states.mean()))
            for name, (rows, states) in violated(rollouts, world).items()
        },
        motion={
            name: float(np.mean(values, dtype=np.float64))
            for name, values in world.motion(before, actions, after).items()
        },
        kinds=_kinds(rollouts),
        goal_first=goal_first(first),
        first_by_direction=first_by(first, [direction_of(instruction) for instruction in asked]),
        first_by_family=first_by(first, [instruction.family for instruction in asked]),
    )


def goal_first(first: np.ndarray | Sequence[str]) -> Rate | None:
    """Return the share of rollouts in which the goal came true first, of those in which anything did.

    Args:
        first: (N,) what came true first in each (`kalm.data.scoring.First`).

    Returns:
        None where nothing came true.
    """
    won, lost = (int(np.sum(np.asarray(first) == name)) for name in ("goal", "counterfactual"))
    return rate(won, won + lost) if won + lost else None


def first_by(first: np.ndarray | Sequence[str], names: Sequence[str]) -> dict[str, Rate]:
    """Return goal first of the rollouts of each name, where anything came true; an empty name is none."""
    first, labels = np.asarray(first), np.array(names, dtype=object)
    found = {name: goal_first(first[labels == name]) for name in sorted({*names} - {""})}
    return {name: part for name, part in found.items() if part}


def direction_of(instruction: Instruction) -> str:
    """Return the direction that an instruction asks for, or the kind of a goal that names no single one."""
    return str(dict(instruction.goal.slots).get("direction", instruction.goal.label))


def _rates_to_json(found: dict[str, Rate]) -> JsonObject:
    return {name: part.to_json() for name, part in found.items()}


def _rates_from_json(data: JsonObject) -> dict[str, Rate]:
    return {name: Rate.from_json(part) for name, part in data.items()}


def _kinds(rollouts: RolloutSet) -> dict[str, Rate]:
    names = np.array([instruction.goal.label for instruction in rollouts.instructions])[rollouts.which]
    found = {str(name): _share(rollouts.success[names == name]) for name in np.unique(names)}
    return found if len(found) > 1 else {}


def _share(flags: np.ndarray) -> Rate:
    return rate(int(flags.sum()), len(flags))
