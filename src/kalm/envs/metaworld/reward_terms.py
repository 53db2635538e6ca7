"""What Meta-World's rewards are built of, over rows, and what the gripper's hidden parts are taken for.

The soft limits are the package's (metaworld 3.1.1, `reward_utils`). Its rewards look at fingertips and finger
pads, which the 91 numbers do not hold. Here both follow from hand and opening: pads stand
0.1 * opening - 0.006 apart, in the middle of the hand, where fingers that closed on nothing end 5 mm to
its left; the fingertips hang below it, the more aslant the further out the hand is. The numbers are fitted to
44,000 steps of all tasks. They miss how touching pushes the fingers aside, up to a centimetre, and how the
hand leans as it moves, 1 mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kalm.envs.metaworld.spec import TARGET

LONG_TAIL = 3.0  # sqrt(1 / 0.1 - 1): the long tail is 0.1 at its margin
BELL = np.sqrt(-2.0 * np.log(0.1))  # so is the bell
SETTLED = np.array([0.0044, 0.0008, -0.0495])  # from the hand's starting place to the fingertips' first
# How far left of the hand the fingers' middle is, by opening.
_OPENINGS, _MIDDLES = (0.34, 0.43), (0.005, 0.0)
# From that middle to the fingertips', and what each metre of the hand's place adds to y.
_TIPS, _LEAN = np.array([-0.0002, -0.0043, -0.045]), np.array([0.0043, 0.0104, -0.0064])


def middle(states: np.ndarray) -> np.ndarray:
    """Return how far left of the hand the fingers' middle is: (N, 91) -> (N,) metres."""
    return np.interp(states[:, 3], _OPENINGS, _MIDDLES)


def fingertips(states: np.ndarray) -> np.ndarray:
    """Return the middle between the fingertips: (N, 91) -> (N, 3)."""
    tips = states[:, :3] + _TIPS
    tips[:, 1] += middle(states) + states[:, :3] @ _LEAN
    return tips


def pads(states: np.ndarray, middle: np.ndarray) -> np.ndarray:
    """Return where left and right pad are, by the fingers' middle: (N, 91), (N,) -> (N, 2) values of y."""
    half = (0.1 * states[:, 3] - 0.006) / 2
    return (states[:, 1] + middle)[:, None] + np.stack([half, -half], axis=1)


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
class Rows:
    """What the formulas look at, for N rows of one task.

    Attributes:
        states: (N, 91).
        closing: (N,) the action's gripper effort.
        thing: (N, 7) the task's first entity.
        first_hand: (3,) where the hand begins.
    """

    states: np.ndarray
    closing: np.ndarray
    thing: np.ndarray
    first_hand: np.ndarray

    @property
    def place(self) -> np.ndarray:
        """Where the entity is: (N, 3)."""
        return self.thing[:, :3]

    @property
    def hand(self) -> np.ndarray:
        """(N, 3)."""
        return self.states[:, :3]

    @property
    def opening(self) -> np.ndarray:
        """(N,) of the gripper, 0..1."""
        return self.states[:, 3]

    @property
    def target(self) -> np.ndarray:
        """(N, 3) the target location."""
        return self.states[:, TARGET]

    @property
    def tips(self) -> np.ndarray:
        """(N, 3) the middle between the fingertips."""
        return fingertips(self.states)

    @property
    def first_tips(self) -> np.ndarray:
        """(3,) where it was at the beginning."""
        return self.first_hand + SETTLED
