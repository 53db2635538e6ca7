"""What a world offers to the other rooms. A plug-in world is a class with these methods, nothing more.

The rooms above never ask which world they have: sizes come from `World.spec`, verdicts from `Judge`, physics
from `Simulator`. Everything is batched, because one call per episode would cost more than the physics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from kalm.errors import KalmError
from kalm.types import Conditions, Goal, Instruction, WorldSpec

TOO_LARGE = "step_too_large"  # see `World.motion`


@dataclass(frozen=True)
class Published:
    """Numbers that others published for an environment, to stand beside ours in reports.

    A world may offer them as its class's attribute `published`; `kalm.envs.published` reads it.

    Attributes:
        setting: how they were made, in a few words.
        mix: level -> number of their novel goals; the mean over novel levels is also given in this mix.
        novel_success: policy -> mean success over the novel levels.
        quality: row of the quality table -> cell.
        match: level -> share of imagined rollouts that reach their goal.
        violations: measure -> level -> share of imagined rollouts.
    """

    setting: str
    mix: Mapping[str, int] = field(default_factory=dict)
    novel_success: Mapping[str, float] = field(default_factory=dict)
    quality: Mapping[str, str] = field(default_factory=dict)
    match: Mapping[str, float] = field(default_factory=dict)
    violations: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


class Judge(Protocol):
    """Verdicts and rewards for N goals, one per row, from states alone (no simulator)."""

    goals: tuple[Goal, ...]
    one_step: np.ndarray  # (N,) bool: the episode of this goal ends after its first action

    def success(self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Whether each transition reaches its row's goal: (N, S), (N,) or (N, A), (N, S) -> (N,) bool."""
        ...

    def reached(self, states: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Return the verdict on the states alone, also where `success` looks at the action: -> (N,) bool."""
        ...

    def reward(self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Reward of each transition: -> (N,) float32."""
        ...

    def violations(self, states: np.ndarray, next_states: np.ndarray) -> dict[str, np.ndarray]:
        """Name what this goal's episodes rule out, beyond `World.violations`: measure name -> (N,) bool."""
        ...

    def take(self, rows: np.ndarray) -> Judge:
        """Return the judge of these rows (integer indices, repeats allowed)."""
        ...


class Simulator(Protocol):
    """N environments that step together. Rows are independent of each other and of N."""

    def reset(
        self, goals: Sequence[Goal], seeds: Sequence[int] | np.ndarray, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Begin episodes in these rows (all by default), a goal and a seed each: -> (len(rows), S)."""
        ...

    def set_states(self, states: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Put these rows at rest in the given states (len(rows), S); nothing of what was before remains.

        Raises:
            KalmError: a state does not say all that the physics needs (`World.restorable` is false).
        """
        ...

    def step(self, actions: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Take one action in each of these rows: (len(rows),) or (len(rows), A) -> (len(rows), S) float64."""
        ...

    def close(self) -> None:
        """Release threads, processes and memory."""
        ...


class Expert(Protocol):
    """A behaviour policy that knows the goal's structure."""

    def act(self, states: np.ndarray, judge: Judge, rng: np.random.Generator) -> np.ndarray:
        """Actions for N states and their goals: (N, S) -> (N,) int64 or (N, A) float32."""
        ...


class World(Protocol):
    """An environment with goals: the unit that a plug-in adds (entry point group ``kalm.worlds``)."""

    spec: WorldSpec
    scene: str  # what it is about, in words: completes "you are playing a game of ..."
    restorable: bool  # a state says all that the physics needs: a simulator can be put into any
    patience: int  # actions that a step of a plan may take before another one has its turn

    def suite(self, level: str) -> tuple[Instruction, ...]:
        """All instructions of a level, in a fixed order. Raises KalmError for an unknown level."""
        ...

    def parse_goal(self, data: Mapping[str, object]) -> Goal:
        """Return the checked goal of a JSON object. Raises KalmError that says which slot is wrong."""
        ...

    def judge(self, goals: Sequence[Goal]) -> Judge:
        """Compile goals into arrays for verdicts and rewards."""
        ...

    def counterfactuals(self, goal: Goal) -> tuple[Goal, ...]:
        """Return goals that come true in its place when a sentence is misunderstood, e.g. left for right.

        Empty where there is none. Whether a goal comes true before its counterfactuals tells understanding
        from luck: a success test alone cannot.
        """
        ...

    def plan_of(self, goal: Goal) -> tuple[Goal, ...]:
        """Return the goals of the data that make up a goal, in order; empty where they cannot."""
        ...

    def goal_of(self, steps: Sequence[Goal]) -> Goal | None:
        """Return the goal that goals of the data make up, one after another; None where there is none."""
        ...

    def is_plan(self, steps: Sequence[Goal], goal: Goal) -> bool:
        """Whether these goals of the data, one after another, are what a goal asks for.

        For a goal that goals of the data cannot make up, only the empty plan is.
        """
        ...

    def in_scene(self, goals: Sequence[Goal], states: np.ndarray) -> np.ndarray:
        """Whether the things that goals are about are there: N goals, (N, S) -> (N,) bool.

        A sentence is not read to a goal whose things are not.
        """
        ...

    def holds(self, judge: Judge, states: np.ndarray) -> np.ndarray:
        """Whether steps of plans hold in states: the judge of N goals of the data, (N, S) -> (N,) bool.

        A step of a plan may hold where its goal alone would not, as when an episode's target moves on.
        """
        ...

    def next_stage(self, judge: Judge, states: np.ndarray) -> np.ndarray:
        """Return what the environment shows once a stage of a goal is done: N goals, (N, S) -> (N, S).

        Most show the same, and return the states as they are. Imagined episodes ask for it at every step,
        because no model of the dynamics knows where a target moves on to.
        """
        ...

    def explains(self, text: str, goal: Goal) -> dict[str, bool]:
        """Whether a sentence says what a goal asks, by keywords: slot -> verdict; empty: not to be judged."""
        ...

    def simulator(self, n: int, threads: int = 1, conditions: Conditions = "plain") -> Simulator:
        """Return n environments stepping over this many threads."""
        ...

    def expert(self, noise: float) -> Expert:
        """Return the behaviour policy; `noise` is the probability of a uniformly random action."""
        ...

    def initial_states(
        self, goals: Sequence[Goal], seeds: Sequence[int] | np.ndarray, conditions: Conditions = "plain"
    ) -> np.ndarray:
        """Draw initial states, one per goal and seed, as such a simulator's `reset`: -> (N, S) float64."""
        ...

    def violations(self, states: np.ndarray) -> dict[str, np.ndarray]:
        """Name what is physically impossible in (N, S) states: measure name -> (N,) bool."""
        ...

    def motion(
        self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Plausibility of N transitions: measure name -> (N,) float32 (drift, step too large, ...).

        A measure named `TOO_LARGE` is 1 for transitions that no action can make, else 0.
        """
        ...

    def render(self, state: np.ndarray, size: int = 256) -> np.ndarray:
        """Draw one state: (S,) -> (size, size, 3) uint8, top row first."""
        ...


def which_rows(rows: np.ndarray | None, n: int) -> np.ndarray:
    """Return the rows of n that are meant, each once; None means all: -> (len(rows),)."""
    if rows is None:
        return np.arange(n)
    rows = np.asarray(rows)
    assert rows.ndim == 1 and (rows.size == 0 or rows.dtype.kind in "iu"), (rows.dtype, rows.shape)
    assert len(np.unique(rows)) == len(rows), "a row can take one action at a time"
    return rows


def require_noise(noise: float) -> None:
    """Raise KalmError where an expert's noise is not a probability."""
    if not 0.0 <= noise <= 1.0:
        raise KalmError(f"an expert's noise is a probability from 0 to 1, got {noise!r}.")
