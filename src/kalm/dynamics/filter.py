"""What happens to imagined rollouts before training sees them: new labels, a choice, a verdict.

In this order, each a setting of `imagine`:

1. *relabel*: actions are read off the imagined states by the inverse model;
2. *samples*: of several rollouts decoded for one wanted, the most plausible stays: goal reached, then fewest
   impossible steps, then least surprise, then fewest actions;
3. *plausibility*: rollouts that miss their goal, hold an impossible step or too many surprising ones are
   dropped, or count less.

A step is plausible if the world finds nothing impossible in it (`kalm.data.scoring.impossible`) and it
does not surprise the forward models: they agree on what the action does, and the imagined next state is near
what they say. How near is measured on held-out real steps (`imagine.refine.tolerance`), because the models
cannot see everything either (velocities in CLEVR-Robot). Nothing is lost silently: `Refined.facts` counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.data.scoring import fulfilled, impossible, transitions
from kalm.dynamics.ensemble import ForwardEnsemble, surprise
from kalm.dynamics.inverse import relabel
from kalm.dynamics.models import Models
from kalm.dynamics.settings import RefineConfig
from kalm.envs.base import World
from kalm.errors import KalmError
from kalm.types import JsonObject

FAILED = "goal_not_reached"


@dataclass(frozen=True)
class Refined:
    """What refining gave.

    Attributes:
        rollouts: those to train on.
        chosen: the chosen sample of each wanted rollout, before anything was dropped.
        facts: what was done to the raw ones, JSON-ready.
    """

    rollouts: RolloutSet
    chosen: RolloutSet
    facts: JsonObject


@dataclass(frozen=True)
class Plausibility:
    """What speaks against rollouts.

    Attributes:
        failed: (N,) bool, the goal is not reached; of one-step goals, by action or outcome.
        flaws: measure -> (N,) int64 number of steps with it.
        impossible: (N,) int64 number of steps that the world finds impossible.
        plausible: (N,) share of steps without any flaw.
        surprise: (N,) largest surprise of a step; 1 is the limit that 99 % of real steps keep to; 0 without
            forward models.
    """

    failed: np.ndarray  # (N,) bool
    flaws: dict[str, np.ndarray]  # each (N,) int64
    impossible: np.ndarray  # (N,) int64
    plausible: np.ndarray  # (N,) float64
    surprise: np.ndarray  # (N,) float64

    def take(self, rows: np.ndarray) -> Plausibility:
        """Return what speaks against these rollouts."""
        return Plausibility(
            self.failed[rows],
            {name: counts[rows] for name, counts in self.flaws.items()},
            self.impossible[rows],
            self.plausible[rows],
            self.surprise[rows],
        )


def refine(
    raw: RolloutSet,
    origin: np.ndarray,
    world: World,
    config: RefineConfig,
    models: Models,
    samples: int = 1,
) -> Refined:
    """Relabel, choose, drop and weigh imagined rollouts as the settings say.

    Args:
        raw: rollouts as they were decoded.
        origin: (N,) the wanted rollout that each was decoded for; samples of one are equally good candidates.
        world: judges states and transitions.
        config: what to do.
        models: those that `models.needed` names.
        samples: at most so many rollouts were decoded for each that was wanted; above 1 the best is chosen.

    Raises:
        KalmError: no rollout is left.
    """
    facts: JsonObject = {"raw": len(raw)}
    rollouts = raw
    if config.relabel:
        assert models.inverse is not None
        rollouts = relabel(raw, models.inverse, world)
        changed = np.any(np.atleast_2d((rollouts.actions != raw.actions).T), axis=0)
        facts["relabelled"] = {"steps": raw.transitions, "share_changed": float(changed.mean())}
    judged = judge(rollouts, world, models.ensemble, config.tolerance)
    if samples > 1:
        rows = best(judged, rollouts.lengths, origin)
        facts["samples"] = {"at_most": samples, "set_aside": len(raw) - len(rows)}
        rollouts, judged = rollouts.take(rows), judged.take(rows)
    chosen = rollouts
    if config.plausibility == "drop":
        kept = ~judged.failed & (judged.impossible == 0)
        kept &= judged.plausible >= config.plausible_share
        facts["dropped"] = {"rollouts": int((~kept).sum()), "with": _reasons(judged.take(~kept))}
        rollouts = rollouts.take(kept)
    elif config.plausibility == "weight":
        rollouts = replace(rollouts, weights=plausibility_weights(judged, config.least_weight))
        facts["weights"] = {"mean": float(rollouts.weights.mean()), "less_for": _reasons(judged)}
    if not len(rollouts):
        raise KalmError(
            f"no imagined rollout is plausible ({facts}). Set imagine.refine.plausibility to weight or keep, "
            "or lower imagine.refine.plausible_share; goals that are not reached may need a longer "
            "imagine.horizon."
        )
    return Refined(rollouts, chosen, {**facts, "kept": len(rollouts)})


def judge(
    rollouts: RolloutSet, world: World, ensemble: ForwardEnsemble | None, tolerance: float
) -> Plausibility:
    """Find what speaks against each rollout; without an ensemble only what the world says."""
    before, actions, after = transitions(rollouts)
    flags = impossible(rollouts, world)
    cannot = _any(flags, len(after))
    size = np.zeros(len(after))
    if ensemble is not None:
        sizes = _surprises(ensemble, before, actions, after)
        flags |= {name: ~(ratio <= tolerance) for name, ratio in sizes.items()}  # NaN is a surprise too
        size = np.nan_to_num(np.maximum(*sizes.values()), nan=np.inf)
    largest = np.zeros(len(rollouts))
    np.maximum.at(largest, rollouts.owner, size)
    return Plausibility(
        failed=~fulfilled(rollouts, world),
        flaws={name: _count(rollouts, flag) for name, flag in flags.items()},
        impossible=_count(rollouts, cannot),
        plausible=1 - _count(rollouts, _any(flags, len(after))) / rollouts.lengths,
        surprise=largest,
    )


def best(judged: Plausibility, lengths: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Return the row of the most plausible rollout of each origin, in the order of origins."""
    keys = (lengths, judged.surprise, judged.impossible, judged.failed, origin)  # the last counts first
    order = np.lexsort(keys)
    _, first = np.unique(origin[order], return_index=True)
    return order[first]


def plausibility_weights(judged: Plausibility, least: float) -> np.ndarray:
    """Weigh rollouts between `least`, for a missed goal or no plausible step, and 1: -> (N,) float32."""
    share = np.where(judged.failed, 0.0, judged.plausible)
    return (least + (1 - least) * share).astype(np.float32)


def _surprises(
    ensemble: ForwardEnsemble, before: np.ndarray, actions: np.ndarray, after: np.ndarray
) -> dict[str, np.ndarray]:
    """Disagreement and distance in units of what 99 % of real steps keep to: measure -> (sum(T),)."""
    assert ensemble.errors is not None, "the ensemble has not been fitted"
    usual = {"disagreement": ensemble.errors.disagreement, "distance": ensemble.errors.distance}
    found = surprise(ensemble, before, actions, after)
    return {
        name: values / max(usual[name], np.finfo(np.float32).tiny)
        for name, values in zip(usual, found, strict=True)
    }


def _any(flags: Mapping[str, np.ndarray], count: int) -> np.ndarray:
    return np.any(list(flags.values()), axis=0) if flags else np.zeros(count, dtype=bool)


def _count(rollouts: RolloutSet, flag: np.ndarray) -> np.ndarray:
    """Sum up steps by rollout: (sum(T),) bool -> (N,) int64."""
    return np.bincount(rollouts.owner[flag], minlength=len(rollouts))


def _reasons(judged: Plausibility) -> dict[str, int]:
    """Count the rollouts that each flaw speaks against; one rollout can have several."""
    counts = {name: int((steps > 0).sum()) for name, steps in judged.flaws.items()}
    return {FAILED: int(judged.failed.sum()), **counts}
