"""Predicted states against the simulator's: errors in the units of states (metres in CLEVR-Robot).

Every error stands beside that of "nothing moves", because most of a state stays as it is.

Imagined rollouts are held against the simulator in two ways. Step by step: the simulator takes each imagined
action from the imagined state before it. Open loop: it takes all imagined actions from the first state on,
and the distance to what was imagined is the *drift*.

Unusual: the simulator is put into a state at rest, while in real rollouts balls may still roll a little, so
real rollouts have a small error step by step too; measure them beside. Their drift is zero, because nothing
needs to be put in but the start. Steps from impossible states are left out: the simulator has no answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.data.scoring import transitions
from kalm.envs.base import World
from kalm.envs.rollout import EpisodeRecorder, begin, simulated, step_until_done
from kalm.evaluation.statistics import Estimate, root_ratio
from kalm.types import JsonObject

DRIFT_AFTER = (1, 2, 5, 10, 20)  # actions


@dataclass(frozen=True)
class Error:
    """How far predicted next states are from the simulator's.

    Attributes:
        transitions: how many were compared.
        model: root mean square error per state number.
        nothing_moves: the same for the prediction that the state stays as it is.
        ratio: `model` over `nothing_moves`; None where nothing moved indeed.
    """

    transitions: int
    model: Estimate
    nothing_moves: Estimate
    ratio: Estimate | None

    def to_json(self) -> JsonObject:
        """Return JSON-ready values."""
        return {
            "transitions": self.transitions,
            "model": self.model.to_json(),
            "nothing_moves": self.nothing_moves.to_json(),
            "ratio": self.ratio and self.ratio.to_json(),
        }

    @classmethod
    def from_json(cls, data: JsonObject) -> Error:
        """Inverse of `to_json`."""
        read = Estimate.from_json
        return cls(
            data["transitions"],
            read(data["model"]),
            read(data["nothing_moves"]),
            data["ratio"] and read(data["ratio"]),
        )


@dataclass(frozen=True)
class Agreement:
    """How well rollouts agree with the simulator.

    Attributes:
        step: error of their next states; None where every step starts from an impossible state.
        drift: number of actions -> root mean square distance per state number after so many actions, over
            the rollouts that have as many.
    """

    step: Error | None
    drift: dict[int, Estimate]

    def to_json(self) -> JsonObject:
        """Return JSON-ready values."""
        return {
            "step": self.step and self.step.to_json(),
            "drift": {str(actions): size.to_json() for actions, size in self.drift.items()},
        }

    @classmethod
    def from_json(cls, data: JsonObject) -> Agreement:
        """Inverse of `to_json`."""
        return cls(
            data["step"] and Error.from_json(data["step"]),
            {int(actions): Estimate.from_json(size) for actions, size in data["drift"].items()},
        )


def agreement(rollouts: RolloutSet, world: World, threads: int = 1) -> Agreement:
    """Hold rollouts against the simulator, step by step and open loop; the world must be restorable."""
    return Agreement(_step_error(rollouts, world, threads), _drift(rollouts, world, threads))


def error_of(model: np.ndarray, nothing_moves: np.ndarray, owner: np.ndarray) -> Error:
    """Sum up squared errors per state number of M transitions, at least one: (M,), (M,).

    Args:
        model: squared errors of the predictions.
        nothing_moves: squared errors of the states before.
        owner: (M,) the rollout that each transition belongs to.
    """
    _, owner = np.unique(owner, return_inverse=True)
    ours, still = np.bincount(owner, model), np.bincount(owner, nothing_moves)  # (N,) each
    count = np.bincount(owner).astype(float)
    sizes = [root_ratio(ours, count), root_ratio(still, count)]
    assert sizes[0] is not None and sizes[1] is not None, "no transitions to sum up"
    return Error(len(model), sizes[0], sizes[1], root_ratio(ours, still))


def random_transitions(world: World, n: int, rng: np.random.Generator, threads: int = 1) -> RolloutSet:
    """Return n real rollouts of one random action from where episodes of seen goals begin."""
    spec, suite = world.spec, world.suite("seen")
    instructions = [suite[i] for i in rng.integers(len(suite), size=n)]
    if spec.action_kind == "discrete":
        actions = rng.integers(spec.action_size, size=n)
    else:
        actions = rng.uniform(-1, 1, (n, spec.action_size)).astype(np.float32)
    judge, record = world.judge([row.goal for row in instructions]), EpisodeRecorder(spec, n, horizon=1)
    simulator = world.simulator(n, threads)
    try:
        states = begin(simulator, world, instructions, rng.integers(2**62, size=n))
        step_until_done(
            lambda rows, _states, _rewards: actions[rows], simulated(world, simulator), judge, states, record
        )
    finally:
        simulator.close()
    return RolloutSet.from_recorder(instructions, record, source="real")


def _simulate(world: World, states: np.ndarray, actions: np.ndarray, threads: int) -> np.ndarray:
    """Take one action from each of these states at rest: (M, S), (M,) or (M, A) -> (M, S)."""
    simulator = world.simulator(len(states), threads)
    try:
        simulator.set_states(states)
        return simulator.step(actions)
    finally:
        simulator.close()


def _step_error(rollouts: RolloutSet, world: World, threads: int) -> Error | None:
    before, actions, after = transitions(rollouts)
    flags = np.array([*world.violations(before).values()], dtype=bool).reshape(-1, len(before))
    possible = ~flags.any(axis=0)
    if not possible.any():
        return None
    before, actions, after = before[possible], actions[possible], after[possible]
    truth = _simulate(world, before, actions, threads)
    ours, still = (((states - truth) ** 2).mean(axis=1) for states in (after, before))
    return error_of(ours, still, rollouts.owner[possible])


def _drift(rollouts: RolloutSet, world: World, threads: int) -> dict[int, Estimate]:
    wanted = [actions for actions in DRIFT_AFTER if actions <= rollouts.lengths.max()]
    found: dict[int, Estimate] = {}
    simulator = world.simulator(len(rollouts), threads)
    try:
        simulator.set_states(rollouts.first_states)
        for step in range(max(wanted)):
            rows = np.flatnonzero(rollouts.lengths > step)
            truth = simulator.step(rollouts.actions[rollouts.action_starts[rows] + step], rows)
            if step + 1 in wanted:
                imagined = rollouts.states[rollouts.state_starts[rows] + step + 1]
                size = root_ratio(((imagined - truth) ** 2).mean(axis=1), np.ones(len(rows)))
                assert size is not None, "no rollouts"
                found[step + 1] = size
    finally:
        simulator.close()
    return found
