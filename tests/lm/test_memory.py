"""Models without memory: an action follows from goal and present state, whatever came before."""

import numpy as np
import pytest
import torch

from kalm.lm import packing, sft
from kalm.lm.dataset import GroundingDataset
from kalm.lm.generate import imagine_rollouts
from kalm.lm.policy import LMPolicy
from kalm.lm.prompts import ACTION, GOAL_ORIENTED, STATE


@pytest.fixture(params=[False, True], ids=["", "state_to_action"])
def forgetful(config, world, rollouts, request):
    changes = {"memory": False, "state_to_action": request.param}
    model = sft.fresh(config.changed(**changes), world, 0, "cpu")
    model.fit_scales(rollouts)
    return model.eval().double()


def test_a_rollout_is_learnt_step_by_step(forgetful, rollouts):
    prompt_builder = forgetful.prompt_builder()
    long = int(np.argmax(rollouts.lengths))
    examples = prompt_builder.generations(rollouts, long, GOAL_ORIENTED)
    assert len(examples) == rollouts.lengths[long] > 1
    for step, example in enumerate(examples):
        assert example.body.kind.tolist() == [STATE, ACTION] and example.body.asks.tolist() == [ACTION, STATE]
        assert example.body.value.tolist() == [
            rollouts.state_starts[long] + step,
            rollouts.action_starts[long] + step,
        ]
        assert example.body.answer.tolist() == [
            rollouts.action_starts[long] + step,
            rollouts.state_starts[long] + step + 1,
        ]


def test_token_counts_of_the_plan_are_those_of_the_batches(config, forgetful, rollouts):
    config = config.changed(memory=False, tasks={"explanation": 0.0, "dynamics": 0.0})
    plan = GroundingDataset(rollouts, forgetful.prompt_builder(), config, 0)
    groups = [group for step in range(plan.steps_per_epoch) for row in plan.groups(step) for group in row]
    planned = [item.tokens for row in plan._rows(0)[: config.rows * plan.steps_per_epoch] for item in row]
    assert [len(group) for group in groups] == planned


def test_every_step_of_a_rollout_is_dealt_out_once(config, forgetful, rollouts):
    config = config.changed(memory=False, tasks={"explanation": 0.0, "dynamics": 0.0})
    plan = GroundingDataset(rollouts, forgetful.prompt_builder(), config, 0)
    groups = [plan._spell(item) for row in plan._rows(0) for item in row]
    actions = np.concatenate([body.answer[:1] for group in groups for body in group.bodies])
    assert np.array_equal(np.sort(actions), np.arange(rollouts.lengths.sum()))
    assert max(len(group.bodies) for group in groups) == -(-rollouts.lengths.max() // 4)


def test_imagined_actions_are_those_of_goal_and_state_read_alone(forgetful, world, rows):
    found = imagine_rollouts(forgetful, world, rows, range(len(rows)), horizon=5).rollouts
    assert found.lengths.max() > 2
    prompt_builder = forgetful.prompt_builder()
    for index in range(len(found)):
        examples = prompt_builder.generations(found, index, GOAL_ORIENTED)
        for example, action in zip(examples, found[index].actions, strict=True):
            alone = packing.batch([[packing.group([example])]], found, forgetful.backbone.two_way_prompt)
            with torch.inference_mode():
                hidden = forgetful.body(
                    forgetful.embed(alone).double(), alone.visible, alone.position
                ).flatten(0, 1)
                rated = forgetful.rate_actions(hidden[alone.ask_action_at], alone.acting_states)
                assert rated.argmax(-1).item() == action


def test_acting_forgets_what_was_before(forgetful, world, rows):
    texts = [row.text for row in rows]
    states = world.initial_states([row.goal for row in rows], range(len(rows)))
    playing, nothing = LMPolicy(forgetful).begin(texts, states), np.zeros(len(rows))
    first = playing.act(np.arange(len(rows)), states, nothing)
    playing.act(np.arange(len(rows)), states[::-1].copy(), nothing)
    assert playing.act(np.arange(len(rows)), states, nothing).tolist() == first.tolist()
    for _ in range(200):  # the context is never used up
        again = playing.act(np.arange(len(rows)), states, nothing)
    assert again.tolist() == first.tolist()
