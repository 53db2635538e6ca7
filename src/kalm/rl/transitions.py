"""The transitions of one set of rollouts, found by index arithmetic.

Nothing is stored per transition beyond the columns of the `RolloutSet` itself, which are read in place (on a
GPU: from one copy there). The rollout of a row is found by bisection; it leads to the state row, the goal and
whether the episode ends there.

::

    rollout       ...  k-1  |            k            |  k+1  ...
    actions            ...  | a(i)   a(i+1) ... a(j)  |        row t of rollout k
    states             ...  | s(i+k) ...  s(j+k) s'   |        its state is row t + k, the next is t + k + 1
    terminal           ...  | 0      0  ...  reached  |        1 only where the goal was reached: after a
                                                               time-out, what follows still has value
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np
import torch

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError


class Columns(NamedTuple):
    """Drawn transitions of one part, before they are joined with goals."""

    before: torch.Tensor  # (n, S)
    after: torch.Tensor  # (n, S)
    goal: torch.Tensor  # (n,) row of the table of goals
    action: torch.Tensor  # (n,) or (n, A)
    reward: torch.Tensor  # (n,)
    terminal: torch.Tensor  # (n,) bool


class TransitionTable:
    """The transitions of one `RolloutSet`, and the draws among them."""

    def __init__(self, rollouts: RolloutSet, first_goal: int, device: str) -> None:
        self.count: int = rollouts.transitions
        self._starts = rollouts.action_starts  # (rollouts,)
        self._cumulative = _cumulative(rollouts)
        self._states = resident(rollouts.states, device)
        self._actions = resident(rollouts.actions, device)
        self._rewards = resident(rollouts.rewards, device)
        self._lengths, self._success = rollouts.lengths, rollouts.success
        self._goal = rollouts.which.astype(np.int64) + first_goal
        self._device = device

    def rows(self, uniform: np.ndarray) -> np.ndarray:
        """Turn numbers in [0, 1) into rows, each as likely as its rollout weighs: (n,) -> (n,) int64."""
        if self._cumulative is None:
            return (uniform * self.count).astype(np.int64)
        place = uniform * self._cumulative[-1]
        owner = np.searchsorted(self._cumulative[1:], place, side="right")
        low, high = self._cumulative[owner], self._cumulative[owner + 1]
        step = ((place - low) / (high - low) * self._lengths[owner]).astype(np.int64)
        return self._starts[owner] + np.minimum(step, self._lengths[owner] - 1)

    def columns(self, rows: np.ndarray) -> Columns:
        """Look up the transitions at these rows."""
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        last = rows == self._starts[owner] + self._lengths[owner] - 1
        row, place = self._tensor(rows), self._tensor(rows + owner)
        return Columns(
            before=self._states.index_select(0, place),
            after=self._states.index_select(0, place + 1),
            goal=self._tensor(self._goal[owner]),
            action=self._actions.index_select(0, row),
            reward=self._rewards.index_select(0, row),
            terminal=self._tensor(last & self._success[owner]),
        )

    def _tensor(self, column: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(column, device=self._device)

    @property
    def nbytes(self) -> int:
        """Memory that the draws need, beside the columns themselves."""
        own = [self._starts, self._goal, *([] if self._cumulative is None else [self._cumulative])]
        return sum(column.nbytes for column in own)


def _cumulative(part: RolloutSet) -> np.ndarray | None:
    """Return the running sum of the rollouts' weights times lengths, 0 first; None where all are equal."""
    weights = part.weights
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise KalmError(
            f"weights of rollouts run from {weights.min()} to {weights.max()}; they must be finite, none "
            "below 0 and not all 0, or nothing can be drawn."
        )
    if (weights == weights[0]).all():
        return None
    return np.concatenate([[0.0], np.cumsum(weights.astype(np.float64) * part.lengths)])


def resident(column: np.ndarray, device: str) -> torch.Tensor:
    """Return the column as a tensor; on the CPU it is the same memory, which nobody writes to."""
    with warnings.catch_warnings():  # columns that were read from a file cannot be written
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.as_tensor(column, device=device)
