"""Following a plan: which of its steps is to be done now, from states alone.

A step that holds needs nothing done; a later one may undo it, and then it is done again. So steps are gone
through in turn, over and over, those that hold are passed by, and none is insisted on for longer than
`World.patience` actions: another one may clear its way. That goes on until the whole goal is reached, which
is not this module's business, or the episode ends. Where all steps hold and it is not reached, because it
asks for more of the same (a gathering is closer than its relations), each has its turn again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kalm.envs.base import Judge, World
from kalm.types import Goal


def fits_scene(
    world: World, plans: Sequence[Sequence[Sequence[Goal]]], states: np.ndarray
) -> list[list[bool]]:
    """Whether a scene has the things of all steps of a plan: the plans of each of N scenes (N, S)."""
    rows = np.array([row for row, of in enumerate(plans) for plan in of for _ in plan], dtype=np.int64)
    goals = [goal for of in plans for plan in of for goal in plan]
    there = iter(world.in_scene(goals, states[rows]).tolist())
    return [[all([next(there) for _ in plan]) for plan in of] for of in plans]


class PlanFollower:
    """N episodes, each with a plan.

    Args:
        world: says which steps hold.
        plans: N sequences of goals of the data, each of at least one.

    Attributes:
        step: (N,) the step that each row is at.
    """

    def __init__(self, world: World, plans: Sequence[Sequence[Goal]]) -> None:
        self.world = world
        self.lengths: np.ndarray = np.array([len(plan) for plan in plans], dtype=np.int64)  # (N,)
        assert (self.lengths > 0).all(), "a plan has at least one step"
        self.first: np.ndarray = np.cumsum(self.lengths) - self.lengths  # (N,) of each plan among all steps
        self.judge: Judge = world.judge([goal for plan in plans for goal in plan])
        self.step: np.ndarray = np.full(len(plans), -1)  # before the first
        self.spent: np.ndarray = np.zeros(len(plans), dtype=np.int64)  # actions on the present step

    def now(self, rows: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Return the step that each of these rows is to do in its state; call it once per action.

        Args:
            rows: (n,) which of the N.
            states: (n, S).

        Returns:
            (n,) number of the step in the row's plan.
        """
        holds = self._holding(rows, states)  # (n, M)
        at, lengths = self.step[rows], self.lengths[rows]
        turn = np.arange(1, holds.shape[1] + 1)
        # The steps in turn, the one after the present first, the present last.
        order = (at[:, None] + turn) % lengths[:, None]  # (n, M)
        there = turn <= lengths[:, None]
        open_ = ~np.take_along_axis(holds, order, axis=1) & there
        undone = open_.any(axis=1)
        open_ = np.where(undone[:, None], open_, there)  # all hold and it still goes on: more of each
        following = order[np.arange(len(rows)), open_.argmax(axis=1)]
        stays = at >= 0
        insists = self.spent[rows][stays] < self.world.patience
        stays[stays] &= (~holds[stays, at[stays]] | ~undone[stays]) & insists
        step = np.where(stays, at, following)
        self.spent[rows] = np.where(step == at, self.spent[rows], 0) + 1
        # A step that is taken up again after all others were passed by has its patience anew.
        self.spent[rows[(step == at) & ~stays]] = 1
        self.step[rows] = step
        return step

    def _holding(self, rows: np.ndarray, states: np.ndarray) -> np.ndarray:
        """Return which steps hold, (n, M) bool; true beyond the end of a plan."""
        longest = int(self.lengths[rows].max())
        there = np.arange(longest) < self.lengths[rows][:, None]  # (n, M)
        flat = (self.first[rows][:, None] + np.arange(longest))[there]
        owner = np.nonzero(there)[0]
        holds = np.ones(there.shape, dtype=bool)
        holds[there] = self.world.holds(self.judge.take(flat), states[owner])
        return holds
