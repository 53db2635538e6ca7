"""Rewards and verdicts from states alone: the one formula for real and imagined rollouts.

All transitions of all rollouts are judged in one call, flat, each with the goal of the rollout that owns it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.envs.base import TOO_LARGE, Judge, World
from kalm.types import Goal

First = Literal["", "goal", "counterfactual"]
FIRSTS: tuple[First, ...] = get_args(First)


def score(rollouts: RolloutSet, world: World) -> RolloutSet:
    """Return the rollouts with the world's rewards; success: the last transition reaches the goal."""
    rewards = _judge(rollouts, world).reward(*transitions(rollouts))
    return rollouts.with_scores(rewards, reached(rollouts, world)[rollouts.last_action])


def reached(rollouts: RolloutSet, world: World) -> np.ndarray:
    """Whether each transition reaches its rollout's goal: -> (sum(T),) bool."""
    return _judge(rollouts, world).success(*transitions(rollouts))


def until_success(rollouts: RolloutSet, world: World) -> RolloutSet:
    """Cut each rollout after the first transition that reaches its goal, then score it.

    For data from elsewhere, which may go on after success. Rollouts that never reach their goal stay whole.
    """
    hits = np.flatnonzero(reached(rollouts, world))
    # Of several hits of one rollout the first is written last, so it stays.
    lengths = rollouts.lengths.copy()
    owner = rollouts.owner[hits][::-1]
    lengths[owner] = hits[::-1] - rollouts.action_starts[owner] + 1
    return score(rollouts.cut(lengths), world)


def one_step(rollouts: RolloutSet, world: World) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts on the action, and on the change of state alone, of the M rollouts of one-step goals.

    The verdict on a one-step goal looks at the action, so a rollout can do the right thing and show the wrong
    outcome, or the reverse.

    Returns:
        (M,) bool each, in the order of the rollouts.
    """
    judge = world.judge([instruction.goal for instruction in rollouts.instructions])
    rows = np.flatnonzero(judge.one_step[rollouts.which])
    judge, first = judge.take(rollouts.which[rows]), rollouts.action_starts[rows]
    before, actions, after = (part[first] for part in transitions(rollouts))
    return judge.success(before, actions, after), judge.reached(before, after)


def fulfilled(rollouts: RolloutSet, world: World) -> np.ndarray:
    """Whether each rollout reaches its goal, by its states too where the goal is one step: -> (N,) bool."""
    judge = world.judge([instruction.goal for instruction in rollouts.instructions])
    done = rollouts.success.copy()
    done[judge.one_step[rollouts.which]] &= one_step(rollouts, world)[1]
    return done


def first_true(rollouts: RolloutSet, world: World) -> np.ndarray:
    """Tell what comes true first in each rollout: its goal, or a counterfactual of that goal.

    The share of ``"goal"`` among both is *goal first*. Whoever does not understand which of them is asked for
    reaches each equally often, whatever the match rate: with k counterfactuals chance is 1 / (k + 1).

    Unusual: what says nothing about understanding counts on neither side, so that chance stays there. That is
    where both come true with the same transition, and where one of them holds in the initial state already:
    nobody brought that about, and the episode loop judges no initial state.

    Returns:
        (N,) str, each a `First`: empty also where neither comes true, or the goal has no counterfactual.
    """
    goals = [instruction.goal for instruction in rollouts.instructions]
    rivals = [world.counterfactuals(goal) for goal in goals]
    compared = [(goal,) if found else () for goal, found in zip(goals, rivals, strict=True)]
    goal_at, goal_held = _comes_true(rollouts, world, compared)
    rival_at, rival_held = _comes_true(rollouts, world, rivals)
    which = np.select([goal_held | rival_held, goal_at < rival_at, rival_at < goal_at], [0, 1, 2], 0)
    return np.array(FIRSTS)[which]


def ends_with(rollouts: RolloutSet, world: World, goals: Sequence[Goal]) -> np.ndarray:
    """Whether each of these goals comes true with each rollout's last action, and never before: -> (N, U)."""
    judge, steps = world.judge(goals), transitions(rollouts)
    first = np.empty((len(rollouts), len(goals)), dtype=bool)
    for number in range(len(goals)):
        hits = judge.take(np.full(rollouts.transitions, number)).success(*steps)  # (sum(T),)
        count = np.add.reduceat(hits, rollouts.action_starts, dtype=np.int64)
        first[:, number] = hits[rollouts.last_action] & (count == 1)
    return first


def _comes_true(
    rollouts: RolloutSet, world: World, wanted: Sequence[tuple[Goal, ...]]
) -> tuple[np.ndarray, np.ndarray]:
    """Find when the first of several goals comes true, given a tuple of them per instruction.

    Returns:
        (N,) int64 row of that transition, or the number of all transitions where none does; (N,) bool, one
        holds in the initial state.
    """
    at, held = np.full(len(rollouts), rollouts.transitions), np.zeros(len(rollouts), dtype=bool)
    before, actions, after = transitions(rollouts)
    for place in range(max(map(len, wanted), default=0)):
        having = np.array([len(goals) > place for goals in wanted])  # (instructions,)
        judge, row = (
            world.judge([goals[place] for goals in wanted if len(goals) > place]),
            having.cumsum() - 1,
        )
        mine = np.flatnonzero(having[rollouts.which])
        start = rollouts.first_states[mine]
        held[mine] |= judge.take(row[rollouts.which[mine]]).reached(start, start)
        steps = np.flatnonzero(having[rollouts.which[rollouts.owner]])
        asked = judge.take(row[rollouts.which[rollouts.owner[steps]]])
        hits = steps[asked.success(before[steps], actions[steps], after[steps])]
        np.minimum.at(at, rollouts.owner[hits], hits)
    return at, held


def impossible(rollouts: RolloutSet, world: World) -> dict[str, np.ndarray]:
    """Find steps that the world cannot make: measure -> (sum(T),) bool."""
    before, actions, after = transitions(rollouts)
    flags = world.violations(after) | _judge(rollouts, world).violations(before, after)
    motion = world.motion(before, actions, after)
    if TOO_LARGE in motion:
        flags[TOO_LARGE] = motion[TOO_LARGE] > 0
    return flags


def possible(rollouts: RolloutSet, world: World) -> np.ndarray:
    """Whether each rollout has no such step: -> (N,) bool."""
    found = np.ones(len(rollouts), dtype=bool)
    for flag in impossible(rollouts, world).values():
        found[rollouts.owner[flag]] = False
    return found


def violated(rollouts: RolloutSet, world: World) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Find what is impossible after actions: measure -> (N,) rollouts with any, (sum(T),) states with it."""
    flags = world.violations(rollouts.states[rollouts.before + 1])
    return {
        name: (np.bincount(rollouts.owner[found], minlength=len(rollouts)) > 0, found)
        for name, found in flags.items()
    }


def transitions(rollouts: RolloutSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return states (sum(T), S), actions (sum(T),) or (sum(T), A) and next states (sum(T), S)."""
    return rollouts.states[rollouts.before], rollouts.actions, rollouts.states[rollouts.before + 1]


def _judge(rollouts: RolloutSet, world: World) -> Judge:
    """Judge of all transitions; goals are compiled once per instruction."""
    judge = world.judge([instruction.goal for instruction in rollouts.instructions])
    return judge.take(rollouts.which[rollouts.owner])
