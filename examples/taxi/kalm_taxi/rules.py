"""The rules of Taxi, from Gymnasium's own table, and which goals there are: all that verdicts need.

A state is five numbers (`NAMES`). Only 125 states are possible, so physics, verdicts and the expert are
looked up in tables over them. Imagined states are seldom exactly possible: they count as the nearest one.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from gymnasium.envs.toy_text.taxi import TaxiEnv

from kalm.types import Goal

NAMES = ("taxi_x", "taxi_y", "passenger_x", "passenger_y", "riding")  # fields from the upper left; 0 or 1
STANDS = {"red": (0, 0), "green": (4, 0), "yellow": (0, 4), "blue": (3, 4)}  # x, y
PLACES = np.array(list(STANDS.values()))  # (4, 2)
KINDS = {"drive": ("to",), "collect": (), "carry": ("to",), "deliver": ("to",)}  # kind of goal -> its slots
ACTIONS = 6  # down, up, right, left, pick up, drop off

_TAXI = TaxiEnv()
# Fields (x, y) with a wall on their right; in Gymnasium's drawing a field is every second letter.
WALLS = [(x, y) for y in range(5) for x in range(4) if _TAXI.desc[y + 1, 2 * x + 2] == b"|"]
_TABLE = _TAXI.P  # state number -> action -> [(probability, next state number, reward, over)]
# Every fourth state number: Gymnasium's own destination, which goals replace, is always the first.
NEXT = np.array([[_TABLE[4 * s][a][0][1] // 4 for a in range(ACTIONS)] for s in range(len(_TABLE) // 4)])


def _numbers(state: int) -> tuple[int, ...]:
    taxi, place = (state // 5 % 5, state // 25), state % 5  # place: a stand, or 4 in the taxi
    return (*taxi, *(taxi if place == 4 else PLACES[place]), int(place == 4))


STATES = np.array([_numbers(state) for state in range(len(NEXT))], dtype=np.float64)  # (125, 5)


def nearest(states: np.ndarray) -> np.ndarray:
    """Return the possible state nearest to each: (N, 5) -> (N,) int64, rows of `STATES`."""
    states = np.nan_to_num(states.astype(np.float64))
    x, y = np.clip(np.rint(states[:, :2]), 0, 4).astype(np.int64).T  # (N,) each
    far = np.abs(states[:, None, 2:4] - PLACES).sum(axis=2)  # (N, 4)
    return 25 * y + 5 * x + np.where(states[:, 4] > 0.5, len(PLACES), far.argmin(axis=1))


def meets(goal: Goal) -> np.ndarray:
    """Say which possible states meet a goal: -> (125,) bool."""
    riding = STATES[:, 4] == 1
    if goal.kind == "collect":
        return riding
    taxi, passenger = ((STATES[:, i : i + 2] == STANDS[goal["to"]]).all(axis=1) for i in (0, 2))
    return {"drive": taxi, "carry": taxi & riding, "deliver": passenger & ~riding}[goal.kind]


@cache
def left(goal: Goal) -> np.ndarray:
    """Return how many actions each possible state is from the goal: -> (125,) float64."""
    steps = np.where(meets(goal), 0.0, np.inf)
    while np.isinf(steps).any():
        steps = np.minimum(steps, 1 + steps[NEXT].min(axis=1))
    return steps
