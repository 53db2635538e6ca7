import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from d3rlpy.algos import DiscreteBCConfig, DiscreteCQLConfig
from d3rlpy.models import VectorEncoderFactory

from kalm.errors import KalmError
from kalm.rl.algorithms import ALGORITHMS, acting_networks, create, require
from kalm.rl.buffer import MixedBuffer
from kalm.rl.policy import MLPPolicy, from_layers

STOCK = {"bc": DiscreteBCConfig, "cql": DiscreteCQLConfig}
NAMES = sorted(ALGORITHMS)


@pytest.fixture
def buffer(line, encoder):
    return MixedBuffer(line.rollouts(60), None, encoder, 0.0, np.random.default_rng(0))


def stock(name, config, size, actions):
    options = {"bc": {"beta": 0.0}, "cql": {"alpha": config.cql_alpha, "target_update_interval": 7}}[name]
    encoder = VectorEncoderFactory(list(config.hidden))
    shared = {"batch_size": config.batch, "learning_rate": config.lr, "gamma": config.gamma}
    learner = STOCK[name](encoder_factory=encoder, **shared, **options).create()
    learner.create_impl((size,), actions)
    return learner


@pytest.mark.parametrize("name", NAMES)
def test_updates_agree_with_stock_d3rlpy(name, line, config, buffer):
    torch.manual_seed(3)
    theirs = stock(name, config, buffer.observation_size, line.spec.action_size)
    torch.manual_seed(3)
    ours = create(name, line.spec, buffer.observation_size, config, "cpu")
    if name == "cql":  # so that the target network is replaced several times
        ours.impl._target_update_interval = 7
    for step in range(40):
        rows = buffer.draw(config.batch)
        expected = theirs.update(buffer.gather_arrays(rows))
        losses = ours.impl.update(buffer.gather(rows), step)
        assert losses.keys() == expected.keys()
        np.testing.assert_allclose(list(losses.values()), list(expected.values()), rtol=2e-4, atol=1e-6)
    weights = [dict(learner.impl.modules.get_torch_modules()) for learner in (ours, theirs)]
    for part, module in weights[0].items():
        for key, value in module.state_dict().items():
            torch.testing.assert_close(value, weights[1][part].state_dict()[key], rtol=1e-3, atol=2e-5)


def test_cql_loss_by_hand(line, config, buffer):
    learner = create("cql", line.spec, buffer.observation_size, config, "cpu")
    biases = [1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0]
    (layers,) = acting_networks("cql", learner)
    for layer in layers:
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    layers[-1].bias.data = torch.tensor(biases)  # Q(s, .) is these numbers for every s
    batch = replace(
        buffer.sample(2),
        actions=torch.tensor([[1.0], [2.0]]),
        rewards=torch.tensor([[0.02], [5.5]]),
        terminals=torch.tensor([[0.0], [1.0]]),
    )
    loss = learner.impl.compute_loss(batch, torch.tensor([[2.5], [100.0]]))
    # errors: 0.02 + 0.99 * 2.5 - 2 = 0.495 (quadratic) and 5.5 - 3 = 2.5 (linear, no bootstrap at the end)
    td = (0.5 * 0.495**2 + (2.5 - 0.5)) / 2
    conservative = math.log(sum(math.exp(q) for q in biases)) - (2 + 3) / 2
    assert loss.td_loss.item() == pytest.approx(td, rel=1e-5)
    assert loss.conservative_loss.item() == pytest.approx(conservative, rel=1e-5)
    assert loss.loss.item() == pytest.approx(td + config.cql_alpha * conservative, rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_policy_acts_as_the_learner_predicts(name, line, config, buffer, encoder):
    learner = create(name, line.spec, buffer.observation_size, config, "cpu")
    for step in range(30):
        learner.impl.update(buffer.sample(config.batch), step)
    policy = MLPPolicy(line.spec, name, encoder, from_layers(acting_networks(name, learner)))
    data = line.rollouts(50, seed=9)
    texts = [data.instructions[data.which[i]].text for i in data.owner]
    states = data.states[data.before]
    expected = learner.predict(np.hstack([states, encoder.encode(texts)]))
    np.testing.assert_array_equal(policy.act(states, texts), expected)
    assert len(set(expected.tolist())) > 1


@pytest.mark.parametrize("name", NAMES)
def test_action_count_comes_from_the_spec(name, line, config):
    (*_, last), *_ = acting_networks(name, create(name, replace(line.spec, action_size=40), 9, config, "cpu"))
    assert last.out_features == 40


def test_names_and_actions_that_do_not_fit_are_refused(line):
    with pytest.raises(KalmError, match="unknown algorithm 'td4'.*bc, cql"):
        require("td4", line.spec)
    with pytest.raises(KalmError, match="discrete actions, but world 'line' has continuous"):
        require("bc", replace(line.spec, action_kind="continuous"))
