"""Ways round what is in the way: where an imagined step cannot be, a rollout goes back and tries another way.

A model that was never shown an obstacle walks through it. Where the world finds the next state impossible
(`kalm.data.score.cannot_be`) the rollout goes back some steps, further each time, takes one uniformly random
action for a while, and lets the model go on from there. What is kept of such tries are those that reach their
goal, so they show ways round. Going back first matters: a rollout that turns only at the obstacle would
teach to run into it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kalm.types import WorldSpec

BACK = 3, 2  # the n-th detour of a row begins less than so many, and n times so many, steps earlier
LONG = 4, 13  # steps that it keeps to its action: from, and less than


class Detours:
    """The detours of N rows; what a row does depends on its own seed alone.

    Args:
        spec: the world.
        seeds: N seeds.
        most: largest number of detours per row.

    Attributes:
        left: (N,) how many a row may still make.
    """

    def __init__(self, spec: WorldSpec, seeds: Sequence[int] | np.ndarray, most: int) -> None:
        n, self.spec = len(seeds), spec
        discrete = spec.action_kind == "discrete"
        self.draws = [np.random.default_rng([3, int(seed)]) for seed in seeds]
        self.most, self.left = most, np.full(n, most)  # (N,)
        self.steps = np.zeros(n, np.int64)  # (N,) steps that the present one still lasts
        shape, kind = ((n,), np.int64) if discrete else ((n, spec.action_size), np.float32)
        self.action = np.zeros(shape, kind)  # (N,) or (N, A)

    def follow(self, rows: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Put in the actions of rows that are on a detour: (n,) or (n, A) -> the same."""
        going = self.steps[rows] > 0
        self.steps[rows] -= going
        actions = actions.copy()
        actions[going] = self.action[rows[going]]
        return actions

    def begin(self, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
        """Begin a detour in these rows, which stand at these steps: -> (n,) the steps that it begins at."""
        self.left[rows] -= 1
        return np.array([self._turn(row, step) for row, step in zip(rows, at, strict=True)])

    def _turn(self, row: int, at: int) -> int:
        draw, count = self.draws[row], self.spec.action_size
        self.steps[row] = draw.integers(*LONG)
        discrete = self.spec.action_kind == "discrete"
        self.action[row] = draw.integers(count) if discrete else draw.uniform(-1, 1, count)
        return max(0, at - draw.integers(BACK[0] + BACK[1] * (self.most - self.left[row])))
