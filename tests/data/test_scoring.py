"""Scoring against the plainest loop: one judge call per transition."""

import numpy as np
import pytest
from corridor import Corridor
from hypothesis import given
from hypothesis import strategies as st
from sets import assert_same

from kalm import envs
from kalm.data.rollouts import RolloutSet
from kalm.data.scoring import score, until_success
from kalm.types import Rollout


def slow(rollouts, world, first_only=False):
    """Score and cut with a loop over transitions."""
    scored = []
    for rollout in rollouts:
        judge = world.judge([rollout.instruction.goal])
        rewards, hits = [], []
        for step in range(len(rollout.actions)):
            transition = (
                rollout.states[step : step + 1],
                rollout.actions[step : step + 1],
                rollout.states[step + 1 : step + 2],
            )
            rewards.append(judge.reward(*transition)[0])
            hits.append(bool(judge.success(*transition)[0]))
        end = hits.index(True) + 1 if first_only and True in hits else len(hits)
        scored.append(
            Rollout(
                rollout.instruction,
                rollout.states[: end + 1],
                rollout.actions[:end],
                np.array(rewards[:end]),
                hits[end - 1],
                rollout.source,
            )
        )
    return RolloutSet.from_rollouts(rollouts.spec, scored)


def wander(world, lengths, seed):
    """Random actions in the world from its initial states; rewards and success are nonsense."""
    rng, spec = np.random.default_rng(seed), world.spec
    instructions = [i for level in ("seen", "easy", "hard") for i in world.suite(level)]
    rollouts = []
    for length in lengths:
        instruction = instructions[rng.integers(len(instructions))]
        simulator = world.simulator(1)
        states = [simulator.reset([instruction.goal], [int(rng.integers(2**40))])[0]]
        discrete = spec.action_kind == "discrete"
        shape = (length,) if discrete else (length, spec.action_size)
        actions = rng.integers(0, spec.action_size, shape) if discrete else rng.uniform(-1, 1, shape)
        states += [simulator.step(actions[t : t + 1])[0] for t in range(length)]
        simulator.close()
        rollouts.append(
            Rollout(instruction, np.array(states), actions, np.full(length, 7.0), True, "imagined")
        )
    return RolloutSet.from_rollouts(spec, rollouts)


@given(st.lists(st.integers(1, 6), max_size=8), st.integers(0, 99))
def test_corridor(lengths, seed):
    world = Corridor()
    rollouts = wander(world, lengths, seed)
    assert_same(score(rollouts, world), slow(rollouts, world))
    assert_same(until_success(rollouts, world), slow(rollouts, world, first_only=True))


def test_clevr():
    world = envs.make("clevr")
    rollouts = wander(world, [1, 2, 5, 9, 20] * 6, seed=3)
    plain, cut = slow(rollouts, world), slow(rollouts, world, first_only=True)
    assert cut.success.any() and cut.transitions < plain.transitions  # the comparison sees both cases
    assert_same(score(rollouts, world), plain)
    assert_same(until_success(rollouts, world), cut)


def test_by_hand():
    """Two walkers to the right: one arrives (0.8 counts) and goes on, one never does."""
    world = Corridor(ends=("right",))
    walk = world.suite("seen")[0]
    zeros = np.zeros(3)
    paths = [np.array([0.5, 0.75, 0.9, 0.5]), np.array([0.0, 0.25, 0.25, 0.5])]
    rollouts = RolloutSet.from_rollouts(
        world.spec,
        [Rollout(walk, np.stack([x, 0 * x], 1), np.zeros((3, 2)), zeros, True, "real") for x in paths],
    )
    assert score(rollouts, world).success.tolist() == [False, False]
    cut = until_success(rollouts, world)
    assert cut.lengths.tolist() == [2, 3]
    assert cut.success.tolist() == [True, False]
    assert cut.rewards == pytest.approx([0.25, 0.15, 0.25, 0.0, 0.25])
