"""Closed-loop evaluation: a policy reads sentences and acts in the simulator; one row per episode.

All episodes step together in the one episode loop (`kalm.envs.rollout`); finished ones drop out, so a network
is asked once per step for all of them.

Unusual: which instruction and initial state an episode has depends only on the evaluation seed, the level and
the split. Policies evaluated with the same seed play the same episodes, and more episodes contain the fewer
ones. The seed of an initial state is derived from its instruction's own split, so that none of those that
settings were chosen on is ever one of those that are reported.

An actor may have a memory of the episodes that it plays (`Remembering`), such as what a language model has
read of them. It says how many it can hold at a time, and episodes then run in parts of that size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.data.scoring import first_true
from kalm.envs.base import World
from kalm.envs.rollout import EpisodeRecorder, begin, simulated, step_until_done
from kalm.errors import KalmError
from kalm.evaluation.imagined import direction_of
from kalm.evaluation.results import Episode, Label
from kalm.runs.seeding import derive_rng, derive_seed
from kalm.types import Instruction, WorldSpec


class Actor(Protocol):
    """Anything that acts on sentences and present states alone."""

    def act(self, states: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Actions for N states and their instructions: (N, S) -> (N,) int or (N, A) float."""
        ...


class Playing(Protocol):
    """N episodes in the memory of who plays them."""

    def act(self, rows: np.ndarray, states: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        """Choose the next action of the episodes that still run.

        Args:
            rows: (n,) which of the N episodes they are, rising; an episode that was left out never returns.
            states: (n, S) their present states.
            rewards: (n,) what their last actions earned; zeros at the first step.

        Returns:
            (n,) int or (n, A) float.
        """
        ...


@runtime_checkable
class Remembering(Protocol):
    """An actor with a memory: what it does depends on all that happened in an episode."""

    @property
    def side_by_side(self) -> int:
        """Largest number of episodes that it plays at a time, for the sake of memory."""
        ...

    def begin(self, texts: Sequence[str], states: np.ndarray) -> Playing:
        """Begin N episodes with these sentences and initial states (N, S)."""
        ...


@dataclass(frozen=True)
class _Forgetful:
    """Episodes of an actor without memory."""

    policy: Actor
    texts: list[str]

    def act(self, rows: np.ndarray, states: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        return self.policy.act(states, [self.texts[row] for row in rows])


def sample_episodes(
    instructions: Iterable[Instruction], episodes: int | None, seed: int
) -> tuple[tuple[Instruction, ...], np.ndarray]:
    """Draw what to play: `episodes` instructions per level and an initial-state seed for each.

    With None, every instruction is played once, in the order given within its level.

    Within a level instructions come without replacement; a level with fewer instructions is gone through
    again in a new order, so every instruction is played equally often, give or take once. Give each training
    seed its own evaluation seed (their episodes are then different draws), and all algorithms the same one.

    Returns:
        N instructions, level by level, and their seeds (N,) int64.
    """
    if episodes is not None and episodes < 1:
        raise KalmError(f"episodes per level must be at least 1, got {episodes}.")
    by_level: dict[str, list[Instruction]] = {}
    for instruction in instructions:
        by_level.setdefault(instruction.level, []).append(instruction)
    chosen: list[Instruction] = []
    seeds: list[int] = []
    for level, suite in by_level.items():
        if episodes is not None:
            rng = derive_rng(seed, "episodes", level)
            suite = [suite[index] for index in _rounds(len(suite), episodes, rng)]
        chosen += suite
        seeds += [derive_seed(seed, "episode", one.split, level, place) for place, one in enumerate(suite)]
    return tuple(chosen), np.array(seeds, dtype=np.int64)


def _rounds(size: int, count: int, rng: np.random.Generator) -> np.ndarray:
    rounds = [rng.permutation(size) for _ in range(-(-count // size))]
    return np.concatenate(rounds)[:count]


def evaluate_policy(
    policy: Actor | Remembering,
    world: World,
    instructions: Sequence[Instruction],
    seeds: Sequence[int] | np.ndarray,
    horizon: int | None = None,
    threads: int = 1,
    label: Label = Label(),  # noqa: B008 - frozen
) -> list[Episode]:
    """Play one episode per instruction (`play`) and return one row for each, in that order."""
    played = play(policy, world, instructions, seeds, horizon, threads)
    rewards = np.bincount(played.owner, weights=played.rewards, minlength=len(played))
    first = first_true(played, world).tolist()
    return [
        Episode(
            **asdict(label),
            level=instruction.level,
            wording=instruction.wording,
            held_back=instruction.held_back,
            text=instruction.text,
            episode_seed=int(seed),
            success=bool(success),
            length=int(length),
            reward=float(reward),
            kind=instruction.goal.label,
            split=instruction.split,
            first=came_first,
            direction=direction_of(instruction),
            family=instruction.family,
        )
        for instruction, seed, success, length, reward, came_first in zip(
            instructions, seeds, played.success, played.lengths, rewards, first, strict=True
        )
    ]


def play(
    policy: Actor | Remembering,
    world: World,
    instructions: Sequence[Instruction],
    seeds: Sequence[int] | np.ndarray,
    horizon: int | None = None,
    threads: int = 1,
) -> RolloutSet:
    """Play one episode per instruction and return what happened, in that order.

    Args:
        policy: chooses the actions; one that says which world it is of (`spec`) must be of this one.
        world: judges and simulates.
        instructions: N instructions; one that carries a state starts there.
        seeds: (N,) seeds of the initial states.
        horizon: largest number of actions; None: the world's.
        threads: threads of the simulator.

    Raises:
        KalmError: lengths, horizon, a given state, or the policy or its actions do not fit.
    """
    if (own := getattr(policy, "spec", world.spec)) != world.spec:
        raise KalmError(
            f"the policy is of environment {own.name!r}, which is not this one, {world.spec.name!r}."
        )
    horizon = world.spec.horizon if horizon is None else horizon
    if len(instructions) != len(seeds):
        raise KalmError(
            f"{len(instructions)} instructions and {len(seeds)} seeds: give one seed per instruction."
        )
    if horizon < 1:
        raise KalmError(f"horizon must be at least 1 action, got {horizon}.")
    if isinstance(policy, Remembering) and len(instructions) > policy.side_by_side:
        parts = [
            slice(at, at + policy.side_by_side) for at in range(0, len(instructions), policy.side_by_side)
        ]
        return RolloutSet.concat(
            [play(policy, world, instructions[part], seeds[part], horizon, threads) for part in parts]
        )
    record = EpisodeRecorder(world.spec, len(instructions), horizon)
    if instructions:
        _run(policy, world, instructions, seeds, threads, record)
    return RolloutSet.from_recorder(instructions, record, source="real")


def _run(
    policy: Actor | Remembering,
    world: World,
    instructions: Sequence[Instruction],
    seeds: Sequence[int] | np.ndarray,
    threads: int,
    record: EpisodeRecorder,
) -> None:
    texts = [instruction.text for instruction in instructions]
    judge = world.judge([instruction.goal for instruction in instructions])
    simulator = world.simulator(len(instructions), threads, "tested")
    try:
        states = begin(simulator, world, instructions, seeds)
        remembers = isinstance(policy, Remembering)
        playing = policy.begin(texts, states.copy()) if remembers else _Forgetful(policy, texts)

        def act(rows: np.ndarray, states: np.ndarray, rewards: np.ndarray) -> np.ndarray:
            return _checked(playing.act(rows, states, rewards), world.spec, len(rows))

        step_until_done(act, simulated(world, simulator), judge, states, record)
    finally:
        simulator.close()


def _checked(actions: np.ndarray, spec: WorldSpec, count: int) -> np.ndarray:
    """Return the policy's actions in the world's type; a policy may come from outside the library."""
    actions, shape = np.asarray(actions), (count, *spec.action_shape)
    if actions.shape != shape:
        raise KalmError(f"the policy returned actions of shape {actions.shape}, {spec.name!r} needs {shape}.")
    low, high = (0, spec.action_size - 1) if spec.action_kind == "discrete" else (-1, 1)
    if not ((actions >= low) & (actions <= high)).all():  # NaN fails too
        raise KalmError(
            f"the policy returned actions outside {low}..{high}: {actions.min()}..{actions.max()}."
        )
    return actions.astype(spec.action_dtype)
