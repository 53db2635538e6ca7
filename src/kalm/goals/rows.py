"""What judges of N goals have in common (`kalm.envs.base.Judge`): one array per fact, a row per goal."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Self

import numpy as np

from kalm.types import Goal


class RowJudge:
    """Verdicts for N goals; a subclass adds `reached` and `reward`, and says which arrays have N rows.

    Args:
        goals: one goal per row.

    Attributes:
        goals: the N goals.
        one_step: (N,) bool, false everywhere unless a subclass says otherwise.
        rows: names of all attributes that are arrays with a row per goal.
    """

    rows: tuple[str, ...] = ("one_step",)

    def __init__(self, goals: Sequence[Goal]) -> None:
        self.goals = tuple(goals)
        self.one_step = np.zeros(len(self.goals), dtype=bool)

    def reached(self, states: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Return the verdict on the states alone: (N, S) twice -> (N,) bool."""
        raise NotImplementedError

    def success(self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Whether each transition reaches its goal; actions are not looked at: -> (N,) bool."""
        return self.reached(states, next_states)

    def violations(self, states: np.ndarray, next_states: np.ndarray) -> dict[str, np.ndarray]:
        """Nothing: what is possible is the same for all goals."""
        return {}

    def take(self, rows: np.ndarray) -> Self:
        """Return the judge of these rows: integer indices (repeats allowed) or an (N,) mask."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        judge = copy(self)
        judge.goals = tuple([self.goals[row] for row in rows.tolist()])
        for name in self.rows:
            setattr(judge, name, getattr(self, name)[rows])
        return judge
