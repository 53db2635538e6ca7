"""Rollouts that turn back from what cannot be and try another way."""

import numpy as np
import pytest
import torch

from kalm.data.score import possible
from kalm.envs.base import TOO_LARGE
from kalm.envs.clevr import ClevrWorld
from kalm.errors import KalmError
from kalm.lm import sft
from kalm.lm.detours import LONG, Detours
from kalm.lm.generate import Sampling, imagine


class Fenced(ClevrWorld):
    """Every other action leads where nothing can be."""

    def violations(self, states):
        return {}

    def motion(self, states, actions, next_states):
        return {TOO_LARGE: (actions % 2).astype(np.float32)}


@pytest.fixture
def forgetful(config, world, rollouts):
    model = sft.fresh(config.model_copy(update={"memory": False}), world, 0, "cpu")
    model.fit_scales(rollouts)
    return model.eval().double()


def test_a_row_keeps_to_one_random_action_for_a_while(world):
    detours, rows = Detours(world.spec, range(6), 3), np.arange(6)
    own = np.full(6, 99)
    assert (detours.follow(rows, own) == own).all()
    detours.begin(rows[::2], np.full(3, 10))
    taken = np.array([detours.follow(rows, own) for _ in range(LONG[1])])  # (steps, 6)
    assert (taken[:, 1::2] == 99).all()
    for row in (0, 2, 4):
        length = int((taken[:, row] != 99).sum())
        assert LONG[0] <= length < LONG[1]
        assert len(set(taken[:length, row])) == 1 and (taken[length:, row] == 99).all()
    assert detours.left.tolist() == [2, 3, 2, 3, 2, 3]


def test_it_goes_back_further_each_time_by_its_own_seed_alone(world):
    starts = np.arange(400)
    many = Detours(world.spec, starts, 3)
    back = np.array([50 - many.begin(starts, np.full(400, 50)) for _ in range(3)])  # (3, 400)
    assert back.min() == 0 and back.max(axis=1).tolist() == [4, 6, 8]
    alone = Detours(world.spec, [7], 3)
    assert [50 - alone.begin(np.array([0]), np.array([50]))[0] for _ in range(3)] == back[:, 7].tolist()
    assert (many.begin(starts, np.ones(400, np.int64)) >= 0).all()


def test_continuous_actions_are_vectors_in_range():
    from kalm.goals.metaworld_tasks import SPEC

    detours = Detours(SPEC, range(5), 1)
    detours.begin(np.arange(5), np.full(5, 3))
    actions = detours.follow(np.arange(5), np.zeros((5, 4), np.float32))
    assert actions.shape == (5, 4) and actions.dtype == np.float32
    assert (np.abs(actions) <= 1).all() and (actions != 0).all()


def test_imagined_rollouts_get_round_what_cannot_be(forgetful, rows):
    world, seeds = Fenced(), range(len(rows))
    straight = imagine(forgetful, world, rows, seeds, horizon=5).rollouts
    assert not possible(straight, world).all()
    turning = imagine(forgetful, world, rows, seeds, horizon=5, sampling=Sampling(detours=60)).rollouts
    assert possible(turning, world).all() and turning.lengths.max() == 5
    # What was possible from the beginning stays as it was.
    for one, two, kept in zip(straight, turning, possible(straight, world), strict=True):
        assert not kept or np.array_equal(one.actions, two.actions)
    # States follow from the actions that are told, without gaps where a rollout went back.
    now, after = (torch.from_numpy(turning.states[turning.before + i]).double() for i in (0, 1))
    with torch.inference_mode():
        again = forgetful.next_states(None, now, torch.from_numpy(turning.actions))
    assert torch.allclose(again, after, atol=1e-5)


def test_who_has_no_detour_left_goes_on_and_the_batch_size_changes_nothing(forgetful, rows):
    settings = {"horizon": 5, "sampling": Sampling(temperature=1.0, detours=1)}
    whole = imagine(forgetful, Fenced(), rows, range(len(rows)), **settings).rollouts
    single = imagine(forgetful, Fenced(), rows, range(len(rows)), batch=1, **settings).rollouts
    assert np.array_equal(whole.actions, single.actions) and np.array_equal(whole.lengths, single.lengths)
    assert not possible(whole, Fenced()).all()


def test_a_model_that_remembers_cannot_go_back(model, world, rows):
    with pytest.raises(KalmError, match="ground.memory=false"):
        imagine(model, world, rows, range(len(rows)), sampling=Sampling(detours=1))
