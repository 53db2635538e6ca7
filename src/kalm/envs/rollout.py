"""The one episode loop: who acts, what makes the next states, and a judge, over N episodes side by side.

A simulator, a language model and an ensemble of forward models differ in one function, the transition;
experts, policies and models that imagine differ in another, the actor. What an episode is stands here alone::

    act(rows, states, rewards) -> actions              for the episodes that still run, rising rows
    transition(rows, states, actions) -> next states   simulator, language model, or ensemble
    judge                                              verdicts and rewards, from states and actions

    states   s0   s1   s2   ...  sT        H + 1 columns, T + 1 of them used
    actions     a0   a1   ...  a(T-1)      H columns, T used
    rewards     r0   r1   ...  r(T-1)      r_t belongs to (s_t, a_t, s_t+1)

An episode ends where its goal is reached, after the first action of a one-step goal, at the horizon, or where
the next state is not finite. The initial state is never judged. Rows that are over are not asked again, so a
network is asked once per step for all that run.

Unusual: a row may begin again where it failed (`retry`), so that dropping failures does not unbalance data.
And a state that is not finite is not stored: the state before stands in its place, and the row is marked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kalm.envs.base import Judge, Simulator, World
from kalm.errors import KalmError
from kalm.types import Conditions, Instruction, WorldSpec

Act = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Rows (n,), their present states (n, S) and last rewards (n,) -> actions (n,) int64 or (n, A) float32."""

Transition = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""Rows (n,), their present states (n, S) and actions -> next states (n, S)."""

Retry = Callable[[np.ndarray], np.ndarray]
"""Rows (m,) that failed -> initial states (m, S) of the new episodes that have begun there."""


@dataclass(frozen=True)
class Verdict:
    """What one step of n episodes came to."""

    states: np.ndarray  # (n, S) next states; the state before where the next one is not finite
    rewards: np.ndarray  # (n,) float32
    success: np.ndarray  # (n,) bool, the step reaches the goal
    terminated: np.ndarray  # (n,) bool, no step follows, whatever the horizon
    finite: np.ndarray  # (n,) bool


class EpisodeRecorder:
    """N episodes in padded columns; `kalm.data.rollouts.RolloutSet.from_recorder` drops the padding.

    Args:
        spec: their environment.
        episodes: N.
        horizon: largest number of actions, H.
    """

    def __init__(self, spec: WorldSpec, episodes: int, horizon: int) -> None:
        self.spec = spec
        self.horizon = horizon
        self.states: np.ndarray = np.zeros(
            (episodes, horizon + 1, spec.state_size), np.float32
        )  # (N, H + 1, S)
        self.actions: np.ndarray = np.zeros(
            (episodes, horizon, *spec.action_shape), spec.action_dtype
        )  # (N, H[, A])
        self.rewards: np.ndarray = np.zeros((episodes, horizon), np.float32)  # (N, H)
        self.lengths: np.ndarray = np.zeros(episodes, np.int32)  # (N,) actions taken so far
        self.success: np.ndarray = np.zeros(episodes, bool)  # (N,) the last action reached the goal
        self.finite: np.ndarray = np.ones(episodes, bool)  # (N,)

    def __len__(self) -> int:
        return len(self.lengths)

    def begin(self, rows: np.ndarray, states: np.ndarray) -> None:
        """Start episodes in these rows at these states (n, S); what the rows held is forgotten."""
        self.states[rows, 0] = states
        self.lengths[rows], self.success[rows], self.finite[rows] = 0, False, True

    def add(self, rows: np.ndarray, actions: np.ndarray, verdict: Verdict) -> None:
        """Append one step to the episodes of these rows (n,)."""
        step = self.lengths[rows]
        self.actions[rows, step] = actions
        self.rewards[rows, step] = verdict.rewards
        self.states[rows, step + 1] = verdict.states
        self.lengths[rows] = step + 1
        self.success[rows], self.finite[rows] = verdict.success, verdict.finite

    def by_step(self) -> tuple[np.ndarray, np.ndarray]:
        """Return row and step of all M recorded actions, the first steps of all rows first: -> (M,), (M,)."""
        step, row = np.nonzero(np.arange(self.horizon)[:, None] < self.lengths)
        return row, step


def step_until_done(
    act: Act,
    transition: Transition,
    judge: Judge,
    states: np.ndarray,
    record: EpisodeRecorder,
    retry: Retry | None = None,
) -> EpisodeRecorder:
    """Play N episodes to their ends and return the record.

    Args:
        act: chooses the actions.
        transition: makes the next states; those are kept in the type of `states`.
        judge: of the N goals.
        states: (N, S) initial states.
        record: is filled; says the horizon.
        retry: begins again where an episode failed; None: every row has one episode.
    """
    rows, running = np.arange(len(states)), judge  # episodes that still run, and their judge
    record.begin(rows, states)
    present, rewards = states.copy(), np.zeros(len(states), np.float32)
    while len(rows):
        before = present[rows]
        actions = act(rows, before, rewards[rows])
        found = judged(running, before, actions, transition(rows, before, actions))
        record.add(rows, actions, found)
        present[rows], rewards[rows] = found.states, found.rewards
        over = found.terminated | (record.lengths[rows] == record.horizon)
        if retry is not None and (failed := over & ~found.success).any():
            again = rows[failed]
            present[again], rewards[again] = retry(again), 0
            record.begin(again, present[again])
            over &= found.success
        if over.any():
            rows = rows[~over]
            running = judge.take(rows)
    return record


def judged(judge: Judge, states: np.ndarray, actions: np.ndarray, after: np.ndarray) -> Verdict:
    """Judge one step of n episodes: states (n, S), actions, next states (n, S)."""
    finite = np.asarray(np.isfinite(after).all(axis=1))
    after = np.where(finite[:, None], after, states)
    success = judge.success(states, actions, after) & finite
    rewards = judge.reward(states, actions, after)
    return Verdict(after, rewards, success, success | judge.one_step | ~finite, finite)


def simulated(world: World, simulator: Simulator) -> Transition:
    """Return the simulator's steps as a transition.

    Raises:
        KalmError: when called, where the simulator gives a state that is not finite.
    """

    def step(rows: np.ndarray, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        after = simulator.step(actions, rows)
        if not np.isfinite(after).all():
            raise KalmError(
                f"the simulator of {world.spec.name!r} gives states that are not finite. Its "
                "physics has run away: check the initial states and the actions."
            )
        return after.astype(states.dtype, copy=False)

    return step


def begin(
    simulator: Simulator,
    world: World,
    instructions: Sequence[Instruction],
    seeds: Sequence[int] | np.ndarray,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Begin N episodes of a simulator, by default one in each of its rows: -> (N, S) float64.

    Args:
        simulator: of this world.
        world: where.
        instructions: N instructions; one that carries a state begins there.
        seeds: (N,) seeds, one per instruction.
        rows: (N,) where.

    Raises:
        KalmError: an instruction's own state does not fit, or the world cannot be put into states.
    """
    rows = np.arange(len(instructions)) if rows is None else np.asarray(rows)
    own, drawn, states = _own_states(world, instructions)
    if len(drawn):
        goals = [instructions[i].goal for i in drawn]
        states[drawn] = simulator.reset(goals, np.asarray(seeds)[drawn], rows[drawn])
    if len(own):
        simulator.set_states(states[own], rows[own])
    return states


def initial_states(
    world: World,
    instructions: Sequence[Instruction],
    seeds: Sequence[int] | np.ndarray,
    conditions: Conditions = "plain",
) -> np.ndarray:
    """Return the states in which such episodes begin: -> (N, S) float64.

    Raises:
        KalmError: an instruction's own state does not fit.
    """
    _, drawn, states = _own_states(world, instructions)
    if len(drawn):
        goals = [instructions[i].goal for i in drawn]
        states[drawn] = world.initial_states(goals, np.asarray(seeds)[drawn], conditions)
    return states


def _own_states(
    world: World, instructions: Sequence[Instruction]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which instructions carry a state, which do not, and the states of the former: (N, S)."""
    size = world.spec.state_size
    states = np.zeros((len(instructions), size))
    carries = np.array([instruction.state is not None for instruction in instructions], dtype=bool)
    for row, instruction in enumerate(instructions):
        own = instruction.state
        if own is None:
            continue
        if len(own) != size:
            raise KalmError(
                f"instruction {instruction.text!r}: its state has {len(own)} numbers, "
                f"the environment {world.spec.name!r} has {size}."
            )
        states[row] = own
    return np.flatnonzero(carries), np.flatnonzero(~carries), states
