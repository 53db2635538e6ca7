"""What a task of Meta-World is made of, in tasks of the data, and what it is mistaken for."""

from __future__ import annotations

from kalm.envs.metaworld.goals import STAGES
from kalm.envs.metaworld.spec import TASKS
from kalm.types import Goal

WALL = "-wall"  # ends the name of a task with an obstacle


def counterfactuals(goal: Goal) -> tuple[Goal, ...]:
    """Return none, for any task.

    A task is met where its thing lies at the target location, which is a part of the state and the goal's
    own: a door that is to be opened and one that is to be closed are both met where it is shown. Whatever is
    done, another task on the same things comes true with the one that is asked for, or never.
    """
    return ()


def plan_of(goal: Goal) -> tuple[Goal, ...]:
    """Return the tasks of the data that make up a task; none where it needs a skill that they lack."""
    names = STAGES[goal.kind].tasks if goal.kind in STAGES else (goal.kind.removesuffix(WALL),)
    return tuple(map(Goal.of, names)) if all("seen" in TASKS[name].levels for name in names) else ()
