"""The action network: what it looks up, whose action is whose, and that fitting it is enough to act."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kalm.envs.sentences import plain_steps
from kalm.lm import sft
from kalm.lm.action_fit import fit_action_network
from kalm.lm.action_network import ActionNetwork
from kalm.lm.generate import imagine_rollouts
from kalm.lm.model import load_model
from kalm.lm.policy import LMPolicy
from kalm.types import Entity, WorldSpec


@pytest.fixture
def acting(single, world, rollouts):
    """A model with an action network."""
    model = sft.fresh(single.changed(action_network=True), world, 0, "cpu").eval()
    model.fit_scales(rollouts)
    return model


def test_padding_of_sentences_is_not_looked_at(acting):
    network = acting.action_network
    hidden = torch.randn(2, 5, acting.backbone.hidden_size)
    real = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    other = hidden.clone()
    other[1, 3:] = 100.0
    assert torch.equal(network.look_up(hidden, real), network.look_up(other, real))
    alone = network.look_up(hidden[1:, :3], real[1:, :3])
    assert torch.allclose(network.look_up(hidden, real)[1:], alone, atol=1e-6)


def test_entities_that_change_places_change_their_actions(acting, world):
    network, size = acting.action_network, acting.backbone.hidden_size
    found, states = (
        network.look_up(torch.randn(3, 4, size), torch.ones(3, 4, dtype=torch.bool)),
        torch.randn(3, 10),
    )
    swap = torch.tensor([1, 0, 2, 3, 4])
    columns = torch.stack([2 * swap, 2 * swap + 1], dim=1).flatten()
    swapped = network(found[:, [*swap.tolist(), 5]], states[:, columns])
    ratings = network(found, states).reshape(3, 5, 8)
    assert torch.allclose(swapped.reshape(3, 5, 8), ratings[:, swap], atol=1e-5)


def test_actions_stand_at_their_own_numbers():
    """Entities may list their actions in any order; each rating belongs to the action that is named."""
    plain = WorldSpec(
        "w", ("a", "b"), "discrete", 4, 5, (Entity("x", (0,), "e", (0, 1)), Entity("y", (1,), "e", (2, 3)))
    )
    mixed = replace(plain, entities=(Entity("x", (0,), "e", (3, 0)), Entity("y", (1,), "e", (1, 2))))
    names = torch.randn(2, 6)
    one, two = ActionNetwork(plain, names, 6), ActionNetwork(mixed, names, 6)
    two.load_state_dict(one.state_dict())
    found, states = torch.randn(3, 3, 96), torch.randn(3, 2)
    assert torch.equal(two(found, states)[:, [3, 0, 1, 2]], one(found, states))


@pytest.mark.parametrize("bins", [0, 5])
def test_worlds_whose_actions_belong_to_no_entity(bins):
    spec = WorldSpec(
        "arm", ("a", "b", "c"), "continuous", 2, 5, (Entity("x", (0,), "e"), Entity("y", (2,), "e"))
    )
    network = ActionNetwork(spec, torch.randn(2, 6), 6, bins)
    found = network.look_up(torch.randn(4, 3, 6), torch.ones(4, 3, dtype=torch.bool))
    assert network(found, torch.randn(4, 3)).shape == ((4, 2, 5) if bins else (4, 2))
    assert network.rate(found, torch.randn(4, 3)).shape == (4, 2)
    bare = ActionNetwork(replace(spec, entities=()), torch.zeros(0, 6), 6, bins)
    assert bare.rate(
        bare.look_up(torch.randn(4, 3, 6), torch.ones(4, 3, dtype=torch.bool)), torch.randn(4, 3)
    ).shape == (4, 2)


def test_before_it_is_fitted_the_language_model_acts_itself(acting, world, rows, single):
    plain = sft.fresh(single, world, 0, "cpu").eval()
    missing, unknown = plain.load_state_dict(acting.state_dict(), strict=False)
    assert not missing and all(name.startswith("action_network.") for name in unknown)
    seeds = range(len(rows))
    one, two = (imagine_rollouts(model, world, rows, seeds, horizon=4).rollouts for model in (acting, plain))
    assert np.array_equal(one.actions, two.actions)


def test_fitted_it_does_what_the_data_do_and_nothing_else_changes(acting, world, rollouts, tmp_path):
    before = {name: weight.clone() for name, weight in acting.state_dict().items()}
    fit_action_network(acting, rollouts, 150, 0)
    after = acting.state_dict()
    changed = {name for name, weight in before.items() if not torch.equal(weight, after[name])}
    assert changed and all(name.startswith("action_network.") for name in changed)
    assert acting.acts_by_network and not acting.reads_states
    wanted = rollouts.actions[rollouts.action_starts]
    texts = [rollouts.instructions[i].text for i in rollouts.which]
    policy = LMPolicy(acting)
    chosen = policy.begin(texts, rollouts.first_states).act(
        np.arange(len(texts)), rollouts.first_states, np.zeros(len(texts))
    )
    assert (chosen == wanted).mean() > 0.1  # chance: 0.025
    acting.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    rows = list(plain_steps(world).values())[:6]
    one, two = (imagine_rollouts(m, world, rows, range(6), horizon=5).rollouts for m in (acting, loaded))
    assert np.array_equal(one.actions, two.actions)
    assert np.array_equal(one.states, two.states)
