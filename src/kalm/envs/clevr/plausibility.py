"""What can be on CLEVR-Robot's table and what cannot, told from positions alone.

So imagined states can be measured as well as real ones: a ball beside the table, two balls inside each other,
a step longer than any push makes.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np

from kalm.envs.base import TOO_LARGE
from kalm.envs.clevr.simulator import TABLE_X, TABLE_Y
from kalm.envs.clevr.spec import BALLS, PUSHES

CLOSEST = 0.18  # two centres nearer than this interpenetrate by more than 8 cm
STILL = 1e-3  # a ball that goes no further has not moved
LONGEST_STEP = 0.452  # no ball goes further in one action

_PAIRS = np.array(list(combinations(range(len(BALLS)), 2)))  # (10, 2)


def violations(states: np.ndarray) -> dict[str, np.ndarray]:
    """Name what is impossible in (N, 10) states: -> off_table, interpenetrating, each (N,) bool."""
    balls = _positions(states)
    low, high = np.array([TABLE_X, TABLE_Y]).T  # (2,) each
    # Asked as "not inside" so that a NaN is off the table.
    off = ~((balls >= low) & (balls <= high)).all(axis=(1, 2))
    gaps = balls[:, _PAIRS[:, 0]] - balls[:, _PAIRS[:, 1]]  # (N, 10, 2)
    return {"off_table": off, "interpenetrating": (np.hypot(*gaps.T) < CLOSEST).any(axis=0)}


def motion(states: np.ndarray, actions: np.ndarray, next_states: np.ndarray) -> dict[str, np.ndarray]:
    """Plausibility of N transitions: measure name -> (N,) float32.

    moving_balls: how many balls go more than 1 mm. pushed_moves_most: 1 where no ball goes further than
    the one pushed. step_too_large: 1 where a ball goes further than any push makes it (0.452 m).
    """
    moved = _positions(next_states) - _positions(states)
    lengths = np.hypot(moved[..., 0], moved[..., 1])  # (N, 5)
    pushed = lengths[np.arange(len(lengths)), np.asarray(actions) // len(PUSHES)]  # (N,)
    measures = {
        "moving_balls": (lengths > STILL).sum(axis=1),
        "pushed_moves_most": pushed >= lengths.max(axis=1),
        TOO_LARGE: ~(lengths <= LONGEST_STEP).all(axis=1),
    }
    return {name: np.asarray(values, dtype=np.float32) for name, values in measures.items()}


def _positions(states: np.ndarray) -> np.ndarray:
    """Return ball positions: (N, 10) -> (N, 5, 2) float64."""
    assert states.ndim == 2 and states.shape[1] == 2 * len(BALLS), states.shape
    return np.asarray(states, dtype=np.float64).reshape(-1, len(BALLS), 2)
