"""Rewards and verdicts from states alone: the one formula for real and imagined rollouts.

All transitions of all rollouts are judged in one call, flat, each with the goal of the rollout that owns it.
"""

from __future__ import annotations

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.envs.base import TOO_LARGE, Judge, World


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
