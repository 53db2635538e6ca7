from copy import deepcopy

import numpy as np
import pytest
import torch

from kalm.errors import KalmError
from kalm.lm import packing
from kalm.lm.generate import GREEDY, Sampling, imagine_rollouts
from kalm.lm.prompts import GOAL_ORIENTED, Tokens


def same(one, two):
    assert np.array_equal(one.lengths, two.lengths)
    assert np.array_equal(one.actions, two.actions)
    assert np.allclose(one.states, two.states, atol=1e-6)
    assert np.array_equal(one.success, two.success)


def test_cached_decoding_equals_reading_the_whole_sequence_again(model, world, rows):
    result = imagine_rollouts(model, world, rows, range(len(rows)), horizon=6)
    prompt_builder = model.prompt_builder()
    assert result.rollouts.lengths.max() > 1
    for index, rollout in enumerate(result.rollouts):
        length = len(rollout.actions)
        body = Tokens.rollout(
            int(result.rollouts.state_starts[index]),
            int(result.rollouts.action_starts[index]),
            length,
            prompt_builder.entities,
            learn=True,
        )
        prompt = prompt_builder.goal_prompt(rows[index].text, GOAL_ORIENTED)
        batch = packing.batch(
            [[packing.PackedRow(prompt, (body,))]], result.rollouts, model.backbone.two_way_prompt
        )
        with torch.inference_mode():
            hidden = model.body(model.embed(batch).double(), batch.visible, batch.position)[0, len(prompt) :]
            block = prompt_builder.entities + 2
            now = torch.from_numpy(rollout.states[:-1]).double()
            actions = model.rate_actions(hidden[block - 2 :: block], now).argmax(-1)
            states = model.next_states(hidden[block - 1 :: block], now, torch.from_numpy(rollout.actions))
        assert np.array_equal(actions.numpy(), rollout.actions)
        assert np.allclose(states.numpy(), rollout.states[1:], atol=1e-5)


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0, state_noise=0.3)])
def test_the_batch_size_changes_nothing(model, world, rows, sampling):
    seeds = range(100, 100 + len(rows))
    whole = imagine_rollouts(model, world, rows, seeds, horizon=6, sampling=sampling)
    single = imagine_rollouts(model, world, rows, seeds, horizon=6, sampling=sampling, batch=1)
    same(whole.rollouts, single.rollouts)


def test_temperature_gives_other_actions_for_other_seeds(model, world, rows):
    one, two = (
        imagine_rollouts(
            model, world, rows[:1] * 8, s, horizon=2, sampling=Sampling(temperature=5.0)
        ).rollouts
        for s in (range(8), range(8, 16))
    )
    assert len(set(one.actions.tolist())) > 2
    assert one.actions.tolist() != two.actions.tolist()


def test_noise_shakes_only_what_moves(model, world, rows):
    states = torch.from_numpy(world.initial_states([row.goal for row in rows], range(len(rows))))
    with torch.no_grad():
        gates = model.network(states, torch.zeros(len(rows), dtype=torch.long)).moves
        model.network.layers.go[-1].bias[-1] -= gates.median()  # open for about half of the balls

    def changes(sampling):
        found = imagine_rollouts(model, world, rows, range(len(rows)), horizon=1, sampling=sampling).rollouts
        return found.states[found.before + 1] - found.states[found.before]

    calm, shaken = changes(GREEDY), changes(Sampling(state_noise=0.5))
    assert (calm == 0).any() and (calm != 0).any()
    assert ((calm == 0) == (shaken == 0)).all()
    assert (calm != shaken)[calm != 0].all()


def test_two_models_share_the_work_and_one_model_as_both_changes_nothing(model, world, rows):
    plain = imagine_rollouts(model, world, rows, range(len(rows)), horizon=5).rollouts
    twin = deepcopy(model)
    same(plain, imagine_rollouts(model, world, rows, range(len(rows)), horizon=5, actor=twin).rollouts)
    with torch.no_grad():
        twin.action_head[-1].weight.zero_()
        twin.action_head[-1].bias.zero_()
        twin.action_head[-1].bias[7] = 1
    acted = imagine_rollouts(model, world, rows, range(len(rows)), horizon=5, actor=twin).rollouts
    assert (acted.actions == 7).all()


def test_verdicts_lengths_and_rewards_are_the_worlds(model, world, rows):
    found = imagine_rollouts(model, world, rows, range(len(rows)), horizon=5).rollouts
    for rollout in found:
        judge = world.judge([rollout.instruction.goal] * len(rollout.actions))
        verdicts = judge.success(rollout.states[:-1], rollout.actions, rollout.states[1:])
        assert rollout.success == verdicts[-1] and not verdicts[:-1].any()
        assert np.allclose(
            rollout.rewards, judge.reward(rollout.states[:-1], rollout.actions, rollout.states[1:]), atol=1e-3
        )
        assert len(rollout.actions) == 5 or rollout.success or judge.one_step[0]


def test_rollouts_start_where_the_instruction_or_the_seed_says(model, world, rows):
    from dataclasses import replace

    given = replace(rows[0], state=tuple(np.linspace(-0.4, 0.4, 10)))
    found = imagine_rollouts(model, world, [given, rows[1]], [7, 8], horizon=2).rollouts
    assert np.allclose(found[0].states[0], given.state)
    assert np.allclose(found[1].states[0], world.initial_states([rows[1].goal], [8])[0])


def test_rollouts_that_are_not_finite_are_dropped_and_counted(model, world, rows):
    with torch.no_grad():
        model.network.layers.go[-1].bias[0] = float("nan")
    result = imagine_rollouts(model, world, rows, range(len(rows)), horizon=3)
    assert result.dropped == len(rows) and len(result.rollouts) == 0


def test_a_rollout_longer_than_the_context_is_refused(model, world, rows):
    with pytest.raises(KalmError, match="Lower the horizon"):
        imagine_rollouts(model, world, rows[:1], [0], horizon=400)
