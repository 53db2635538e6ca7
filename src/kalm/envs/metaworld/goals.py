"""Goals of Meta-World: what may be asked, when it is reached, what a step earns. No simulator.

A goal is a task's name. Its verdict is read off the 91 numbers of the next state: a point, moved by a fixed
offset, lies within a radius of the target location along some axes. That is the package's own rule, number by
number, for all tasks but these (metaworld 3.1.1):

==================  =====================================  ==================================================
task                the package looks at                   here
==================  =====================================  ==================================================
reach, reach-wall   the middle between the fingertips      the hand, moved by how the fingertips hang from it
hammer              how far the nail's joint slid (0.09)   the nail within 0.01 of its end: the same number
make-coffee,        (not in the package)                   two stages, see below
locked-door-open
==================  =====================================  ==================================================

Composed tasks: a judge sees single transitions, so a task of two stages tells its stage by where the target
location is. In the first stage it is the first task's target, in the second the second's
(`MetaWorldJudge.next_stage`). Only the second stage reports success, by its own entity (the button, the
handle).

Rewards are shaped: what the task's own reward, 0 to 10, gains in a step (`kalm.envs.metaworld.rewards`), and
10 for the step that reaches the goal. A judge sees no step number, so the first step is measured from the own
reward of the initial state, not from zero. Own rewards that look at the action (closing fingers) are taken
before and after a step with its action, the one that is known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kalm.envs.metaworld.reward_terms import fingertips, length
from kalm.envs.metaworld.rewards import own_reward
from kalm.envs.metaworld.spec import ENTITY, SPEC, TARGET, TASKS
from kalm.envs.metaworld.walls import through_wall
from kalm.envs.simple import RowJudge
from kalm.errors import KalmError, unknown
from kalm.types import Goal

Axes = tuple[float, float, float]

SUCCESS = 10.0  # the reward of a step that reaches the goal
_ALL, _X, _Y, _Z = (1.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Criterion:
    """When a single task is reached.

    Attributes:
        entity: whose place must be near the target location; empty: the fingertips.
        radius: how near, metres.
        axes: weights of x, y and z in the distance.
        offset: added to the place.
    """

    entity: str
    radius: float
    axes: Axes = _ALL
    offset: Axes = (0.0, 0.0, 0.0)


VERDICTS = {
    "reach": Criterion("", 0.05),
    "push": Criterion("target_object", 0.05),
    "pick-place": Criterion("target_object", 0.07),
    "button-press": Criterion("button", 0.02, _Y),
    "door-unlock": Criterion("lock", 0.02, _X),
    "door-open": Criterion("handle", 0.08, _X),
    "window-open": Criterion("window", 0.05, _X),
    "faucet-open": Criterion("faucet", 0.07, offset=(-0.04, 0.0, 0.03)),
    "coffee-push": Criterion("coffee", 0.07),
    "coffee-button": Criterion("coffee-button", 0.02, _Y),
    "reach-wall": Criterion("", 0.05),
    "push-wall": Criterion("target_object", 0.07),
    "pick-place-wall": Criterion("target_object", 0.07),
    "button-press-wall": Criterion("button", 0.03, _Y),
    "door-lock": Criterion("lock", 0.02, _Z),
    "door-close": Criterion("handle", 0.08),
    "window-close": Criterion("window", 0.05, _X),
    "faucet-close": Criterion("faucet", 0.07),
    "hammer": Criterion("nail", 0.01, _Y),
    "soccer": Criterion("soccer", 0.07),
}
SINGLE = tuple(VERDICTS)


@dataclass(frozen=True)
class Stages:
    """A composed task: two single tasks, whose target locations lie on two sides of a border.

    Attributes:
        tasks: of its first and second stage.
        axis: of the target location.
        border: between the two stages' target locations on that axis.
        side: 1 where the second stage's lies above the border, -1 below.
        onward: from the first stage's target location to the second's, metres.
    """

    tasks: tuple[str, str]
    axis: int
    border: float
    side: int
    onward: Axes


STAGES = {
    # The mug's place is on the table, the button 0.3 m above it.
    "make-coffee": Stages(("coffee-push", "coffee-button"), 2, 0.15, 1, (0.0, 0.03, 0.3)),
    # The lever's place is at the door (y >= 0.64), the handle's, once open, far in front of it (y <= 0.5).
    "locked-door-open": Stages(("door-unlock", "door-open"), 1, 0.57, -1, (-0.4, -0.292, -0.061)),
}

# The same as arrays, a row per single task.
_POINTS = np.array([ENTITY[v.entity].start if v.entity else 0 for v in VERDICTS.values()])  # (K,)
_HAND = np.array([not v.entity for v in VERDICTS.values()])  # (K,) bool
_RADII = np.array([v.radius for v in VERDICTS.values()])  # (K,)
_AXES = np.array([v.axes for v in VERDICTS.values()])  # (K, 3)
_OFFSETS = np.array([v.offset for v in VERDICTS.values()])  # (K, 3)


def parse_goal(data: Mapping[str, object]) -> Goal:
    """Return the checked goal of a JSON object.

    Raises:
        KalmError: an unknown task, or slots, which these goals do not have.
    """
    if not isinstance(data, Mapping):
        raise KalmError(f'a goal is an object such as {{"kind": "door-open"}}, got {data!r}.')
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in TASKS:
        raise unknown("goal kind", kind, TASKS)
    slots = ", ".join(sorted(str(name) for name in data if name != "kind"))
    if slots:
        raise KalmError(f"a goal of kind {kind!r} has no slots; got {slots}. Leave them out.")
    return Goal.of(kind)


class MetaWorldJudge(RowJudge):
    """Verdicts and rewards for N goals of any mixture of tasks, one per row (`kalm.envs.base.Judge`).

    Args:
        goals: one goal per row.

    Attributes:
        goals: the N goals.
        one_step: (N,) bool, false everywhere.
        tasks: (N, 2) int64, index into `SINGLE` of the first and the second stage; twice the same for single
            tasks.
        axis: (N,) int64, axis of the target location that tells the stages apart.
        border: (N,) float64, where.
        side: (N,) int64, 1 or -1 as in `Stages`, 0 for single tasks.
        onward: (N, 3) float64, from the first stage's target location to the second's.
        wall: (N,) bool, the task has a wall.
    """

    rows: tuple[str, ...] = ("one_step", "tasks", "axis", "border", "side", "onward", "wall")

    def __init__(self, goals: Sequence[Goal]) -> None:
        super().__init__(goals)
        rows = [_compile(goal.kind) for goal in self.goals]
        self.tasks: np.ndarray = np.array([tasks for tasks, *_ in rows], dtype=np.int64).reshape(-1, 2)
        self.axis: np.ndarray = np.array([axis for _, axis, *_ in rows], dtype=np.int64)
        self.border: np.ndarray = np.array([border for _, _, border, *_ in rows], dtype=np.float64)
        self.side: np.ndarray = np.array([side for *_, side, _ in rows], dtype=np.int64)
        self.onward: np.ndarray = np.array([onward for *_, onward in rows], dtype=np.float64).reshape(-1, 3)
        self.wall: np.ndarray = np.array(
            ["wall" in TASKS[goal.kind].entities for goal in self.goals], dtype=bool
        )

    def reached(self, states: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Whether the next state of each transition meets its goal: (N, 91) twice -> (N,) bool."""
        stage = self.stage(next_states)
        return self._met(next_states, stage) & ((stage == 1) | (self.side == 0))

    def reward(self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Reward of each transition: what the task's own reward gains, 10 on success: -> (N,) float32."""
        gain = self.own_reward(actions, next_states) - self.own_reward(actions, states)
        return np.where(self.success(states, actions, next_states), SUCCESS, gain).astype(np.float32)

    def own_reward(self, actions: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Return each task's own reward of being in a state after an action: (N, 4), (N, 91) -> (N,), 0..10.

        The first stage of a composed task counts half, the second 5 and half.
        """
        states, actions = self._checked(states), np.asarray(actions, dtype=np.float64)
        stage, reward = self.stage(states), np.zeros(len(states))
        task = self._task(stage)
        for index in np.unique(task):
            rows = task == index
            reward[rows] = own_reward(SINGLE[index], actions[rows], states[rows])
        return np.where(self.side == 0, reward, 5 * stage + reward / 2)

    def stage(self, states: np.ndarray) -> np.ndarray:
        """Tell the stage from the target location: (N, 91) -> (N,) int64, 0 or 1; 0 in single tasks."""
        target = self._checked(states)[:, TARGET]
        along = target[np.arange(len(target)), self.axis]
        return (self.side * (along - self.border) > 0).astype(np.int64)

    def first_stage_done(self, states: np.ndarray) -> np.ndarray:
        """Whether a composed task is in its first stage and has met it: (N, 91) -> (N,) bool."""
        stage = self.stage(states)
        return self._met(states, stage) & (stage == 0) & (self.side != 0)

    def next_stage(self, states: np.ndarray) -> np.ndarray:
        """Move the target location on where the first stage is done: (N, 91) -> (N, 91)."""
        states, done = states.copy(), self.first_stage_done(states)
        states[done, TARGET] += self.onward[done]
        return states

    def violations(self, states: np.ndarray, next_states: np.ndarray) -> dict[str, np.ndarray]:
        """Name what goes through a wall that the task has: (N, 91) twice -> measure name -> (N,) bool."""
        found = np.zeros(len(self.goals), dtype=bool)
        found[self.wall] = through_wall(
            self._checked(states)[self.wall], self._checked(next_states)[self.wall]
        )
        return {"through_wall": found}

    def _checked(self, states: np.ndarray) -> np.ndarray:
        assert states.shape == (len(self.goals), SPEC.state_size), (states.shape, len(self.goals))
        return np.asarray(states, dtype=np.float64)

    def _task(self, stage: np.ndarray) -> np.ndarray:
        return self.tasks[np.arange(len(stage)), stage]

    def _met(self, states: np.ndarray, stage: np.ndarray) -> np.ndarray:
        """Whether each state meets the single task of its row's stage: (N, 91), (N,) -> (N,) bool."""
        states, task = self._checked(states), self._task(stage)
        columns = _POINTS[task][:, None] + np.arange(3)  # (N, 3)
        points = np.take_along_axis(states, columns, axis=1)
        points = np.where(_HAND[task][:, None], fingertips(states), points) + _OFFSETS[task]
        # Asked as "not further", so that a NaN is a failure.
        return length((points - states[:, TARGET]) * _AXES[task]) <= _RADII[task]


def _compile(kind: str) -> tuple[tuple[int, int], int, float, int, Axes]:
    """Return the two single tasks of a task; axis, border and side that tell its stages apart; and onward."""
    if kind in STAGES:
        stages = STAGES[kind]
        first, second = (SINGLE.index(task) for task in stages.tasks)
        return (first, second), stages.axis, stages.border, stages.side, stages.onward
    return (SINGLE.index(kind), SINGLE.index(kind)), 0, 0.0, 0, (0.0, 0.0, 0.0)
