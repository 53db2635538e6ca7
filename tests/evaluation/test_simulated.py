"""Rollouts against the simulator, on rollouts whose errors are known by construction."""

from dataclasses import replace

import numpy as np
import pytest

from kalm import envs
from kalm.data.collect import run_expert
from kalm.data.rollouts import RolloutSet
from kalm.data.settings import CollectConfig
from kalm.evaluation.simulated import Agreement, Error, agreement, error_of, random_transitions
from kalm.types import Rollout


@pytest.fixture(scope="module")
def world():
    return envs.make("clevr")


@pytest.fixture(scope="module")
def real(world):
    goals = world.suite("seen")[::180]
    return run_expert(world, goals, CollectConfig(noise=0.5), np.random.default_rng(0))[0]


def test_errors_are_roots_of_means_beside_nothing_moves():
    found = error_of(np.array([1.0, 3.0, 5.0]), np.array([4.0, 4.0, 28.0]), np.array([7, 7, 9]))
    assert found.transitions == 3 and found.model.n == 2, "two rollouts are two draws"
    assert found.model.value == pytest.approx(np.sqrt(3.0))
    assert found.nothing_moves.value == pytest.approx(np.sqrt(12.0))
    assert found.ratio.value == pytest.approx(0.5)
    assert found.model.low <= found.model.value <= found.model.high


def test_nothing_moved_gives_no_ratio():
    assert error_of(np.ones(2), np.zeros(2), np.arange(2)).ratio is None


def test_real_rollouts_do_not_drift(real, world):
    assert real.lengths.max() >= 5
    found = agreement(real, world)
    assert list(found.drift)[:3] == [1, 2, 5] and found.drift[1].n == len(real)
    assert found.drift[5].n == (real.lengths >= 5).sum()
    assert all(size.value < 1e-3 for size in found.drift.values())
    assert found.step.transitions == real.transitions and found.step.ratio.value < 0.2


def test_a_constant_error_is_found_step_by_step(real, world):
    # Every state after the first is imagined one centimetre too far in each of the ten numbers.
    first = np.zeros(len(real.states), bool)
    first[real.state_starts] = True
    off = replace(real, states=np.where(first[:, None], real.states, real.states + 0.01).astype(np.float32))
    assert agreement(off, world).drift[2].value == pytest.approx(0.01, rel=0.02)
    one = off.cut(np.ones(len(off), np.int32))
    assert agreement(one, world).step.model.value == pytest.approx(0.01, rel=0.02)


def test_steps_from_impossible_states_are_left_out(real, world):
    rollout = real[0]
    states = np.tile(rollout.states[:1], (3, 1))
    states[1, 0] = 50.0  # further than the simulator takes
    odd = Rollout(rollout.instruction, states, np.array([0, 0]), np.zeros(2), False, "imagined")
    found = agreement(RolloutSet.from_rollouts(world.spec, [odd]), world)
    assert found.step.transitions == 1 and found.step.model.value > 10
    assert found.drift[1].value > 10


def test_random_transitions_are_the_simulators(world):
    shaken = random_transitions(world, 40, np.random.default_rng(0))
    found = agreement(shaken, world)
    assert len(shaken) == 40 and len(np.unique(shaken.actions)) > 10
    assert found.step.model.value < 1e-6 and found.step.nothing_moves.value > 0.01


def test_json_round_trip(real, world):
    found = agreement(real, world)
    assert Agreement.from_json(found.to_json()) == found
    assert Error.from_json(found.step.to_json()) == found.step
    empty = Agreement(None, {})
    assert Agreement.from_json(empty.to_json()) == empty
