"""What a task of Meta-World is made of, in tasks of the data, and what it is mistaken for."""

from __future__ import annotations

from kalm.envs.metaworld.goals import STAGES
from kalm.envs.metaworld.spec import TASKS
from kalm.types import Goal

WALL = "-wall"  # ends the name of a task with an obstacle


def counterfactuals(goal: Goal) -> tuple[Goal, ...]:
    """Return the other tasks on the same things."""
    things = set(TASKS[goal.kind].entities)
    return tuple(
        Goal.of(task.name)
        for task in TASKS.values()
        if set(task.entities) == things and task.name != goal.kind
    )


def plan_of(goal: Goal) -> tuple[Goal, ...]:
    """Return the tasks of the data that make up a task; none where it needs a skill that they lack."""
    names = STAGES[goal.kind].tasks if goal.kind in STAGES else (goal.kind.removesuffix(WALL),)
    return tuple(map(Goal.of, names)) if all("seen" in TASKS[name].levels for name in names) else ()
