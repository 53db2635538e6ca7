"""Goals of CLEVR-Robot: what may be asked, when it is reached, what a step earns. No simulator.

Unusual: the predicates keep the original environment's edge cases, because recorded data and imagined
rollouts are judged by the same rule. The angle of a relation comes from an arccos whose divisor is slightly
too large, so exact diagonals belong to behind and front, never to left and right; coincident balls to behind.

Every goal is compiled to at most four parts, each a question about one pair of balls; a verdict is then a few
array operations for any mixture of kinds. Positions are metres, +x right, +y behind (away from the viewer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Literal, get_args

import numpy as np

from kalm.envs.clevr.spec import ARROWS, BALLS, DIRECTIONS, HELPS, PUSHES
from kalm.envs.simple import RowJudge
from kalm.errors import KalmError, unknown
from kalm.types import Goal

KINDS = ("relation", "move", "all", "line", "gather")


RELATION_REACH = 0.391  # a ball stands in a relation only when nearer than this
GATHER_REACH = 0.325
MOVE_LENGTH = 0.15
POINT_OFFSET = 0.195  # the rewarded point lies this far from the reference, in the goal's direction
FLAT = 1e-3  # smaller components do not turn the angle of a relation
LINE_COSINE = np.cos(np.radians(30.0))

RewardForm = Literal["point", "distance"]
REWARD_FORMS: tuple[RewardForm, ...] = get_args(RewardForm)

RELATION, MOVE, ALL, LINE, GATHER = range(len(KINDS))
# What a part asks of its pair; 0..3 are the four directions of a relation.
STEP, NEAR, NOTHING = 4, 5, 6

Part = tuple[int, int, int]  # (question, ball, reference)

_SLOTS = {
    "relation": ("ball", "reference", "direction"),
    "move": ("ball", "direction"),
    "all": ("goals",),
    "line": ("order",),
    "gather": ("center",),
}


def parse_goal(data: Mapping[str, object]) -> Goal:
    """Return the checked goal of a JSON object.

    Raises:
        KalmError: names the slot that is wrong and what it allows.
    """
    kind = _kind_of(data)
    for name in _SLOTS[kind]:
        _check_slot(kind, name, data[name])
    if kind == "relation" and data["ball"] == data["reference"]:
        raise KalmError(
            f"goal slot 'reference' is {data['reference']!r}, the ball itself. Name another ball."
        )
    return Goal.of(kind, **{name: data[name] for name in _SLOTS[kind]})


def _kind_of(data: object) -> str:
    if not isinstance(data, Mapping):
        raise KalmError(f'a goal is an object such as {{"kind": "gather", "center": "green"}}, got {data!r}.')
    kind = data.get("kind")
    if not isinstance(kind, str) or kind not in KINDS:
        raise unknown("goal kind", kind, KINDS)
    if set(data) - {"kind"} != set(_SLOTS[kind]):
        came = ", ".join(sorted(str(name) for name in data if name != "kind")) or "none"
        raise KalmError(f"a goal of kind {kind!r} has the slots {', '.join(_SLOTS[kind])}; got {came}.")
    return kind


def _check_slot(kind: str, name: str, value: object) -> None:
    if name == "goals":
        _check_relations(value)
    elif name == "order":
        if not isinstance(value, list | tuple) or sorted(map(str, value)) != sorted(BALLS):
            raise KalmError(f"goal slot 'order' must list each of {', '.join(BALLS)} once, got {value!r}.")
    else:
        allowed = DIRECTIONS if name == "direction" else BALLS
        if value not in allowed:
            raise KalmError(
                f"goal slot {name!r} of kind {kind!r} is {value!r}. Allowed: {', '.join(allowed)}."
            )


def _check_relations(value: object) -> None:
    if not isinstance(value, list | tuple) or len(value) not in (2, 3):
        raise KalmError(f"goal slot 'goals' must list two or three relations, got {value!r}.")
    for part in value:
        if _kind_of(part) != "relation":
            raise KalmError(f"goal slot 'goals' holds relations only, got kind {part['kind']!r}.")
        parse_goal(part)


class ClevrJudge(RowJudge):
    """Verdicts and rewards for N goals of any mixture of kinds, one per row (`kalm.envs.base.Judge`).

    Args:
        goals: one goal per row.
        reward: what a relation's reward measures: ``"point"`` the ball's distance to the point 0.195 m from
            the reference in the goal's direction (as the recorded data), ``"distance"`` to the reference.

    Attributes:
        goals: the N goals.
        one_step: (N,) bool, true for moves.
        kind: (N,) int64, index into `KINDS`.
        ball: (N,) int64, the ball of a relation or move, the center of a gathering; -1 elsewhere.
        reference: (N,) int64, the reference of a relation; -1 elsewhere.
        direction: (N,) int64, index into `DIRECTIONS`, of a relation or move; -1 elsewhere.
        parts: (N, P, 3) int8, per part (question, ball, reference); the question is a direction, `STEP` (the
            ball is the next one in line after the reference), `NEAR` (the ball is gathered at the reference)
            or `NOTHING` (padding, always met).
    """

    kind: np.ndarray
    ball: np.ndarray
    reference: np.ndarray
    direction: np.ndarray

    rows: tuple[str, ...] = ("one_step", "kind", "ball", "reference", "direction", "parts")

    def __init__(self, goals: Sequence[Goal], reward: RewardForm = "point") -> None:
        if reward not in REWARD_FORMS:
            raise unknown("reward", reward, REWARD_FORMS)
        self.form = reward
        super().__init__(goals)
        rows = [_compile(goal) for goal in self.goals]
        slots = np.array([slots for slots, _ in rows], dtype=np.int64).reshape(-1, 4)
        self.kind, self.ball, self.reference, self.direction = slots.T  # (N,) each
        self.one_step: np.ndarray = self.kind == MOVE
        width = max((len(parts) for _, parts in rows), default=0)
        self.parts: np.ndarray = np.array(
            [[*parts, *[(NOTHING, 0, 0)] * (width - len(parts))] for _, parts in rows], dtype=np.int8
        ).reshape(len(rows), width, 3)  # (N, P, 3)

    def success(self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Whether each transition reaches its goal: (N, 10), (N,), (N, 10) -> (N,) bool.

        A move is judged on the action (right ball, a push with that component), all else on the next state.
        """
        return np.where(self.one_step, self._pushed(actions), self._met(next_states).all(axis=1))

    def reached(self, states: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """As `success`, but a move asks that the ball went at least 0.15 m in its direction: -> (N,) bool."""
        return np.where(self.one_step, self._moved(states, next_states), self._met(next_states).all(axis=1))

    def reward(self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Reward of each transition (spec, "Rewards"): -> (N,) float32.

        100 on success, else ten times the metres gained (relation) or the parts gained (all, line, gather);
        a move earns 1 or 0.
        """
        met = self._met(next_states)  # (N, P)
        gain = met.sum(axis=1) - self._met(states).sum(axis=1)  # (N,) parts
        metres = self._distance(states) - self._distance(next_states)  # (N,)
        progress = np.where(self.kind == RELATION, metres, gain)
        many_steps = np.where(met.all(axis=1), 100.0, 10.0 * progress)
        return np.where(self.one_step, self._pushed(actions), many_steps).astype(np.float32)

    def _positions(self, states: np.ndarray) -> np.ndarray:
        """Return where the balls of N states are: (N, 10) -> (N, 5, 2) float64."""
        assert states.shape == (len(self.goals), 2 * len(BALLS)), (states.shape, len(self.goals))
        return np.asarray(states, dtype=np.float64).reshape(-1, len(BALLS), 2)

    def _met(self, states: np.ndarray) -> np.ndarray:
        """Say which parts each state satisfies: (N, 10) -> (N, P) bool."""
        positions = self._positions(states).reshape(-1, 2)  # (N * 5, 2)
        first = len(BALLS) * np.arange(len(self.goals))[:, None]  # (N, 1) row of ball 0
        question, ball, reference = np.moveaxis(self.parts, 2, 0)  # (N, P) each
        offset = positions.take(first + ball, axis=0) - positions.take(first + reference, axis=0)  # (N, P, 2)
        return _answers(question, offset)

    def _pushed(self, actions: np.ndarray) -> np.ndarray:
        assert actions.shape == (len(self.goals),), (actions.shape, len(self.goals))
        ball, push = np.divmod(actions, len(PUSHES))
        return (ball == self.ball) & HELPS[self.direction, push]

    def _moved(self, states: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        row = np.arange(len(self.goals))
        change = (self._positions(next_states) - self._positions(states))[row, self.ball]  # (N, 2)
        return (change * ARROWS[self.direction]).sum(axis=1) >= MOVE_LENGTH

    def _distance(self, states: np.ndarray) -> np.ndarray:
        """Return what a relation's reward wants small: (N, 10) -> (N,); meaningless for other kinds."""
        positions, row = self._positions(states), np.arange(len(self.goals))
        target = positions[row, self.reference]  # (N, 2)
        if self.form == "point":
            target = target + POINT_OFFSET * ARROWS[self.direction]
        return np.hypot(*(positions[row, self.ball] - target).T)


def _answers(question: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Answer each question about its offset, ball minus reference: (...), (..., 2) -> (...) bool."""
    length = np.hypot(offset[..., 0], offset[..., 1])
    related = (quarter(offset) == question) & (length < RELATION_REACH)
    step = (question == STEP) & (offset[..., 0] >= LINE_COSINE * length) & (length > 0)
    near = (question == NEAR) & (length < GATHER_REACH)
    return related | step | near | (question == NOTHING)


def quarter(offset: np.ndarray) -> np.ndarray:
    """Index into `DIRECTIONS` of each offset, ball minus reference, at any length: (..., 2) -> (...) float64.

    NaN offsets have no quarter: they stay NaN.
    """
    dx, dy = (np.where(np.abs(part) < FLAT, 0.0, part) for part in (offset[..., 0], offset[..., 1]))
    angle = np.degrees(np.arccos(dx / (np.hypot(dx, dy) + 1e-6)))  # 0..180
    angle = np.where(dy < 0, 360.0 - angle, angle)
    return np.floor(np.where(angle < 45.0, angle + 315.0, angle - 45.0) / 90.0)  # right straddles 0


@cache
def _compile(goal: Goal) -> tuple[tuple[int, int, int, int], tuple[Part, ...]]:
    """Return (kind, ball, reference, direction) and the parts of a goal; -1 stands for no such slot."""
    kind = KINDS.index(goal.kind)
    ball, reference, direction, parts = -1, -1, -1, ()
    if kind == RELATION:
        direction, ball, reference = _relation(goal)
        parts = ((direction, ball, reference),)
    elif kind == MOVE:
        ball, direction = BALLS.index(goal["ball"]), DIRECTIONS.index(goal["direction"])
    elif kind == ALL:
        parts = tuple(_relation(part) for part in goal["goals"])
    elif kind == LINE:
        order = [BALLS.index(name) for name in goal["order"]]
        parts = tuple((STEP, after, before) for before, after in zip(order, order[1:], strict=False))
    else:
        ball = BALLS.index(goal["center"])
        parts = tuple((NEAR, other, ball) for other in range(len(BALLS)) if other != ball)
    return (kind, ball, reference, direction), parts


def _relation(goal: Goal) -> Part:
    ball, reference = BALLS.index(goal["ball"]), BALLS.index(goal["reference"])
    return DIRECTIONS.index(goal["direction"]), ball, reference
