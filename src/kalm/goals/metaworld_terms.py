"""Building blocks of Meta-World's rewards, over rows, and what the hidden parts of the gripper are taken for.

The formulas are the package's (metaworld 3.1.1, `reward_utils` and `_gripper_caging_reward`). They look at
fingertips and finger pads, which the 91 numbers do not hold. Here both follow from the hand and the opening:
pads stand 0.1 * opening - 0.006 apart, in the middle of the hand; fingers that close on nothing end 5 mm to
its left. Measured on 44,000 steps of all tasks, the middle is right to 2.4 mm (standard deviation): what is
missed are fingers pushed aside by what they touch, and how the gripper leans while it moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kalm.goals.metaworld_tasks import GRIPPER

LONG_TAIL = 3.0  # sqrt(1 / 0.1 - 1): the long tail is 0.1 at its margin
BELL = np.sqrt(-2.0 * np.log(0.1))  # so is the bell
# The middle between the fingers, left of the hand, by opening.
_OPENINGS, _MIDDLES = (0.33, 0.5), (0.005, 0.0)
_TIPS = np.array([-0.0002, 0.0003, -0.045])  # from the middle between the pads to that of the fingertips


def middle(states: np.ndarray) -> np.ndarray:
    """Return how far left of the hand the fingers' middle is: (N, 91) -> (N,) metres."""
    return np.interp(states[:, GRIPPER][:, 3], _OPENINGS, _MIDDLES)


def fingertips(states: np.ndarray) -> np.ndarray:
    """Return the middle between the fingertips: (N, 91) -> (N, 3)."""
    tips = states[:, :3] + _TIPS
    tips[:, 1] += middle(states)
    return tips


def pads(states: np.ndarray) -> np.ndarray:
    """Return where left and right finger pad are across the hand: (N, 91) -> (N, 2) values of y."""
    half = (0.1 * states[:, GRIPPER][:, 3] - 0.006) / 2
    return (states[:, 1] + middle(states))[:, None] + np.stack([half, -half], axis=1)


def length(vectors: np.ndarray) -> np.ndarray:
    """Lengths of vectors: (..., D) -> (...)."""
    return np.sqrt(np.square(vectors).sum(axis=-1))


def near(
    x: np.ndarray, high: float, margin: np.ndarray | float, low: float = 0.0, bell: bool = False
) -> np.ndarray:
    """1 where x is within [low, high], falling to 0.1 at `margin` outside (a long tail, or a bell)."""
    outside = np.where(x < low, low - x, x - high)
    steps = np.divide(outside, margin, out=np.full_like(outside, np.inf), where=np.asarray(margin) > 0)
    tail = np.exp(-0.5 * (steps * BELL) ** 2) if bell else 1.0 / ((steps * LONG_TAIL) ** 2 + 1.0)
    return np.where((low <= x) & (x <= high), 1.0, tail)


def both(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamacher product: a and b in 0..1 -> 0..1, a soft "and"."""
    total = a + b - a * b
    return np.divide(a * b, total, out=np.zeros_like(total), where=total > 0)


@dataclass(frozen=True)
class Grasp:
    """What counts as a thing between the fingers.

    Attributes:
        radius: pads nearer than this to its middle are too near, metres.
        reach: pads further than this are too far.
        level: the fingertips are beside it and as high to within this.
        effort: how hard the fingers must close.
        dense: also rewards what is about to be a grasp: ``"high"`` the caging, ``"medium"`` the approach.
        near: the fingertips are at it, for ``"medium"``.
    """

    radius: float
    reach: float
    level: float
    effort: float = 1.0
    dense: str = ""
    near: float = 0.0


def grasped(
    how: Grasp,
    states: np.ndarray,
    closing: np.ndarray,
    thing: np.ndarray,
    start: np.ndarray,
    tips: np.ndarray,
) -> np.ndarray:
    """How well the fingers hold a thing: -> (N,) in 0..1.

    Args:
        how: what counts.
        states: (N, 91).
        closing: (N,) the action's gripper effort.
        thing: (N, 3) where it is.
        start: (N, 3) where it was when the episode began.
        tips: (3,) where the fingertips were.
    """
    fingers = pads(states)  # (N, 2)
    margin = np.abs(np.abs(fingers - start[:, 1:2]) - how.reach)
    sides = near(np.abs(fingers - thing[:, 1:2]), how.reach, margin, how.radius)
    caged = _caged(how.level, sides, states, thing, start, tips)
    gripping = np.where(caged > 0.97, np.clip(closing, 0.0, how.effort) / how.effort, 0.0)
    held = both(caged, gripping)
    if how.dense == "high":
        return (held + caged) / 2
    if how.dense == "medium":
        far = np.abs(length(start - tips) - how.near)
        return (held + near(length(thing - fingertips(states)), how.near, far)) / 2
    return held


def sided(
    states: np.ndarray, thing: np.ndarray, start: np.ndarray, tips: np.ndarray, tight: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """As the caging of `grasped`, where each finger must be on its own side: -> caged (N,), tight (N,).

    Its margins follow the pads: the package compares with where the pads began, but keeps a view of where
    they are.

    Args:
        states: (N, 91).
        thing: (N, 3) where it is.
        start: (N, 3) where it was when the episode began.
        tips: (3,) where the fingertips were.
        tight: pads nearer than this to its middle grip it.
    """
    radius, reach = (0.013, 0.05) if tight else (0.015, 0.05)
    gaps = (pads(states) - thing[:, 1:2]) * np.array([1.0, -1.0])  # (N, 2)
    margin = np.abs(np.abs(gaps) - reach)
    caged = _caged(0.005, near(gaps, reach, margin, radius), states, thing, start, tips)
    return caged, both(*near(gaps, tight, margin, radius).T)


def _caged(
    level: float,
    sides: np.ndarray,
    states: np.ndarray,
    thing: np.ndarray,
    start: np.ndarray,
    tips: np.ndarray,
) -> np.ndarray:
    """Both pads in place (N, 2) and the fingertips level with the thing: -> (N,)."""
    flat = [0, 2]
    apart = length((fingertips(states) - thing)[:, flat])
    level_now = near(apart, level, length((start - tips)[:, flat]) - level)
    return both(both(*sides.T), level_now)
