"""Each loss term against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from kalm.data.rollouts import RolloutSet
from kalm.lm import packing
from kalm.lm.heads import Design
from kalm.lm.loading import load_backbone
from kalm.lm.model import GroundedLM
from kalm.lm.prompts import GOAL_ORIENTED
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


@pytest.fixture
def backbone(checkpoint):
    return load_backbone(str(checkpoint))


def losses(model, rollouts):
    prompt_builder = model.prompt_builder()
    example = prompt_builder.generation(rollouts, 0, GOAL_ORIENTED)
    return model(packing.batch([[packing.group([example])]], rollouts, model.backbone.two_way_prompt))


def silence(layers):
    with torch.no_grad():
        layers[-1].weight.zero_()
        layers[-1].bias.zero_()


def test_equal_logits_cost_log_forty(model, one_step):
    model = model.float()
    silence(model.action_head)
    assert float(losses(model, one_step).action) == pytest.approx(math.log(40), abs=1e-5)


def test_predicting_no_change_costs_the_scaled_change_squared(backbone, world, one_step):
    model = GroundedLM(backbone, world.spec, Design(still_gate=False))
    silence(model.state_head.layers)
    model.changes.std.fill_(0.05)
    # One of ten numbers changes by 0.1, that is 2 scales: 2^2 / 10.
    assert float(losses(model, one_step).state) == pytest.approx(0.4, abs=1e-5)


def test_with_the_gate_only_what_moves_costs_and_the_gate_itself(backbone, world, one_step):
    model = GroundedLM(backbone, world.spec, Design(state_network=False))
    silence(model.state_head.layers)
    model.changes.std.fill_(0.05)
    with torch.no_grad():
        model.state_head.layers[-1].bias[0:10] = 1.0  # every number is said to change by one scale
        model.state_head.layers[-1].bias[10] = 3.0  # the first ball's gate
    # The red ball moves: ((2 - 1)^2 + (0 - 1)^2) / 10; the others' wrong changes cost nothing.
    # Gates: one open at logit 3 and right, four undecided.
    gates = (math.log(1 + math.exp(-3)) + 4 * math.log(2)) / 5
    assert float(losses(model, one_step).state) == pytest.approx(0.2 + gates, abs=1e-5)


def test_a_shut_gate_leaves_an_entity_exactly_where_it_is(backbone, world):
    model = GroundedLM(backbone, world.spec, Design(state_network=False))
    silence(model.state_head.layers)
    with torch.no_grad():
        model.state_head.layers[-1].bias[0:10] = 1.0
        model.state_head.layers[-1].bias[10:] = torch.tensor([1.0, -1, -1, -1, -1])
    model.changes.std.fill_(0.05)
    present = torch.full((1, 10), 0.3)
    after = model.next_states(torch.zeros(1, backbone.width), present, torch.tensor([0]))[0]
    assert torch.allclose(after[:2], torch.tensor([0.35, 0.35]))
    assert torch.equal(after[2:], present[0, 2:])


def test_with_a_network_imagined_states_are_its_own(backbone, world):
    model = GroundedLM(backbone, world.spec, Design())
    present, actions = torch.rand(4, 10), torch.tensor([0, 9, 18, 39])
    imagined = model.next_states(torch.rand(4, backbone.width), present, actions)
    assert torch.equal(imagined, model.network.next_states(present, actions))


def test_absolute_target_costs_the_scaled_state_squared(backbone, world, one_step):
    model = GroundedLM(backbone, world.spec, Design("absolute", still_gate=False))
    silence(model.state_head.layers)
    model.scales.mean.zero_()
    model.scales.std.fill_(0.2)
    # s1 = (0.1, 0, ...): (0.1 / 0.2)^2 / 10.
    assert float(losses(model, one_step).state) == pytest.approx(0.025, abs=1e-5)


def test_no_text_answer_costs_nothing(model, one_step):
    assert float(losses(model.float(), one_step).text) == 0.0
