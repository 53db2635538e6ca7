"""Meta-World's simulator: N episodes of any mixture of tasks that step together, on threads if asked for.

An episode keeps only numbers (about 5 KB): the full physics state and where its draw put the model's bodies.
To step, they are put into a model that all episodes of a task share, so that 512 rows need no more models
than one row does. MuJoCo lets other threads run while it computes; each worker has models of its own.

A state does not say all that the physics needs (joint angles, velocities, the grip), so `set_states` refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import numpy as np

from kalm.envs.base import which_rows
from kalm.envs.metaworld import scenes
from kalm.envs.metaworld.distractors import Distractors
from kalm.envs.metaworld.goals import STAGES, MetaWorldJudge
from kalm.envs.metaworld.scenes import Lane
from kalm.envs.metaworld.spec import ENTITY, GRIPPER, SPEC, TARGET, TASKS
from kalm.errors import KalmError, unknown
from kalm.types import Goal

ACTION = SPEC.action_size


class MetaWorldSimulator:
    """N episodes stepping together (`kalm.envs.base.Simulator`). Rows are independent of each other and of N.

    Args:
        n: number of episodes.
        threads: to step on; 1 steps on the calling thread.
        distractors: what draws an entity that is not part of the task, if anything does.
    """

    def __init__(self, n: int, threads: int = 1, distractors: Distractors | None = None) -> None:
        if n < 1 or threads < 1:
            raise KalmError(f"a simulator needs at least 1 row and 1 thread, got n={n}, threads={threads}.")
        self._lanes: list[Lane | None] = [None] * n
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._distractors = distractors
        self._drawn: list[np.random.Generator | None] = [None] * n
        self._extra = np.zeros((n, SPEC.state_size))  # the distractor's numbers

    def reset(
        self, goals: Sequence[Goal], seeds: Sequence[int] | np.ndarray, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Begin episodes in these rows (all by default), a goal and a seed each: -> (len(rows), 91).

        Raises:
            KalmError: an unknown task, a seed that is not a whole number of at least 0, or not one per row.
        """
        rows, seeds = which_rows(rows, len(self._lanes)), np.asarray(seeds)
        tasks = [goal.kind for goal in goals]
        _check_starts(tasks, seeds, len(rows))
        states = np.zeros((len(rows), SPEC.state_size))
        for i, (row, task, seed) in enumerate(zip(rows, tasks, seeds.tolist(), strict=True)):
            lane = self._lanes[row] = scenes.scene(task).begin(seed)
            raw = scenes.physics(task, 0).start(lane)
            states[[i]] = assemble(task, raw[None], [lane])
            self._extra[row] = 0.0
            if self._distractors is not None:
                self._drawn[row] = np.random.default_rng([seed, 91])
                self._draw(row)
        return states + self._extra[rows]

    def set_states(self, states: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Refuse.

        Raises:
            KalmError: always: says why.
        """
        raise KalmError(
            "a Meta-World episode cannot be put into a state: the 91 numbers do not hold the arm's joints "
            "nor any velocity. Reset it with a goal and a seed."
        )

    def step(self, actions: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Take one action in each of these rows: (len(rows), 4) in [-1, 1] -> (len(rows), 91).

        Raises:
            KalmError: wrong shape, out of range, not finite, or a row that was never reset.
        """
        rows = which_rows(rows, len(self._lanes))
        actions, lanes = _checked(actions, len(rows)), self._ready(rows)
        states = np.zeros((len(rows), SPEC.state_size))
        order = sorted(range(len(rows)), key=lambda i: (lanes[i].task, i))

        def advance(worker: int) -> None:
            share = order[worker * len(order) // self._threads : (worker + 1) * len(order) // self._threads]
            for task, group in groupby(share, key=lambda i: lanes[i].task):
                of = list(group)
                own = [lanes[i] for i in of]
                raw = scenes.physics(task, worker).step(own, actions[of])
                states[of] = assemble(task, raw, own)
                if task in STAGES:
                    states[of] = _go_on(task, states[of], own)

        if self._pool is None:
            advance(0)
        else:
            list(self._pool.map(advance, range(self._threads)))
        if self._distractors is not None and self._distractors.each_step:
            for row in rows:
                self._draw(row)
        return states + self._extra[rows]

    def close(self) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _draw(self, row: int) -> None:
        lane, rng = self._lanes[row], self._drawn[row]
        assert self._distractors is not None and lane is not None and rng is not None
        self._extra[row] = self._distractors.draw(lane.task, rng)

    def _ready(self, rows: np.ndarray) -> list[Lane]:
        lanes = [lane for lane in (self._lanes[row] for row in rows) if lane is not None]
        if len(lanes) < len(rows):
            raise KalmError("a row must be reset before it can step.")
        return lanes


def assemble(task: str, raw: np.ndarray, lanes: Sequence[Lane]) -> np.ndarray:
    """Return the states of rows of one task from what was read in them: (n, 4 + 12 E) -> (n, 91)."""
    gripper, entities = scenes.numbers(task, raw)
    states = np.zeros((len(raw), SPEC.state_size))
    states[:, GRIPPER] = gripper
    states[:, TARGET] = [lane.target for lane in lanes]
    for i, name in enumerate(TASKS[task].entities):
        states[:, ENTITY[name]] = entities[:, i]
    return states


def _go_on(task: str, states: np.ndarray, lanes: Sequence[Lane]) -> np.ndarray:
    """Enter the second stage where a composed task has met its first; the judge's rule: -> (n, 91).

    The state in which the first stage is met already shows the second stage's target location.
    """
    after = MetaWorldJudge([Goal.of(task)] * len(lanes)).next_stage(states)
    for row in np.flatnonzero((after[:, TARGET] != states[:, TARGET]).any(axis=1)).tolist():
        lanes[row].go_on(after[row, TARGET])
    return after


def _check_starts(tasks: Sequence[str], seeds: np.ndarray, n: int) -> None:
    for task in tasks:
        if task not in TASKS:
            raise unknown("task", task, list(TASKS))
    if seeds.ndim != 1 or (seeds.size and (seeds.dtype.kind not in "iu" or seeds.min() < 0)):
        raise KalmError(f"seeds must be a flat list of whole numbers of at least 0, got {seeds!r}.")
    if not len(tasks) == len(seeds) == n:
        raise KalmError(f"{n} rows need a goal and a seed each, got {len(tasks)} goals, {len(seeds)} seeds.")


def _checked(actions: np.ndarray, n: int) -> np.ndarray:
    """Return the actions as the simulator takes them: -> (n, 4) float32."""
    actions = np.asarray(actions)
    if actions.shape != (n, ACTION):
        raise KalmError(f"{n} rows take actions of shape ({n}, {ACTION}), got {actions.shape}.")
    # Asked as "not inside" so that a NaN is outside.
    if not (np.abs(actions) <= 1.0).all():
        raise KalmError("actions are finite numbers from -1 to 1; got one that is not. Clip them first.")
    return actions.astype(np.float32)
