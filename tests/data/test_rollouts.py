"""The columnar set against plain loops over single rollouts."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sets import INSTRUCTIONS, SPECS, assert_same, make, ragged

from kalm.data.rollouts import RolloutSet
from kalm.data.validation import require_valid
from kalm.envs.rollout import EpisodeRecorder


@given(ragged())
def test_single_rollouts_rebuild_the_set(rollouts):
    require_valid(rollouts)
    assert_same(RolloutSet.from_rollouts(rollouts.spec, list(rollouts)), rollouts)


@given(ragged(min_size=1), st.data())
def test_take_equals_picking_one_by_one(rollouts, data):
    rows = data.draw(st.lists(st.integers(0, len(rollouts) - 1), max_size=12))
    picked = RolloutSet.from_rollouts(rollouts.spec, [rollouts[row] for row in rows])
    taken = rollouts.take(np.array(rows, dtype=int))
    assert_same(taken, picked)
    assert set(taken.instructions) == set(picked.instructions)


@given(ragged())
def test_take_by_mask(rollouts):
    mask = rollouts.lengths % 2 == 0
    assert_same(
        rollouts.take(mask),
        RolloutSet.from_rollouts(rollouts.spec, [r for r in rollouts if len(r.actions) % 2 == 0]),
    )


@given(st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=4))
def test_concat_equals_joined_lists(parts):
    sets = [make(SPECS["discrete"], lengths, seed) for seed, lengths in enumerate(parts)]
    joined = [rollout for part in sets for rollout in part]
    assert_same(RolloutSet.concat(sets), RolloutSet.from_rollouts(SPECS["discrete"], joined))


@given(ragged(min_size=1), st.integers(0, 5))
def test_cut_equals_slicing_one_by_one(rollouts, seed):
    lengths = np.random.default_rng(seed).integers(1, rollouts.lengths + 1)
    cut = rollouts.cut(lengths)
    require_valid(cut)
    for before, after, length in zip(rollouts, cut, lengths, strict=True):
        assert np.array_equal(after.states, before.states[: length + 1])
        assert np.array_equal(after.actions, before.actions[:length])
        assert np.array_equal(after.rewards, before.rewards[:length])


@given(ragged())
def test_indices_equal_loops(rollouts):
    before, owner, last = [], [], []
    for index, rollout in enumerate(rollouts):
        start = sum(len(r.states) for r in list(rollouts)[:index])
        before += [start + step for step in range(len(rollout.actions))]
        owner += [index] * len(rollout.actions)
        last.append(len(owner) - 1)
    assert rollouts.before.tolist() == before
    assert rollouts.owner.tolist() == owner
    assert rollouts.last_action.tolist() == last
    assert rollouts.state_owner.tolist() == [i for i, r in enumerate(rollouts) for _ in r.states]
    assert np.array_equal(
        rollouts.first_states, [r.states[0] for r in rollouts] or np.zeros((0, rollouts.spec.state_size))
    )


def test_split_shares_out_every_rollout_once():
    rollouts = make(SPECS["discrete"], range(1, 11))  # lengths tell the rollouts apart
    kept, held = rollouts.split(0.3, np.random.default_rng(0))
    assert (len(kept), len(held)) == (7, 3)
    assert sorted([*kept.lengths, *held.lengths]) == list(range(1, 11))


def test_one_rollout_by_hand():
    rollouts = make(SPECS["discrete"], [2, 3])
    assert rollouts.transitions == 5
    assert len(rollouts.states) == 7
    assert np.array_equal(rollouts[1].states, rollouts.states[3:7])
    assert np.array_equal(rollouts[-1].actions, rollouts.actions[2:5])


@given(ragged(min_size=1))
def test_a_record_loses_its_padding_and_nothing_else(rollouts):
    rollouts = replace(
        rollouts, weights=np.ones(len(rollouts), np.float32), source=np.ones_like(rollouts.source)
    )
    n, horizon = len(rollouts), int(rollouts.lengths.max()) + 2
    record = EpisodeRecorder(rollouts.spec, n, horizon)
    record.states[:], record.rewards[:] = np.nan, np.nan
    record.lengths[:], record.success[:] = rollouts.lengths, rollouts.success
    for row, rollout in enumerate(rollouts):
        count = len(rollout.actions)
        record.states[row, : count + 1], record.rewards[row, :count] = rollout.states, rollout.rewards
        record.actions[row, :count] = rollout.actions
    texts = [rollout.instruction for rollout in rollouts]
    grid = RolloutSet.from_recorder(texts, record, "imagined")
    require_valid(grid)
    assert_same(grid, rollouts)


def test_weights_are_one_unless_given():
    rollouts = make(SPECS["discrete"], [2, 3])
    columns = {name: column for name, column in vars_of(rollouts).items() if name != "weights"}
    assert np.array_equal(RolloutSet(**columns).weights, np.ones(2, np.float32))


def test_stats_by_hand():
    rollouts = make(SPECS["discrete"], [2, 4, 6])
    seen, hard, _ = INSTRUCTIONS
    rollouts = RolloutSet(
        **{
            **vars_of(rollouts),
            "instructions": (seen, hard),
            "which": np.array([0, 1, 1], np.int32),
            "success": np.array([True, False, True]),
            "source": np.array([0, 0, 1], np.int8),
        }
    )
    assert rollouts.stats() == {
        "rollouts": 3,
        "success": pytest.approx(2 / 3),
        "actions": 4.0,
        "transitions": 12,
        "instructions": 2,
        "levels": {
            "hard": {"rollouts": 2, "success": 0.5, "actions": 5.0},
            "seen": {"rollouts": 1, "success": 1.0, "actions": 2.0},
        },
        "sources": {
            "imagined": {"rollouts": 1, "success": 1.0, "actions": 6.0},
            "real": {"rollouts": 2, "success": 0.5, "actions": 3.0},
        },
    }


def vars_of(rollouts):
    return {name: getattr(rollouts, name) for name in rollouts.__dataclass_fields__}
