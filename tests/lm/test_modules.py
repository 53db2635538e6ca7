from dataclasses import replace

import pytest
import torch

from kalm.errors import KalmError
from kalm.lm import sft, tuning
from kalm.lm.grounded import GroundedLM
from kalm.lm.modules import Design, Relations


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
    model = sft.fresh(single.model_copy(update=told), world, 0, "cpu").eval()
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
        GroundedLM(tuning.prepare(single), lonely, Design(relations=True))


@pytest.mark.parametrize("told", [False, True])
def test_actions_follow_from_the_numbers_of_the_state_only_where_asked(single, world, rollouts, told):
    model = sft.fresh(single.model_copy(update={"state_to_action": told}), world, 0, "cpu").eval()
    model.fit_scales(rollouts)
    states = torch.from_numpy(rollouts.states[:4])
    rated = model.rate_actions(torch.zeros(4, model.backbone.width), states)
    assert rated.shape == (4, world.spec.action_size)
    assert torch.equal(rated[0], rated[3]) == (not told)
