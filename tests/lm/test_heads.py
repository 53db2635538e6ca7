from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from kalm.errors import KalmError
from kalm.lm import lora, sft
from kalm.lm.heads import Design, Relations, likeliest, two_hot
from kalm.lm.model import GroundedLM, autocast


def test_relations_are_heading_and_distance_to_every_entity():
    relations = Relations(torch.tensor([[0, 1], [2, 3]]))
    states = torch.tensor([[0.0, 0.0, 0.3, 0.4], [1.0, 1.0, 1.0, 1.0]])
    expected = [
        [[0, 0, 0, 0.6, 0.8, 0.5], [-0.6, -0.8, 0.5, 0, 0, 0]],
        [[0] * 6, [0] * 6],  # in the same place there is no heading
    ]
    assert relations.size == 6
    assert torch.allclose(relations(states), torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("entity_tokens", [False, True])
def test_embeddings_follow_relations_only_where_asked(single, world, rollouts, entity_tokens):
    told = {"entity_tokens": entity_tokens, "relations": True}
    model = sft.fresh(single.changed(**told), world, 0, "cpu").eval()
    model.fit_scales(rollouts)
    states = torch.from_numpy(rollouts.states[:4])
    tokens = model.state_tokens(states)
    assert tokens.shape == (4, 6 if entity_tokens else 1, model.backbone.width)
    with torch.no_grad():  # without what they are told of relations, tokens change
        width = model.spec.state_size
        model.embed_state[0].weight[:, width:] = 0
    assert not torch.allclose(model.state_tokens(states)[:, -1], tokens[:, -1])


def test_relations_need_two_things(single, world):
    lonely = replace(world.spec, entities=world.spec.entities[:1])
    with pytest.raises(KalmError, match="names 1 entities.*ground.relations=false"):
        GroundedLM(lora.prepare(single), lonely, Design(relations=True))


@pytest.mark.parametrize("told", [False, True])
def test_actions_follow_from_the_numbers_of_the_state_only_where_asked(single, world, rollouts, told):
    model = sft.fresh(single.changed(state_to_action=told), world, 0, "cpu").eval()
    model.fit_scales(rollouts)
    states = torch.from_numpy(rollouts.states[:4])
    rated = model.rate_actions(torch.zeros(4, model.backbone.width), states)
    assert rated.shape == (4, world.spec.action_size)
    assert torch.equal(rated[0], rated[3]) == (not told)


def test_an_action_shared_out_between_two_values_comes_back():
    actions = torch.tensor([[-1.0, 1.0], [0.33, -0.05], [3.0, 0.5]])
    shares = two_hot(actions, 21)
    assert shares.shape == (3, 2, 21) and torch.allclose(shares.sum(2), torch.ones(3, 2))
    assert ((shares > 0).sum(2) <= 2).all()
    assert torch.allclose(likeliest(shares.clamp(min=1e-9).log()), actions.clamp(-1, 1), atol=1e-5)


def test_of_two_meanings_the_likelier_is_done_and_not_their_mean():
    ratings = 0.6 * two_hot(torch.tensor([[-0.9]]), 21) + 0.4 * two_hot(torch.tensor([[0.9]]), 21)
    assert float(likeliest(ratings.clamp(min=1e-9).log())) == pytest.approx(-0.9, abs=1e-5)


def test_bins_learn_the_actions_of_continuous_worlds(single, world):
    turning = SimpleNamespace(spec=replace(world.spec, action_kind="continuous", action_size=3, entities=()))
    settings = single.changed(action_bins=11, state_network=False)
    model = sft.fresh(settings, turning, 0, "cpu")
    hidden, states = torch.randn(8, model.backbone.width), torch.randn(8, world.spec.state_size)
    wanted = torch.linspace(-1, 1, 24).reshape(8, 3)
    optimizer = torch.optim.Adam(model.action_head.parameters(), 1e-2)
    for _ in range(200):
        loss = model.action_losses(hidden, states, wanted).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert torch.allclose(model.rate_actions(hidden, states), wanted, atol=0.05)


@pytest.mark.parametrize("bins", [0, 11])
def test_actions_are_float32_where_bfloat16_computes(single, world, bins):
    """NumPy has no bfloat16; and a mean of bins that is rounded to it lies on a coarse grid."""
    turning = SimpleNamespace(spec=replace(world.spec, action_kind="continuous", action_size=3, entities=()))
    model = sft.fresh(single.changed(action_bins=bins), turning, 0, "cpu").eval()
    hidden, states = torch.randn(8, model.backbone.width), torch.randn(8, world.spec.state_size)
    with torch.inference_mode(), autocast(model.device, "bfloat16"):
        actions = model.rate_actions(hidden, states)
    assert actions.dtype == torch.float32
    assert bins == 0 or not torch.equal(actions, actions.bfloat16().float())
