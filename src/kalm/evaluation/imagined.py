"""How good rollouts are, judged by their states: whether they reach their goals and could have happened.

Meant for imagined rollouts, and run on real ones for comparison. Initial states are given, not imagined, so
only the states after an action count. Which violations and plausibility measures there are is the world's
business.

Unusual: the verdict on a one-step goal looks at the action, so a rollout can do the right thing and imagine
the wrong outcome, or the reverse. Both shares are reported for one-step goals, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.data.scoring import one_step, transitions, violated
from kalm.envs.base import World
from kalm.evaluation.statistics import Rate, rate
from kalm.types import LEVELS, JsonObject


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
    """

    rollouts: int
    length: float
    match: Rate
    action_match: Rate | None
    change_match: Rate | None
    violations: dict[str, tuple[Rate, float]]
    motion: dict[str, float]
    kinds: dict[str, Rate] = field(default_factory=dict)

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
            "kinds": {kind: found.to_json() for kind, found in self.kinds.items()},
        }

    @classmethod
    def from_json(cls, data: JsonObject) -> Quality:
        """Inverse of `to_json`."""
        read = Rate.from_json
        return cls(
            rollouts=data["rollouts"],
            length=data["length"],
            match=read(data["match"]),
            action_match=data["action_match"] and read(data["action_match"]),
            change_match=data["change_match"] and read(data["change_match"]),
            violations={name: (read(some), states) for name, (some, states) in data["violations"].items()},
            motion=data["motion"],
            kinds={kind: read(found) for kind, found in data["kinds"].items()},
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
    )


def _kinds(rollouts: RolloutSet) -> dict[str, Rate]:
    names = np.array([instruction.goal.label for instruction in rollouts.instructions])[rollouts.which]
    found = {str(name): _share(rollouts.success[names == name]) for name in np.unique(names)}
    return found if len(found) > 1 else {}


def _share(flags: np.ndarray) -> Rate:
    return rate(int(flags.sum()), len(flags))
