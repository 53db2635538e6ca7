"""Meta-World's own reward of each task, 0 to 10, for many rows at once: the package's second version.

Each task is a row of `FORMULAS`: one of a dozen formulas and its numbers. They are those of metaworld 3.1.1,
on 91 numbers and the action. What those do not say is taken for something:

=============================  ===============================================================================
hidden from the 91 numbers     here
=============================  ===============================================================================
fingertips, finger pads        from hand and opening (`kalm.goals.metaworld_terms`)
fingertips at the beginning    the hand's starting place, moved by `SETTLED`
where a door, a lock, a tap,   a fixed way from the target location: exact, except a window's handle (the
a window began                 package reads it before the window is put into its place)
where a block, a mug, a        the point of the box that starts are drawn from that is nearest to where the
hammer, a ball began           thing is: exact until it leaves its place, then up to 0.15 m off
how far the door is open       the angle of the handle about the hinge: exact
=============================  ===============================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from kalm.goals.metaworld_tasks import ENTITY, TARGET, TASKS
from kalm.goals.metaworld_terms import Grasp, both, fingertips, grasped, length, near, pads, sided

SETTLED = np.array([0.0044, 0.0008, -0.0495])  # from the hand's starting place to the fingertips'
_HAND = {
    "near": np.array([0.0, 0.4, 0.2]),
    "middle": np.array([0.0, 0.6, 0.2]),
    "left": np.array([-0.5, 0.6, 0.2]),
}
_PRESSED = 0.0935  # how far a button of the button tasks can go


@dataclass(frozen=True)
class Rows:
    """What the formulas look at, for N rows of one task.

    Attributes:
        states: (N, 91).
        closing: (N,) the action's gripper effort.
        thing: (N, 7) the task's first entity.
        hand: (3,) where the hand begins.
    """

    states: np.ndarray
    closing: np.ndarray
    thing: np.ndarray
    hand: np.ndarray

    @property
    def place(self) -> np.ndarray:
        """Where the entity is: (N, 3)."""
        return self.thing[:, :3]

    @property
    def target(self) -> np.ndarray:
        """(N, 3) the target location."""
        return self.states[:, TARGET]

    @property
    def opening(self) -> np.ndarray:
        """(N,) of the gripper, 0..1."""
        return self.states[:, 3]

    @property
    def tips(self) -> np.ndarray:
        """(N, 3) the middle between the fingertips."""
        return fingertips(self.states)

    @property
    def first_tips(self) -> np.ndarray:
        """(3,) where it was at the beginning."""
        return self.hand + SETTLED


Formula = Callable[[Rows], np.ndarray]


def _reach(rows: Rows) -> np.ndarray:
    return 10 * near(length(rows.tips - rows.target), 0.05, length(rows.hand - rows.target))


@dataclass(frozen=True)
class Box:
    """Where things are put at the beginning: corners of a box."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def nearest(self, places: np.ndarray) -> np.ndarray:
        """Return the point of the box that is nearest to each place: (N, 3) -> (N, 3)."""
        return np.clip(places, self.low, self.high)


_BLOCK = Box((-0.1, 0.6, 0.02), (0.1, 0.7, 0.02))
_BLOCK_BY_WALL = Box((-0.05, 0.6, 0.015), (0.05, 0.65, 0.015))
_MUG = Box((-0.1, 0.55, 0.0), (0.1, 0.65, 0.0))
_HAMMER = Box((-0.1, 0.4, 0.0), (0.1, 0.5, 0.0))
_BALL = Box((-0.1, 0.6, 0.03), (0.1, 0.7, 0.03))
_FIRM = Grasp(radius=0.015, reach=0.05, level=0.005, dense="high")
_LOOSE = Grasp(radius=0.015, reach=0.05, level=0.005)
_AROUND = Grasp(radius=0.02, reach=0.05, level=0.05, effort=0.7, dense="medium", near=0.04)
_HILT = Grasp(radius=0.015, reach=0.02, level=0.01, dense="high")
_HILT_LENGTH = 0.14


def _push(rows: Rows) -> np.ndarray:
    start = _BLOCK.nearest(rows.place)
    to_target = length(rows.place - rows.target)
    in_place = near(to_target, 0.05, length(start - rows.target))
    grasp = grasped(_FIRM, rows.states, rows.closing, rows.place, start, rows.first_tips)
    held = (length(rows.place - rows.tips) < 0.02) & (rows.opening > 0)
    return np.where(to_target < 0.05, 10.0, 2 * grasp + held * (1 + 2 * grasp + 5 * in_place))


def _pick_place(rows: Rows) -> np.ndarray:
    start = _BLOCK.nearest(rows.place)
    to_target = length(rows.place - rows.target)
    in_place = near(to_target, 0.05, length(start - rows.target))
    caged, _ = sided(rows.states, rows.place, start, rows.first_tips)
    gripping = np.where(caged > 0.97, np.clip(rows.closing, 0.0, 1.0), 0.0)
    grasp = (both(caged, gripping) + caged) / 2
    held = (length(rows.place - rows.tips) < 0.02) & (rows.opening > 0)
    held &= rows.place[:, 2] - 0.01 > start[:, 2]
    return np.where(to_target < 0.05, 10.0, both(grasp, in_place) + held * (1 + 5 * in_place))


def _around_wall(rows: Rows, lift: bool) -> np.ndarray:
    """Push beside the wall or lift over it: by a point on the way, then to the target."""
    start, target, place = _BLOCK_BY_WALL.nearest(rows.place), rows.target, rows.place
    way = np.stack(
        [target[:, 0], np.full(len(place), 0.77), np.full(len(place), 0.25)]
        if lift
        else [np.full(len(place), -0.05), np.full(len(place), 0.77), place[:, 2]],
        axis=1,
    )  # (N, 3)
    axes = np.array([1.0, 1.0, 3.0]) if lift else np.array([3.0, 1.0, 1.0])
    to_target = length(place - target)
    on_way = near(length((place - way) * axes), 0.05, length((start - way) * axes))
    in_place = near(to_target, 0.05, length(start - target))
    grasp = grasped(_LOOSE if lift else _FIRM, rows.states, rows.closing, place, start, rows.first_tips)
    base = both(grasp, on_way) if lift else 2 * grasp
    held = (length(place - rows.tips) < 0.02) & (rows.opening > 0)
    if lift:
        held &= place[:, 2] - 0.015 > start[:, 2]
    progress = np.where(place[:, 1] > 0.75, 4 + 3 * in_place, 4 * on_way)
    return np.where(to_target < 0.05, 10.0, base + held * (1 + progress))


def _push_mug(rows: Rows) -> np.ndarray:
    axes, start = np.array([2.0, 2.0, 1.0]), _MUG.nearest(rows.place)
    to_target = length((rows.place - rows.target) * axes)
    in_place = near(to_target, 0.05, length((start - rows.target) * axes))
    grasp = grasped(_AROUND, rows.states, rows.closing, rows.place, start, rows.first_tips)
    held = (length(rows.place - rows.tips) < 0.04) & (rows.opening > 0)
    return np.where(to_target < 0.05, 10.0, both(grasp, in_place) + held * (1 + 5 * in_place))


def _kick(rows: Rows) -> np.ndarray:
    axes, start, place = np.array([3.0, 1.0, 1.0]), _BALL.nearest(rows.place), rows.place
    to_target = length((place - rows.target) * axes)
    in_place = near(to_target, 0.07, length((place - start) * axes))
    line = rows.target[:, 1] - 0.1
    beside = (place[:, 1] > line) & (np.abs(place[:, 0] - rows.target[:, 0]) > 0.1)
    missed = np.clip(in_place - 2 * (place[:, 1] - line) / (1 - line), 0.0, 1.0)
    caged, tight = sided(rows.states, place, start, rows.first_tips, tight=0.023)
    grasp = (caged + np.where(caged > 0.95, tight, 0.0)) / 2
    return np.where(to_target < 0.07, 10.0, 3 * grasp + 6.5 * np.where(beside, missed, in_place))


def _hammer(rows: Rows) -> np.ndarray:
    hammer, hand, nail = rows.place, rows.states[:, :3], rows.states[:, ENTITY["nail"]]
    hilt = hammer.copy()  # the hand may hold the hilt anywhere along x
    along = np.abs(hammer[:, 0] - hand[:, 0]) < _HILT_LENGTH / 2
    hilt[:, 0] = np.where(along, hand[:, 0], hammer[:, 0])
    start = _HAMMER.nearest(hammer)
    grasp = grasped(_HILT, rows.states, rows.closing, hilt, start, rows.first_tips)
    head = hammer + np.array([0.16, 0.06, 0.0])
    in_place = 0.1 * (head[:, 2] > 0.02) + 0.9 * near(length(rows.target - head), 0.02, 0.2)
    level = np.maximum(1 - length(rows.thing[:, 3:] - np.array([1.0, 0.0, 0.0, 0.0])) / 0.4, 0.0)
    reward = (2 * grasp + 6 * in_place) * level
    driven = np.abs(nail[:, 1] - rows.target[:, 1]) < 0.01
    return np.where(driven & (reward > 5), 10.0, reward)


def _press(rows: Rows, way: float) -> np.ndarray:
    apart = length(rows.place - rows.tips)
    close = near(apart, 0.05, length(rows.place - rows.first_tips))
    pressed = near(np.abs(rows.target[:, 1] - rows.place[:, 1]), 0.005, way)
    return 2 * both(rows.opening, close) + 8 * pressed * (apart <= 0.05)


def _press_over_wall(rows: Rows) -> np.ndarray:
    apart = length(rows.place - rows.tips)
    close = near(apart, 0.01, length(rows.place - rows.first_tips))
    pressed = near(np.abs(rows.target[:, 1] - rows.place[:, 1]), 0.005, _PRESSED)
    there = 2 + 2 * (1 + rows.opening) + 4 * pressed**2
    return np.where(apart > 0.07, 2 * both((1 - rows.opening) / 2, close), there)


_LEVER_AXES = np.array([0.25, 1.0, 0.5])


def _unlock(rows: Rows) -> np.ndarray:
    shoulder = np.array([0.0, 0.055, 0.07])  # the package tracks the gripper above its fingers
    pivot = rows.target - np.array([0.1, -0.04, 0.0])
    ready = near(
        length((rows.states[:, :3] + shoulder - rows.place) * _LEVER_AXES),
        0.02,
        length((rows.first_tips + shoulder - pivot) * _LEVER_AXES),
    )
    return 2 * ready + 8 * near(np.abs(rows.target[:, 0] - rows.place[:, 0]), 0.005, 0.1)


def _lock(rows: Rows) -> np.ndarray:
    pad = rows.states[:, :3].copy()
    pad[:, 1] = pads(rows.states)[:, 0]
    apart = length((rows.place - pad) * _LEVER_AXES)
    close = near(apart, 0.01, apart)  # the package compares with where the pad is, not where it began
    pressed = near(np.abs(rows.target[:, 2] - rows.place[:, 2]), 0.005, 0.1)
    return 2 * both(rows.opening, close) + 8 * pressed


_HINGE = np.array([0.3 - 0.185, 0.45 - 0.1])  # (2,) from the target location of door-open to the hinge
_SHUT = np.arctan2(-0.10714, 0.37572)  # direction from the hinge to the handle of a shut door


def door_angle(handle: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How far the door of door-open is open: (N, 3) handle and target location -> (N,) radians, 0 is shut."""
    x, y = (handle[:, :2] - target[:, :2] - _HINGE).T
    return (_SHUT - np.arctan2(y, x) + np.pi) % (2 * np.pi) - np.pi


def _open_door(rows: Rows) -> np.ndarray:
    hand, door = rows.states[:, :3], rows.place - np.array([0.05, 0.0, 0.0])
    around = length((hand - door)[:, :2])
    floor = np.where(around <= 0.12, 0.0, 0.04 * np.log(np.maximum(around - 0.12, 1e-12)) + 0.4)
    above = np.where(hand[:, 2] >= floor, 1.0, near(floor - hand[:, 2], 0.01, floor / 2))
    in_place = near(length(hand - door - np.array([0.05, 0.03, -0.01])), 0.06, 0.5)
    angle = door_angle(rows.place, rows.target)
    opened = 0.2 * (angle > np.pi / 90) + 0.8 * near(np.pi / 2 + np.pi / 6 - angle, 0.5, np.pi / 3)
    effort = (np.clip(rows.closing, -1.0, 1.0) + 1) / 2
    reward = 2 * both(both(above, in_place), effort) + 8 * opened
    return np.where(np.abs(rows.place[:, 0] - rows.target[:, 0]) <= 0.08, 10.0, reward)


def _close_door(rows: Rows) -> np.ndarray:
    to_target = length(rows.place - rows.target)
    in_place = near(to_target, 0.05, np.hypot(0.2, 0.2), bell=True)
    hand = near(length(rows.tips - rows.target), 0.0125, length(rows.hand - rows.place) + 0.1, bell=True)
    return np.where(to_target < 0.05, 10.0, 3 * hand + 6 * in_place)


def _slide(rows: Rows, first: tuple[float, float, float], way: float, bell: bool) -> np.ndarray:
    """Slide a window whose handle began at `first`, seen from the target location."""
    in_place = near(np.abs(rows.place[:, 0] - rows.target[:, 0]), 0.05, way - 0.05)
    margin = np.abs(length(rows.target + first - rows.first_tips) - 0.02)
    return 10 * both(near(length(rows.place - rows.tips), 0.02, margin, bell=bell), in_place)


def _turn(rows: Rows, base: tuple[float, float, float], offset: tuple[float, float, float]) -> np.ndarray:
    """Turn a tap whose foot is at `base`, seen from the target location."""
    place = rows.place + offset
    to_target = length(place - rows.target)
    in_place = near(to_target, 0.07, length(np.array(base)) - 0.07)
    margin = np.abs(length(rows.target + base - rows.first_tips) - 0.01)
    reach = near(length(place - rows.tips), 0.01, margin, bell=True)
    return np.where(to_target <= 0.07, 10.0, 4 * reach + 6 * in_place)


# Task -> its formula and where the hand begins.
FORMULAS: dict[str, tuple[Formula, str]] = {
    "reach": (_reach, "middle"),
    "push": (_push, "middle"),
    "pick-place": (_pick_place, "middle"),
    "button-press": (partial(_press, way=_PRESSED), "near"),
    "door-unlock": (_unlock, "middle"),
    "door-open": (_open_door, "middle"),
    "window-open": (partial(_slide, first=(-0.19, -0.095, 0.0), way=0.2, bell=False), "near"),
    "faucet-open": (partial(_turn, base=(-0.175, 0.0, -0.125), offset=(-0.04, 0.0, 0.03)), "near"),
    "coffee-push": (_push_mug, "near"),
    "coffee-button": (partial(_press, way=0.03), "near"),
    "reach-wall": (_reach, "middle"),
    "push-wall": (partial(_around_wall, lift=False), "middle"),
    "pick-place-wall": (partial(_around_wall, lift=True), "middle"),
    "button-press-wall": (_press_over_wall, "near"),
    "door-lock": (_lock, "middle"),
    "door-close": (_close_door, "left"),
    "window-close": (partial(_slide, first=(0.21, -0.095, 0.0), way=0.21, bell=True), "near"),
    "faucet-close": (partial(_turn, base=(0.175, 0.0, -0.125), offset=(0.0, 0.0, 0.0)), "near"),
    "hammer": (_hammer, "near"),
    "soccer": (_kick, "middle"),
}


def own_reward(task: str, actions: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Return a single task's own reward of being in states after actions: (N, 4), (N, 91) -> (N,), 0..10."""
    formula, hand = FORMULAS[task]
    thing = states[:, ENTITY[TASKS[task].entities[0]]]
    return formula(Rows(states, actions[:, 3], thing, _HAND[hand]))
