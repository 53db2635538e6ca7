import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError
from kalm.rl.batch import TransitionBatch
from kalm.rl.buffer import MixedBuffer
from kalm.types import Rollout


@pytest.fixture(scope="module")
def sets(line):
    return line.rollouts(30), line.rollouts(11, "imagined", 1, "rephrase")


def build(sets, encoder, mix=0.5, seed=0):
    return MixedBuffer(*sets, encoder, mix, np.random.default_rng(seed))


def arrays(buffer, rows):
    """The transitions at these rows as arrays."""
    return TransitionBatch(*(column.numpy() for column in buffer.gather(rows).columns()))


def test_hand_made_transitions(line, encoder):
    red, blue = line.instruction("red"), line.instruction("blue")
    states = np.arange(15, dtype=np.float32).reshape(5, 3)
    reached = Rollout(red, states[:3], np.array([4, 2]), np.array([0.5, 9], np.float32), True, "real")
    timed_out = Rollout(blue, states[3:], np.array([6]), np.array([-1], np.float32), False, "real")
    data = RolloutSet.from_rollouts(line.spec, [reached, timed_out])
    batch = arrays(build((data, None), encoder), np.array([2, 0, 1]))
    vectors = encoder.encode([blue.text, red.text, red.text])
    np.testing.assert_array_equal(batch.observations, np.hstack([states[[3, 0, 1]], vectors]))
    np.testing.assert_array_equal(batch.next_observations, np.hstack([states[[4, 1, 2]], vectors]))
    assert batch.actions.tolist() == [[6], [4], [2]]
    assert batch.rewards.tolist() == [[-1], [0.5], [9]] and batch.terminals.tolist() == [[0], [0], [1]]


def test_every_row_agrees_with_a_loop_over_rollouts(sets, encoder):
    buffer = build(sets, encoder)
    batch = arrays(buffer, np.arange(buffer.transition_count))
    row = 0
    for rollout in (*sets[0], *sets[1]):
        goal = encoder.encode([rollout.instruction.text])[0]
        for t, action in enumerate(rollout.actions):
            last = t == len(rollout.actions) - 1
            assert (batch.observations[row] == np.append(rollout.states[t], goal)).all()
            assert (batch.next_observations[row] == np.append(rollout.states[t + 1], goal)).all()
            assert batch.actions[row, 0] == action and batch.rewards[row, 0] == rollout.rewards[t]
            assert batch.terminals[row, 0] == (last and rollout.success)
            row += 1
    assert row == buffer.transition_count == len(batch)


def test_goal_vectors_are_shaken_as_asked_and_always_alike(sets, encoder):
    plain = build(sets, encoder)
    rows, size = np.arange(plain.transition_count), plain.spec.state_size
    true = arrays(plain, rows).observations
    shaken, again = (
        MixedBuffer(*sets, encoder, 0.5, np.random.default_rng(0), goal_noise=0.5) for _ in range(2)
    )
    found = arrays(shaken, rows)
    np.testing.assert_array_equal(found.observations, arrays(again, rows).observations)
    np.testing.assert_array_equal(found.observations[:, :size], true[:, :size])
    np.testing.assert_array_equal(found.observations[:, size:], found.next_observations[:, size:])
    off = np.linalg.norm((found.observations - true)[:, size:], axis=1)
    assert (off / np.linalg.norm(true[:, size:], axis=1)).mean() == pytest.approx(0.5, abs=0.05)
    states, goals = shaken.begins(rows[::7])
    texts = [shaken.instructions[goal].text for goal in goals]
    np.testing.assert_array_equal(encoder.encode(texts), true[::7, size:])
    assert len({row.tobytes() for row in found.observations[:, size:]}) > len(plain.instructions)


@pytest.mark.parametrize(("mix", "imagined"), [(0.0, 0), (0.3, 3), (0.5, 5), (1.0, 10)])
def test_share_of_imagined_is_exact(sets, encoder, mix, imagined):
    rows = build(sets, encoder, mix).draw(10)
    assert (rows >= sets[0].transitions).sum() == imagined


def test_without_imagined_all_is_real(sets, encoder):
    buffer = build((sets[0], None), encoder, mix=0.5)
    assert buffer.draw(500).max() < sets[0].transitions == buffer.transition_count


def test_draws_are_uniform_within_each_part(sets, encoder):
    buffer = build(sets, encoder, mix=0.25)
    counts = np.bincount(buffer.draw(80_000), minlength=buffer.transition_count)
    for drawn, part in zip((60_000, 20_000), np.split(counts, [sets[0].transitions]), strict=True):
        expected = drawn / len(part)
        assert np.abs(part - expected).max() < 5 * np.sqrt(expected)


def weighted(part, weights):
    return replace(part, weights=np.resize(np.asarray(weights, np.float32), len(part)))


def test_draws_are_in_proportion_to_weights(sets, encoder):
    parts = weighted(sets[0], [1, 3, 0.5]), weighted(sets[1], [2, 0.1])
    buffer = build(parts, encoder, mix=0.25)
    counts = np.bincount(buffer.draw(80_000), minlength=buffer.transition_count)
    found = np.split(counts, [sets[0].transitions])
    for drawn, part, got in zip((60_000, 20_000), parts, found, strict=True):
        shares = np.array([part.weights[owner] for owner in part.owner], float)
        expected = drawn * shares / shares.sum()
        assert np.abs(got - expected).max() < 5 * np.sqrt(expected.max())
        assert (np.abs(got - expected) < 5 * np.sqrt(expected) + 1).all()


def test_equal_weights_change_no_draw(sets, encoder):
    even = build(sets, encoder).draw(64)
    np.testing.assert_array_equal(even, build((weighted(sets[0], 2), weighted(sets[1], 5)), encoder).draw(64))


def test_a_sample_is_what_the_draw_says(sets, encoder):
    batch, other = build(sets, encoder).sample(16), build(sets, encoder)
    assert batch.observations.shape == (16, 3 + encoder.size) and batch.actions.shape == (16, 1)
    for column, expected in zip(batch.columns(), other.gather(other.draw(16)).columns(), strict=True):
        assert column.dtype == torch.float32 and torch.equal(column, expected)


def test_draws_continue_from_a_saved_state(sets, encoder):
    buffer = build(sets, encoder)
    buffer.draw(7)
    state = json.loads(json.dumps(buffer.state()))
    expected = buffer.draw(9)
    other = build(sets, encoder, seed=5)
    other.restore(state)
    np.testing.assert_array_equal(other.draw(9), expected)


def test_one_hot_actions_and_scaled_rewards(sets, encoder):
    rng = np.random.default_rng(0)
    plain = build(sets, encoder)
    buffer = MixedBuffer(*sets, encoder, 0.5, rng, vectors=True, reward_scale=0.25)
    rows = np.arange(buffer.transition_count)
    numbers, vectors = arrays(plain, rows), arrays(buffer, rows)
    np.testing.assert_array_equal(vectors.actions, np.eye(7)[numbers.actions[:, 0].astype(int)])
    np.testing.assert_array_equal(vectors.rewards, numbers.rewards / 4)
    assert vectors.actions.shape == (len(rows), 7)


def test_continuous_actions_are_the_datas(line, encoder):
    data = line.steered(9)
    buffer = MixedBuffer(data, None, encoder, 0.0, np.random.default_rng(0), vectors=True)
    batch = arrays(buffer, np.arange(data.transitions)[::-1].copy())
    np.testing.assert_array_equal(batch.actions, data.actions[::-1])


def test_parts_of_a_batch_are_views_by_source(sets, encoder):
    buffer = build(sets, encoder, mix=0.25)
    batch = buffer.sample(16)
    parts = buffer.by_source(batch)
    assert [len(parts[name].rewards) for name in ("real", "imagined")] == [12, 4]
    assert parts["imagined"].observations.data_ptr() == batch.observations[12:].data_ptr()
    np.testing.assert_array_equal(parts["real"].actions, batch.actions[:12])


def test_columns_of_the_rollouts_are_read_in_place(sets, encoder):
    """What the buffer needs besides grows with rollouts and instructions, not with transitions."""
    buffer = build(sets, encoder)
    for part, rollouts in zip(buffer._parts, sets, strict=True):
        for tensor, column in (
            (part._states, rollouts.states),
            (part._actions, rollouts.actions),
            (part._rewards, rollouts.rewards),
        ):
            assert tensor.data_ptr() == column.__array_interface__["data"][0]
    goals = sum(len(part.instructions) for part in sets) * buffer.observation_size * 4
    assert buffer.nbytes == goals + sum(16 * len(part) for part in sets)


def test_what_cannot_be_mixed_is_refused(line, sets, encoder):
    real, imagined = sets
    wide = replace(line.spec, state_names=("a", "b"))
    none = real.take(np.zeros(0, dtype=int))
    for pair, message in (
        ((real, replace(imagined, spec=wide)), "imagined rollouts have state_size 2, real ones 3"),
        ((real, line.steered(5)), "imagined rollouts have action_kind continuous, real ones discrete"),
        ((real, none), "no imagined transitions"),
        ((weighted(real, [0]), imagined), "not all 0"),
        ((weighted(real, [1, -1]), imagined), "none below 0"),
        ((weighted(real, [1, np.nan]), imagined), "finite"),
    ):
        with pytest.raises(KalmError, match=message):
            build(pair, encoder)
    with pytest.raises(KalmError, match="mix is 1.5"):
        build(sets, encoder, mix=1.5)


def test_rollouts_of_weight_zero_are_never_drawn(sets, encoder):
    real = weighted(sets[0], [0, 1, 2])
    rows = build((real, None), encoder).draw(20_000)
    assert set(real.owner[rows]) == set(np.flatnonzero(real.weights))
