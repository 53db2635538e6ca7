"""Each loss term against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from kalm.data.rollouts import RolloutSet
from kalm.lm import collate
from kalm.lm.sequence import GOAL_ORIENTED, Speller
from kalm.types import Rollout


@pytest.fixture
def one_step(model, world):
    """One rollout of one action: ball 0 moves by 0.1 along x."""
    before = np.zeros(10)
    after = before.copy()
    after[0] = 0.1
    instruction = world.suite("seen")[0]
    return RolloutSet.from_rollouts(
        world.spec,
        [Rollout(instruction, np.stack([before, after]), np.array([3]), np.zeros(1), True, "real")],
    )


def losses(model, rollouts):
    speller = Speller(model.backbone.tokenizer, model.backbone.context)
    example = speller.generation(rollouts, 0, GOAL_ORIENTED)
    return model(collate.batch([[collate.group([example])]], rollouts, model.backbone.two_way_prompt))


def silence(head):
    with torch.no_grad():
        head[2].weight.zero_()
        head[2].bias.zero_()


def test_equal_logits_cost_log_forty(model, one_step):
    model = model.float()
    silence(model.action_head)
    assert float(losses(model, one_step).action) == pytest.approx(math.log(40), abs=1e-5)


def test_predicting_no_change_costs_the_scaled_change_squared(model, one_step):
    model = model.float()
    silence(model.state_head)
    model.change_std.fill_(0.05)
    # One of ten numbers changes by 0.1, that is 2 scales: 2^2 / 10.
    assert float(losses(model, one_step).state) == pytest.approx(0.4, abs=1e-5)


def test_absolute_target_costs_the_scaled_state_squared(model, one_step):
    model = model.float()
    silence(model.state_head)
    model.state_target = "absolute"
    model.mean.zero_()
    model.std.fill_(0.2)
    # s1 = (0.1, 0, ...): (0.1 / 0.2)^2 / 10.
    assert float(losses(model, one_step).state) == pytest.approx(0.025, abs=1e-5)


def test_no_text_answer_costs_nothing(model, one_step):
    assert float(losses(model.float(), one_step).text) == 0.0
