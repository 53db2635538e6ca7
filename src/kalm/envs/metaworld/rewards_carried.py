"""Rewards of the Meta-World tasks that carry, push or kick a loose thing: a block, a mug, a ball, a hammer.

The formulas are metaworld 3.1.1's, `_gripper_caging_reward` among them. They compare with where the thing was
when the episode began, which is hidden. Here a thing that stands as it was put has not been moved: it began
where it is. One that is turned has been moved: it is taken to have begun in the middle of where such things
are put (`Start`), at most 0.11 m off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kalm.envs.metaworld.reward_terms import Rows, both, length, middle, near, pads
from kalm.envs.metaworld.spec import ENTITY

Point = tuple[float, float, float]

TURNED = 0.02  # a quaternion that is further off than this is of a thing that was moved


@dataclass(frozen=True)
class Start:
    """Where a thing is put at the beginning: a box, and how it then stands.

    Attributes:
        low: corner.
        high: opposite corner.
        stands: its quaternion.
    """

    low: Point
    high: Point
    stands: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 1.0)

    def of(self, thing: np.ndarray) -> np.ndarray:
        """Return where things are taken to have begun: (N, 7) -> (N, 3)."""
        turn = np.minimum(length(thing[:, 3:] - self.stands), length(thing[:, 3:] + self.stands))
        low, high = np.array(self.low), np.array(self.high)
        return np.where((turn > TURNED)[:, None], (low + high) / 2, np.clip(thing[:, :3], low, high))


@dataclass(frozen=True)
class Grasp:
    """What counts as a thing between the fingers.

    Attributes:
        radius: a pad nearer than this to its middle is too near, metres.
        reach: a pad further than this is too far.
        level: the fingertips are beside it and as high to within this.
        effort: how hard the fingers must close.
        dense: also counts what is about to be a grasp: ``"caged"``, or ``"near"``, the fingertips at it.
    """

    radius: float
    reach: float
    level: float
    effort: float = 1.0
    dense: str = ""


BLOCK = Start((-0.1, 0.6, 0.02), (0.1, 0.7, 0.02))
BLOCK_BY_WALL = Start((-0.05, 0.6, 0.015), (0.05, 0.65, 0.015))
MUG = Start((-0.1, 0.55, 0.0), (0.1, 0.65, 0.0), (-0.0003, -0.0095, -0.0304, 0.9995))
HAMMER = Start((-0.1, 0.4, 0.0), (0.1, 0.5, 0.0), (0.9996, 0.0003, -0.0297, 0.0))
BALL = Start((-0.1, 0.6, 0.03), (0.1, 0.7, 0.03))

FIRM = Grasp(radius=0.015, reach=0.05, level=0.005, dense="caged")
LOOSE = Grasp(radius=0.015, reach=0.05, level=0.005)
AROUND = Grasp(radius=0.02, reach=0.05, level=0.05, effort=0.7, dense="near")
HILT = Grasp(radius=0.015, reach=0.02, level=0.01, dense="caged")
HILT_LENGTH = 0.14
AT_MUG = 0.04  # the fingertips are at the mug
BALL_RADIUS = 0.013


def push(rows: Rows) -> np.ndarray:
    """Push a block: (N,)."""
    start = BLOCK.of(rows.thing)
    to_target = length(rows.place - rows.target)
    in_place = near(to_target, 0.05, length(start - rows.target))
    grasp = _grasped(FIRM, rows, rows.place, start, middle(rows.states))
    return np.where(to_target < 0.05, 10.0, 2 * grasp + _held(rows) * (1 + 2 * grasp + 5 * in_place))


def pick_place(rows: Rows) -> np.ndarray:
    """Carry a block to a place in the air: (N,)."""
    start = BLOCK.of(rows.thing)
    to_target = length(rows.place - rows.target)
    in_place = near(to_target, 0.05, length(start - rows.target))
    caged, _ = _caged_by_sides(rows, start, 0.015)
    gripping = np.where(caged > 0.97, np.clip(rows.closing, 0.0, 1.0), 0.0)
    grasp = (both(caged, gripping) + caged) / 2
    lifted = _held(rows) & (rows.place[:, 2] - 0.01 > start[:, 2])
    return np.where(to_target < 0.05, 10.0, both(grasp, in_place) + lifted * (1 + 5 * in_place))


def push_past_wall(rows: Rows) -> np.ndarray:
    """Push a block past a wall, by a point beside it: (N,)."""
    start, place = BLOCK_BY_WALL.of(rows.thing), rows.place
    beside = np.stack([np.full(len(place), -0.05), np.full(len(place), 0.77), place[:, 2]], axis=1)  # (N, 3)
    on_way = _nearing(place, beside, start, (3.0, 1.0, 1.0))
    grasp = _grasped(FIRM, rows, place, start, middle(rows.states))
    return _by_way(rows, start, 2 * grasp, on_way, _held(rows))


def carry_over_wall(rows: Rows) -> np.ndarray:
    """Carry a block over a wall, by a point above it: (N,)."""
    start, place, target = BLOCK_BY_WALL.of(rows.thing), rows.place, rows.target
    above = np.stack([target[:, 0], np.full(len(place), 0.77), np.full(len(place), 0.25)], axis=1)  # (N, 3)
    on_way = _nearing(place, above, start, (1.0, 1.0, 3.0))
    grasp = _grasped(LOOSE, rows, place, start, middle(rows.states))
    lifted = _held(rows) & (place[:, 2] - 0.015 > start[:, 2])
    return _by_way(rows, start, both(grasp, on_way), on_way, lifted)


def push_mug(rows: Rows) -> np.ndarray:
    """Push a mug to its place: (N,)."""
    axes, start = np.array([2.0, 2.0, 1.0]), MUG.of(rows.thing)
    to_target = length((rows.place - rows.target) * axes)
    in_place = near(to_target, 0.05, length((start - rows.target) * axes))
    grasp = _grasped(AROUND, rows, rows.place, start, middle(rows.states))
    held = _held(rows, AT_MUG)
    return np.where(to_target < 0.05, 10.0, both(grasp, in_place) + held * (1 + 5 * in_place))


def kick(rows: Rows) -> np.ndarray:
    """Kick a ball into a goal: (N,)."""
    axes, start, place = np.array([3.0, 1.0, 1.0]), BALL.of(rows.thing), rows.place
    to_target = length((place - rows.target) * axes)
    in_place = near(to_target, 0.07, length((place - start) * axes))
    line = rows.target[:, 1] - 0.1
    beside = (place[:, 1] > line) & (np.abs(place[:, 0] - rows.target[:, 0]) > 0.1)
    missed = np.clip(in_place - 2 * (place[:, 1] - line) / (1 - line), 0.0, 1.0)
    caged, tight = _caged_by_sides(rows, start, BALL_RADIUS)
    grasp = (caged + np.where(caged > 0.95, tight, 0.0)) / 2
    return np.where(to_target < 0.07, 10.0, 3 * grasp + 6.5 * np.where(beside, missed, in_place))


def hammer(rows: Rows) -> np.ndarray:
    """Drive a nail in with a hammer: (N,)."""
    place, nail = rows.place, rows.states[:, ENTITY["nail"]]
    hilt = place.copy()  # the hand may hold the hilt anywhere along x
    along = np.abs(place[:, 0] - rows.hand[:, 0]) < HILT_LENGTH / 2
    hilt[:, 0] = np.where(along, rows.hand[:, 0], place[:, 0])
    grasp = _grasped(HILT, rows, hilt, HAMMER.of(rows.thing), _middle_at_hilt(rows, hilt))
    head = place + np.array([0.16, 0.06, 0.0])
    in_place = 0.1 * (head[:, 2] > 0.02) + 0.9 * near(length(rows.target - head), 0.02, 0.2)
    level = np.maximum(1 - length(rows.thing[:, 3:] - np.array([1.0, 0.0, 0.0, 0.0])) / 0.4, 0.0)
    reward = (2 * grasp + 6 * in_place) * level
    driven = np.abs(nail[:, 1] - rows.target[:, 1]) < 0.01
    return np.where(driven & (reward > 5), 10.0, reward)


def _middle_at_hilt(rows: Rows, hilt: np.ndarray) -> np.ndarray:
    """As `middle`, but fingers closed around the hilt follow it half the way; fitted: -> (N,)."""
    apart = np.abs(hilt - rows.tips)
    around = (apart < 0.03).all(axis=1) & (rows.opening < 0.75)
    return np.where(around, 0.52 * (hilt[:, 1] - rows.hand[:, 1]), middle(rows.states))


def _held(rows: Rows, within: float = 0.02) -> np.ndarray:
    return (length(rows.place - rows.tips) < within) & (rows.opening > 0)


def _nearing(place: np.ndarray, way: np.ndarray, start: np.ndarray, axes: Point) -> np.ndarray:
    return near(length((place - way) * axes), 0.05, length((start - way) * axes))


def _by_way(
    rows: Rows, start: np.ndarray, base: np.ndarray, on_way: np.ndarray, held: np.ndarray
) -> np.ndarray:
    """Reward a held block for nearing the point on the way, and past the wall the target: -> (N,)."""
    to_target = length(rows.place - rows.target)
    in_place = near(to_target, 0.05, length(start - rows.target))
    progress = np.where(rows.place[:, 1] > 0.75, 4 + 3 * in_place, 4 * on_way)
    return np.where(to_target < 0.05, 10.0, base + held * (1 + progress))


def _grasped(how: Grasp, rows: Rows, thing: np.ndarray, start: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """How well the fingers, with this middle, hold a thing that began at `start`: -> (N,) in 0..1."""
    fingers = pads(rows.states, middle)  # (N, 2)
    margin = np.abs(np.abs(fingers - start[:, 1:2]) - how.reach)
    sides = near(np.abs(fingers - thing[:, 1:2]), how.reach, margin, how.radius)  # (N, 2)
    caged = both(both(*sides.T), _level(how.level, rows, thing, start))
    gripping = np.where(caged > 0.97, np.clip(rows.closing, 0.0, how.effort) / how.effort, 0.0)
    held = both(caged, gripping)
    if how.dense == "caged":
        return (held + caged) / 2
    if how.dense == "near":
        margin = np.abs(length(start - rows.first_tips) - AT_MUG)
        return (held + near(length(thing - rows.tips), AT_MUG, margin)) / 2
    return held


def _caged_by_sides(rows: Rows, start: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """How well each finger is on its own side of the thing: -> caged (N,), tight (N,), in 0..1.

    The margins follow the pads: the package means those of the beginning, but keeps a view of the present.
    """
    gaps = (pads(rows.states, middle(rows.states)) - rows.place[:, 1:2]) * np.array([1.0, -1.0])  # (N, 2)
    margin = np.abs(np.abs(gaps) - 0.05)
    sides = both(*near(gaps, 0.05, margin, radius).T)
    tight = both(*near(gaps, radius + 0.01, margin, radius).T)
    return both(sides, _level(0.005, rows, rows.place, start)), tight


def _level(within: float, rows: Rows, thing: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Whether the fingertips are beside a thing and as high: -> (N,) in 0..1."""
    flat = [0, 2]
    margin = length((start - rows.first_tips)[:, flat]) - within
    return near(length((rows.tips - thing)[:, flat]), within, margin)
