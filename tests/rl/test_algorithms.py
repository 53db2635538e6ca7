import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from d3rlpy.algos import (
    AWACConfig,
    BCConfig,
    CQLConfig,
    DiscreteBCConfig,
    DiscreteCQLConfig,
    IQLConfig,
    TD3PlusBCConfig,
)
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.torch_utility import TorchMiniBatch

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError
from kalm.rl.batch import TransitionBatch
from kalm.rl.buffer import MixedBuffer
from kalm.rl.networks import MLP
from kalm.rl.policy import MLPPolicy, copied
from kalm.rl.table import ALGORITHMS, OfflineAlgorithm, create_learner, learner_class
from kalm.types import Rollout

NAMES = sorted(set(ALGORITHMS) - {"combo"})  # COMBO is no d3rlpy learner; it has tests of its own


@pytest.fixture
def kit(line, encoder):
    """Buffer and spec for an algorithm on a world with such actions."""

    def build(name, kind):
        data = line.rollouts(60) if kind == "discrete" else line.steered(60)
        vectors = learner_class(name, data.spec).vectors
        rng = np.random.default_rng(0)
        return MixedBuffer(data, None, encoder, 0.0, rng, vectors=vectors), data.spec

    return build


def stock(name, kind, config, size, actions):
    """d3rlpy's learner with our settings, from its own classes alone."""
    layers = VectorEncoderFactory(list(config.hidden))
    shared = {"batch_size": config.batch}
    if name in ("bc", "cql") and kind == "discrete":
        shared |= {"encoder_factory": layers, "learning_rate": config.lr}
        if name == "bc":
            made = DiscreteBCConfig(beta=0.0, **shared)
        else:
            shared |= {"gamma": config.gamma, "target_update_interval": 7}
            made = DiscreteCQLConfig(alpha=config.cql.alpha, **shared)
    elif name.startswith("bc"):
        made = BCConfig(encoder_factory=layers, learning_rate=config.lr, **shared)
    else:
        shared |= {"gamma": config.gamma}
        for role in ("actor", "critic"):
            shared |= {f"{role}_encoder_factory": layers, f"{role}_learning_rate": config.lr}
        made = {
            "td3bc": lambda: TD3PlusBCConfig(**shared),
            "awac": lambda: AWACConfig(**shared),
            "iql": lambda: IQLConfig(value_encoder_factory=layers, **shared),
            "cql": lambda: CQLConfig(
                conservative_weight=config.cql.alpha,
                alpha_learning_rate=0.0,
                alpha_threshold=0.0,
                n_action_samples=config.cql.samples,
                temp_learning_rate=config.lr,
                **shared,
            ),
        }[name.removesuffix("-continuous")]()
    learner = made.create()
    learner.create_impl((size,), actions)
    return learner


@pytest.fixture
def double():
    """Numbers of twice the precision, in which the order of additions hides nothing."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def theirs(batch):
    """The batch as d3rlpy's learners read it."""
    zeros, ones = torch.zeros_like(batch.rewards), torch.ones_like(batch.rewards)
    return TorchMiniBatch(
        observations=batch.observations, actions=batch.actions, rewards=batch.rewards,
        next_observations=batch.next_observations, next_actions=torch.zeros_like(batch.actions),
        returns_to_go=zeros, terminals=batch.terminals, intervals=ones, device="cpu",
    )  # fmt: skip


# d3rlpy's names of our networks.
PARTS = {
    "policy": "imitator",
    "q": "q_funcs",
    "target_q": "targ_q_funcs",
    "actor": "policy",
    "target_actor": "targ_policy",
    "critics": "q_funcs",
    "target_critics": "targ_q_funcs",
    "value": "value_func",
    "log_temp": "log_temp",
}


def paired_weights(ours, stock):
    """Yield the name, our tensor and d3rlpy's for every weight; fails where one side has more."""
    modules = dict(stock.impl.modules.get_torch_modules())
    if "policy" in dict(ours.named_children()) or hasattr(
        ours, "entropy"
    ):  # no temperature of ours: constant
        modules.pop("log_temp", None)
    modules.pop("log_alpha", None)  # weight of the conservative term, which is fixed
    parts = {name: list(part.parameters()) for name, part in ours.named_children()}
    if hasattr(ours, "log_temp"):
        parts["log_temp"] = [ours.log_temp]
    assert {PARTS[name] for name in parts} == modules.keys()
    for name, weights in parts.items():
        yield from ((name, *pair) for pair in zip(weights, modules[PARTS[name]].parameters(), strict=True))


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_the_weights_of_d3rlpy(name, kind, config, kit):
    buffer, spec = kit(name, kind)
    torch.manual_seed(3)
    reference = stock(name, kind, config, buffer.observation_size, spec.action_size)
    after = torch.rand(1)
    torch.manual_seed(3)
    ours = create_learner(name, spec, buffer.observation_size, config, "cpu")
    assert torch.equal(torch.rand(1), after)  # and what is drawn next
    for part, mine, other in paired_weights(ours, reference):
        assert torch.equal(mine, other), part


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
@pytest.mark.parametrize("name", NAMES)
def test_updates_agree_with_stock_d3rlpy(name, kind, config, kit, double):
    """Equal losses and weights over 40 updates on the same batches, in double precision.

    AWAC's critics are made to pay for entropy as d3rlpy's do; ours do not (`kalm.rl.algorithms.awac`).
    """
    buffer, spec = kit(name, kind)
    torch.manual_seed(3)
    reference = stock(name, kind, config, buffer.observation_size, spec.action_size)
    torch.manual_seed(3)
    ours = create_learner(name, spec, buffer.observation_size, config, "cpu")
    if name == "awac":
        ours.entropy = 1.0
    if name == "cql" and kind == "discrete":  # so that the target network is replaced several times
        ours.target_every = 7
    left_out = {"alpha", "temp", "temp_loss", "imitation_loss", "regularization_loss"}  # constant, or `loss`
    for step in range(40):
        batch = TransitionBatch(*(column.double() for column in buffer.sample(config.batch).columns()))
        torch.manual_seed(step)  # both draw the same noise, in the same order
        expected = reference.impl.update(theirs(batch), step)
        torch.manual_seed(step)
        losses = ours.update(batch, step)
        assert expected.keys() - losses.keys() <= left_out
        for key in expected.keys() & losses.keys():  # d3rlpy adds losses in single precision
            assert losses[key].item() == pytest.approx(expected[key], rel=1e-5, abs=1e-6), (key, step)
    for part, mine, other in paired_weights(ours, reference):
        torch.testing.assert_close(
            mine,
            other,
            rtol=1e-4,
            atol=1e-5,
            check_dtype=False,
            msg=lambda text, part=part: f"{part}: {text}",
        )


def constant(nets, biases):
    """Make networks return these numbers for any input."""
    for net in nets:
        for layer in net.layers:
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
        net.head.bias.data = torch.tensor(biases)


def test_discrete_cql_loss_by_hand(line, config, kit):
    buffer, _ = kit("cql", "discrete")
    learner = create_learner("cql", line.spec, buffer.observation_size, config, "cpu")
    values = [1.0, 2.0, 3.0, 0.0, 0.0, 0.0, 0.0]
    constant([learner.q], values)
    constant([learner.target_q], [9.0, 9.0, 2.5, 9.0, 9.0, 9.0, 9.0])
    batch = replace(
        buffer.sample(2),
        actions=torch.tensor([[1.0], [2.0]]),
        rewards=torch.tensor([[0.02], [5.5]]),
        terminals=torch.tensor([[0.0], [1.0]]),
    )
    losses = learner.losses(batch)
    # the trained network chooses action 2, the target says 2.5 of it. Errors: 0.02 + 0.99 * 2.5 - 2 = 0.495
    # (quadratic) and 5.5 - 3 = 2.5 (linear, no bootstrap at the end)
    td = (0.5 * 0.495**2 + (2.5 - 0.5)) / 2
    conservative = math.log(sum(math.exp(q) for q in values)) - (2 + 3) / 2
    assert losses["td_loss"].item() == pytest.approx(td, rel=1e-5)
    assert losses["conservative_loss"].item() == pytest.approx(conservative, rel=1e-5)
    assert losses["loss"].item() == pytest.approx(td + config.cql.alpha * conservative, rel=1e-5)


def test_iql_losses_by_hand(line, config, kit):
    buffer, spec = kit("iql", "continuous")
    learner = create_learner("iql", spec, buffer.observation_size, config, "cpu")
    constant([learner.critics.first, learner.critics.second], [1.0])
    constant([learner.target_critics.first], [2.0])
    constant([learner.target_critics.second], [3.0])
    constant([learner.value], [1.5])
    constant([learner.actor.mean], [0.0, 0.0])  # deviation exp(-5 + 7 / 2)
    batch = replace(
        buffer.sample(2),
        actions=torch.tensor([[0.3, 0.0], [0.0, 0.0]]),
        rewards=torch.tensor([[0.5], [0.5]]),
        terminals=torch.tensor([[0.0], [1.0]]),
    )
    losses = learner.losses(batch)
    errors = (0.5 + 0.99 * 1.5 - 1) ** 2, (0.5 - 1) ** 2
    assert losses["q_loss"].item() == pytest.approx(2 * sum(errors) / 2, rel=1e-5)
    assert losses["v_loss"].item() == pytest.approx(0.7 * (2 - 1.5) ** 2, rel=1e-5)
    log_deviation = -5 + 7 / 2
    even = -2 * log_deviation - math.log(2 * math.pi)
    densities = even - 0.5 * (0.3 * math.exp(-log_deviation)) ** 2, even
    weight = math.exp(3 * (2 - 1.5))
    assert losses["actor_loss"].item() == pytest.approx(-weight * sum(densities) / 2, rel=1e-5)


TD = {
    "cql": "td_loss",
    "cql-continuous": "td_loss",
    "iql": "q_loss",
    "td3bc": "critic_loss",
    "awac": "critic_loss",
}


@pytest.mark.parametrize("name", sorted(TD))
def test_time_outs_bootstrap_with_gamma_and_ends_do_not(name, line, config, encoder):
    """What follows counts gamma times after a step and after a time-out, and not at all after success."""
    states = np.arange(9, dtype=np.float32).reshape(3, 3)
    ends = [
        Rollout(
            line.instruction("red"), states, np.array([4, 2]), np.array([7, 50], np.float32), success, "real"
        )
        for success in (True, False)
    ]
    data = RolloutSet.from_rollouts(line.spec, ends)

    def goal(row, gamma):
        """What the critics aim at, read from their loss while they say 0 and the targets 4."""
        settings = config.changed(gamma=gamma)
        vectors = learner_class(name, line.spec).vectors
        buffer = MixedBuffer(data, None, encoder, 0.0, np.random.default_rng(0), vectors=vectors)
        torch.manual_seed(0)
        learner = create_learner(name, line.spec, buffer.observation_size, settings, "cpu")
        width, parts = 1 if vectors else 7, dict(learner.named_modules())
        nets = {key: part for key, part in parts.items() if isinstance(part, MLP) and "actor" not in key}
        constant([nets[key] for key in nets if key.startswith(("q", "critics"))], [0.0] * width)
        constant([nets[key] for key in nets if key.startswith(("target", "value"))], [4.0] * width)
        loss = learner.losses(buffer.gather(np.array([row])))[TD[name]].item()
        return loss + 0.5 if name == "cql" else math.sqrt(loss / 2)  # Huber's, or two critics' squared error

    for row, reward in ((0, 7), (3, 50)):  # a step on the way, the last one before a time-out
        following = [(goal(row, gamma) - reward) / gamma for gamma in (0.9, 0.5)]
        assert following[0] == pytest.approx(following[1], abs=2e-4)
        assert following[0] == pytest.approx(4, abs=2e-4)
        assert goal(row, 0.0) == pytest.approx(reward, abs=1e-4)
    assert goal(1, 0.9) == goal(1, 0.5) == pytest.approx(50, abs=1e-4)


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
@pytest.mark.parametrize("name", NAMES)
def test_policy_acts_as_the_learner_predicts(name, kind, line, config, kit, encoder):
    buffer, spec = kit(name, kind)
    learner = create_learner(name, spec, buffer.observation_size, config, "cpu")
    for step in range(30):
        learner.update(buffer.sample(config.batch), step)
    policy = MLPPolicy(spec, name, encoder, [copied(learner.acting.layers)], output=learner.output)
    data = line.rollouts(50, seed=9)
    texts = [data.instructions[data.which[i]].text for i in data.owner]
    states = data.states[data.before]
    with torch.no_grad():
        expected = learner.acting(torch.from_numpy(np.hstack([states, encoder.encode(texts)]))).numpy()
    if learner.output == "tanh":
        expected = np.tanh(expected)
    if kind == "continuous":
        assert policy.act(states, texts).dtype == np.float32
        np.testing.assert_allclose(policy.act(states, texts), expected, atol=1e-6)
        assert expected.std(0).min() > 0.01
        return
    np.testing.assert_array_equal(policy.act(states, texts), expected.argmax(1))
    assert len(set(policy.values(states, texts).argmax(1).tolist())) > 1 or name == "cql-continuous"


@pytest.mark.parametrize("name", NAMES)
def test_action_count_comes_from_the_spec(name, line, config):
    spec = replace(line.spec, action_size=40)
    assert create_learner(name, spec, 9, config, "cpu").acting.head.out_features == 40


def test_unknown_names_are_refused(line):
    with pytest.raises(KalmError, match="unknown algorithm 'td4'.*bc, .*cql"):
        learner_class("td4", line.spec)


def test_actions_that_do_not_fit_are_refused(line, monkeypatch):
    monkeypatch.setitem(ALGORITHMS, "odd", OfflineAlgorithm(None, ALGORITHMS["iql"].continuous))
    with pytest.raises(
        KalmError, match="'odd' is not for discrete actions, which environment 'line' has.*bc, cql"
    ):
        learner_class("odd", line.spec)
