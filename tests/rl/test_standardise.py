"""States in units of their spread: learners see them so, policies take the world's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kalm.dynamics.normalizer import Normalizer
from kalm.rl.buffer import MixedBuffer
from kalm.rl.networks import MLP
from kalm.rl.policy import copied, load_mlp_policy
from kalm.rl.train import train_offline


@pytest.fixture
def faint(line):
    """States that differ by thousandths around 1, beside goal vectors with numbers of size 1."""
    data = line.rollouts(200)
    return replace(data, states=(1 + 0.001 * data.states).astype(np.float32))


def test_observations_hold_measured_states_and_goals_as_they_are(faint, encoder):
    normalizer = Normalizer(3).fit_states(faint)
    plain, measured = (
        MixedBuffer(faint, None, encoder, 0.0, np.random.default_rng(0), normalizer=given).sample(400)
        for given in (None, normalizer)
    )
    for name in ("observations", "next_observations"):
        before, after = getattr(plain, name), getattr(measured, name)
        assert torch.equal(before[:, 3:], after[:, 3:])
        assert torch.allclose(normalizer.denormal(after[:, :3]), before[:, :3], atol=1e-6)
    assert 0.8 < float(measured.observations[:, :3].std()) < 1.2


def test_a_folded_first_layer_gives_the_same_numbers_on_the_worlds_states(faint):
    torch.manual_seed(0)
    normalizer = Normalizer(3).fit_states(faint)
    measured, folded = MLP((3 + 4,), (8,), 2), MLP((3 + 4,), (8,), 2)
    states, goals = torch.from_numpy(faint.states[:50]).double(), torch.randn(50, 4).double()
    for layer, (weight, bias) in zip(folded.layers, normalizer.folded(copied(measured.layers)), strict=True):
        assert weight.dtype == bias.dtype == torch.float32
        layer.weight.data, layer.bias.data = weight, bias
    expected, found = (
        network.double()(torch.cat([given, goals], dim=1))
        for network, given in ((measured, normalizer.normal(states)), (folded, states))
    )
    # The folded layer is stored in single precision, its numbers are some thousand times larger.
    assert torch.allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("name", ["bc", "iql"])
def test_faint_states_are_heard_only_when_measured(name, faint, line, config, encoder, tmp_path):
    rates = []
    for measured in (False, True):
        folder = tmp_path / str(measured)
        train_offline(
            line.spec,
            faint,
            None,
            name,
            0,
            config.changed(standardise=measured),
            encoder,
            folder,
        )
        policy = load_mlp_policy(folder, encoder=encoder)
        texts = [faint.instructions[faint.which[i]].text for i in faint.owner]
        rates.append((policy.act(faint.states[faint.before], texts) == faint.actions).mean())
    assert rates[0] < 0.7 and rates[1] > 0.85


def test_looking_changes_nothing_where_states_are_measured(faint, line, config, encoder, tmp_path):
    looking = config.changed(steps=40, evaluate_every=10, standardise=True)
    stored = []
    for name, look in (("looks", lambda policy, step: {"x": 0.0}), ("does not", None)):
        train_offline(
            line.spec, faint, None, "cql-continuous", 0, looking, encoder, tmp_path / name, eval_callback=look
        )
        stored.append(load_file(tmp_path / name / "policy.safetensors"))
    assert all(torch.equal(stored[0][key], stored[1][key]) for key in stored[0])
