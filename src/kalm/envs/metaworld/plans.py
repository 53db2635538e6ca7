"""What a task of Meta-World is made of, in tasks of the data, and what it is mistaken for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kalm.envs.metaworld.goals import STAGES, MetaWorldJudge
from kalm.envs.metaworld.spec import ENTITY, TASKS
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


def goal_of(steps: Sequence[Goal]) -> Goal | None:
    """Return the task that tasks of the data make up, in this order: one itself, or a composed one."""
    if len(steps) == 1:
        return steps[0]
    return next((Goal.of(name) for name in STAGES if plan_of(Goal.of(name)) == tuple(steps)), None)


def in_scene(goals: Sequence[Goal], states: np.ndarray) -> np.ndarray:
    """Whether all things of each task are there: N tasks, (N, 91) -> (N,) bool."""
    tasks = np.array([goal.kind for goal in goals])
    found = np.zeros(len(goals), dtype=bool)
    for name in set(tasks.tolist()):
        mine = tasks == name
        found[mine] = _has_things(name, states[mine])
    return found


def moved_on(goals: Sequence[Goal], states: np.ndarray) -> np.ndarray:
    """Whether the target location is that of the second task of two, of which each goal is the first.

    Args:
        goals: N tasks.
        states: (N, 91); whether both tasks' things are there tells whether the task is a composed one.

    Returns:
        (N,) bool.
    """
    found = np.zeros(len(goals), dtype=bool)
    for name, stages in STAGES.items():
        there = _has_things(name, states)
        mine = np.array([goal.kind == stages.tasks[0] for goal in goals], dtype=bool) & there
        judge = MetaWorldJudge([Goal.of(name)] * int(mine.sum()))
        found[mine] = judge.stage(states[mine]) == 1
    return found


def _has_things(task: str, states: np.ndarray) -> np.ndarray:
    """Whether all things of a task are there; those that are not are zeros: (N, 91) -> (N,) bool."""
    return np.all([states[:, ENTITY[thing]].any(axis=1) for thing in TASKS[task].entities], axis=0)
