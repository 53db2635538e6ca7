"""The transition network: symmetry, gates, and what it learns."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from kalm import envs
from kalm.data.collect import collect_rollouts
from kalm.data.rollouts import RolloutSet
from kalm.data.settings import CollectConfig
from kalm.dynamics.transition import (
    Change,
    TransitionNetwork,
    change_loss,
    fit_transition_network,
    owners,
)
from kalm.types import Entity, Goal, Instruction, Rollout, WorldSpec


@pytest.fixture(scope="module")
def world():
    return envs.make("clevr")


@pytest.fixture(scope="module")
def rollouts(world, tmp_path_factory):
    return collect_rollouts(world, CollectConfig(rollouts=600, shard=600), 0, tmp_path_factory.mktemp("real"))


def test_exchanging_two_balls_exchanges_what_happens_to_them(world):
    torch.manual_seed(0)
    network = TransitionNetwork(world.spec)
    states, push = torch.rand(1, 10), 3
    swapped = states[:, [2, 3, 0, 1, 4, 5, 6, 7, 8, 9]]
    one = network(states, torch.tensor([8 * 0 + push]))
    two = network(swapped, torch.tensor([8 * 1 + push]))
    assert torch.allclose(one.size[:, [2, 3, 0, 1]], two.size[:, :4], atol=1e-6)
    assert torch.allclose(one.moves[:, [1, 0, 2, 3, 4]], two.moves, atol=1e-6)
    assert not torch.allclose(one.size, two.size, atol=1e-3)


def test_loss_by_hand():
    change = Change(torch.tensor([[2.0, 0.0, 5.0]]), torch.tensor([[3.0, 0.0]]))
    target = torch.tensor([[1.0, 0.0, 0.0]])  # the first entity (two numbers) moves, the second does not
    loss = change_loss(change, target, torch.tensor([0, 0, 1]))
    gates = (math.log(1 + math.exp(-3)) + math.log(2)) / 2
    assert float(loss) == pytest.approx(1 / 3 + gates, abs=1e-6)


def test_what_the_gate_stops_stays_exactly(world):
    network = TransitionNetwork(world.spec)
    states = torch.rand(1, 10)
    after = network.apply_change(states, Change(torch.ones(1, 10), torch.tensor([[1.0, -1, -1, -1, -1]])))
    assert torch.allclose(after[:, :2], states[:, :2] + 1)
    assert torch.equal(after[:, 2:], states[:, 2:])


def fitted(world, rollouts, steps):
    torch.manual_seed(1)
    network = TransitionNetwork(world.spec, width=32)
    fit_transition_network(network, rollouts, steps, seed=0)
    return network


def test_fitting_beats_nothing_moves(world, rollouts):
    states = torch.from_numpy(rollouts.states[rollouts.before])
    after = torch.from_numpy(rollouts.states[rollouts.before + 1])
    network = fitted(world, rollouts, 300)
    with torch.no_grad():
        said = network.next_states(states, torch.from_numpy(rollouts.actions))
    assert float(((said - after) ** 2).mean()) < 0.25 * float(((states - after) ** 2).mean())


def test_fitting_repeats_exactly(world, rollouts):
    one, other = (fitted(world, rollouts, 20).state_dict() for _ in range(2))
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_a_world_that_names_only_some_entities_gets_a_plain_network(world, kind):
    some = (Entity("red ball", (0, 1)),)
    spec = replace(world.spec, entities=some, action_kind=kind, action_size=4)
    owner, gates = owners(spec)
    assert owner.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8] and gates == 9
    actions = torch.tensor([1, 3]) if kind == "discrete" else torch.rand(2, 4)
    assert TransitionNetwork(spec).next_states(torch.rand(2, 10), actions).shape == (2, 10)


def test_continuous_actions_reach_every_entity(world):
    torch.manual_seed(0)
    network = TransitionNetwork(replace(world.spec, action_kind="continuous", action_size=3))
    states = torch.rand(1, 10)
    one, two = (network(states, torch.full((1, 3), value)).size for value in (0.0, 1.0))
    assert (one != two).all()


SLIDER = WorldSpec("slider", ("x", "y"), "continuous", 1, 40)


def slides(count, seed):
    """Rollouts of a slider that lags behind where it was told to go, which its state does not show."""
    rng = np.random.default_rng(seed)
    instruction = Instruction("slide", "seen", Goal.of("slide"))
    parts = []
    for _ in range(count):
        actions = np.repeat(rng.uniform(-1, 1, (20, 1)), 2, axis=0).astype(np.float32)
        told = np.cumsum(actions, axis=0) / 10
        states = np.zeros((41, 2), np.float32)
        for step in range(40):
            states[step + 1, 0] = states[step, 0] + 0.3 * (told[step, 0] - states[step, 0])
        parts.append(Rollout(instruction, states, actions, np.zeros(40, np.float32), False, "real"))
    return RolloutSet.from_rollouts(SLIDER, parts)


def test_walks_by_hand():
    network = TransitionNetwork(SLIDER)
    with torch.no_grad():
        for weight in network.parameters():
            weight.zero_()
        last = network.layers.layers[-1]
        last.bias[:] = torch.tensor([1.0, 5.0, math.log(3), 0.0])  # changes, then gates open by 3/4 and 1/2
    true = [torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[10.0, 0.0]])]
    found = network.loss(true, [torch.zeros(2, 1), torch.zeros(1, 1)])
    # The first number always moves, the second never. First step: the errors are 1 - 1 and 1 - 2. Second: the
    # walk is at 3/4 and should come to 10, so its change of 1 is 8.25 short, beyond 3: 2 * 3 * (8.25 - 1.5).
    gates = (math.log(4 / 3) + math.log(2)) / 2
    first, second = (0 + 1) / 4 + gates, 6 * 6.75 / 2 + gates
    assert float(found) == pytest.approx((2 * first + second) / 3, rel=1e-5)


def test_who_has_walked_alone_drifts_less():
    data, fresh = slides(200, 0), slides(50, 1)
    errors = []
    for horizon in (1, 10):
        torch.manual_seed(0)
        network = TransitionNetwork(SLIDER)
        fit_transition_network(network, data, 150, 0, horizon=horizon)
        states = torch.from_numpy(fresh.states.reshape(50, 41, 2))
        actions = torch.from_numpy(fresh.actions.reshape(50, 40, 1))
        now = states[:, 0]
        for step in range(40):
            now = network.next_states(now, actions[:, step])
        errors.append(float((now - states[:, -1]).square().mean().sqrt()))
    assert errors[1] < 0.8 * errors[0], errors


def test_walks_end_where_rollouts_do(rollouts, world):
    torch.manual_seed(0)
    network = TransitionNetwork(world.spec)  # most rollouts have fewer steps than the walks would
    fit_transition_network(network, rollouts, 50, 0, horizon=8)
    assert all(weight.isfinite().all() for weight in network.parameters())
