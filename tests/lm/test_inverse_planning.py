"""Explaining by inverse planning: the numbers behind it, one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kalm.data.scoring import ends_with
from kalm.envs.sentences import plain_steps
from kalm.lm import packing, sft
from kalm.lm.decoding import prefill_goals
from kalm.lm.inverse_planning import action_surprise
from kalm.lm.prompts import GOAL_ORIENTED


@pytest.fixture(scope="module")
def texts(world):
    return [instruction.text for instruction in plain_steps(world).values()][:11]


@torch.inference_mode()
def alone(model, rollouts, row, text):
    """The same sum, from one rollout behind one prompt."""
    builder = model.prompt_builder()
    prompt = builder.goal_prompt(text, GOAL_ORIENTED)
    bodies = tuple(example.body for example in builder.generations(rollouts, row, GOAL_ORIENTED))
    batch = packing.batch([[packing.PackedRow(prompt, bodies)]], rollouts, model.backbone.two_way_prompt)
    hidden = model.body(model.embed(batch), batch.visible, batch.position)[0]
    ratings = model.rate_actions(hidden[batch.ask_action_at], batch.acting_states)
    return -ratings.log_softmax(1)[torch.arange(len(ratings)), batch.want_actions].sum().item()


@pytest.mark.parametrize("memory", [True, False])
def test_surprise_is_the_negative_log_likelihood_of_the_actions(config, world, rollouts, texts, memory):
    fresh = sft.fresh(config.changed(memory=memory), world, 0, "cpu").double().eval()
    some = rollouts.take(np.arange(10))
    found = action_surprise(fresh, some, texts)
    assert found.shape == (10, 11) and len(np.unique(found)) > 100
    for row, column in ((0, 0), (3, 10), (9, 5)):
        assert found[row, column] == pytest.approx(alone(fresh, some, row, texts[column]), rel=1e-9)


@pytest.fixture
def acting(single, world, rollouts):
    """A model that acts by its network, and asked for something else does something else."""
    model = sft.fresh(single.changed(action_network=True), world, 0, "cpu").eval()
    model.fit_scales(rollouts)
    model.action_network.fitted.fill_(True)
    with torch.no_grad():
        model.action_network.act[-1].weight.mul_(100)
        model.action_network.found.weight.mul_(100)
    return model


@torch.inference_mode()
def ratings(model, looked, rollout):
    """What the network thinks of all actions in each state of a rollout: -> log-probabilities (T, A)."""
    states = model.scales.normal(torch.from_numpy(rollout.states[:-1]))
    return model.action_network.rate(looked.expand(len(states), -1, -1), states).log_softmax(1)


def test_the_action_network_is_asked_where_it_acts(acting, rollouts, texts):
    some = rollouts.take(np.arange(5))
    found = action_surprise(acting, some, texts, precision="float32")
    with torch.inference_mode():
        looked = prefill_goals(acting, texts, GOAL_ORIENTED).found
    for row, rollout in enumerate(some):
        for column in (0, 7):
            rated = ratings(acting, looked[column], rollout)
            taken = rated[torch.arange(len(rated)), torch.from_numpy(rollout.actions)]
            assert found[row, column] == pytest.approx(-taken.sum().item(), rel=1e-5)


def test_what_a_model_would_have_done_is_explained_by_what_it_was_asked_for(acting, rollouts, texts):
    asked = np.arange(len(rollouts)) % len(texts)
    with torch.inference_mode():
        looked = prefill_goals(acting, texts, GOAL_ORIENTED).found
    rated = [ratings(acting, looked[a], one) for a, one in zip(asked, rollouts, strict=True)]
    torch.manual_seed(0)
    drawn = torch.distributions.Categorical(logits=torch.cat(rated)).sample().numpy()
    found = action_surprise(acting, replace(rollouts, actions=drawn), texts).argmin(axis=1)
    assert (found == asked).mean() > 0.2  # chance: 0.09


def test_goals_that_rollouts_end_with(world, rollouts):
    goals = list(plain_steps(world))
    found = ends_with(rollouts, world, goals)
    assert found.shape == (160, 80)
    own = [goals.index(rollouts.instructions[which].goal) for which in rollouts.which]
    assert np.array_equal(found[np.arange(160), own], rollouts.success)
    assert 1 < found.sum(1).mean() < 8
    shorter = rollouts.cut(np.maximum(rollouts.lengths - 1, 1))
    short = ends_with(shorter, world, goals)[np.arange(160), own]
    assert not short[rollouts.lengths > 1].any()
