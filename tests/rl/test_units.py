"""States in units of their spread: learners see them so, policies take the world's own."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kalm.rl.buffer import MixedBuffer
from kalm.rl.mlp import forward
from kalm.rl.policy import load_policy
from kalm.rl.train import fit
from kalm.rl.units import Units


@pytest.fixture
def faint(line):
    """States that differ by thousandths around 1, beside goal vectors with numbers of size 1."""
    data = line.rollouts(200)
    return replace(data, states=(1 + 0.001 * data.states).astype(np.float32))


def test_observations_hold_measured_states_and_goals_as_they_are(faint, encoder):
    units = Units.of(faint, "cpu")
    plain, measured = (
        MixedBuffer(faint, None, encoder, 0.0, np.random.default_rng(0), units=given).sample(400)
        for given in (None, units)
    )
    for name in ("observations", "next_observations"):
        before, after = getattr(plain, name), getattr(measured, name)
        assert torch.equal(before[:, 3:], after[:, 3:])
        assert torch.allclose(after[:, :3] * units.spread + units.mean, before[:, :3], atol=1e-6)
    assert 0.8 < float(measured.observations[:, :3].std()) < 1.2


def test_a_folded_first_layer_gives_the_same_numbers_on_the_worlds_states(faint):
    torch.manual_seed(0)
    units = Units.of(faint, "cpu")
    layers = [torch.nn.Linear(3 + 4, 8).double(), torch.nn.Linear(8, 2).double()]
    states, goals = torch.from_numpy(faint.states[:50]).double(), torch.randn(50, 4).double()
    expected = forward(layers, torch.cat([units(states), goals], dim=1))
    folded = [layer.double() for layer in units.folded(layers)]
    found = forward(folded, torch.cat([states, goals], dim=1))
    # The folded layer is stored in single precision, its numbers are some thousand times larger.
    assert torch.allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize("name", ["bc", "iql"])
def test_faint_states_are_heard_only_when_measured(name, faint, line, config, encoder, tmp_path):
    rates = []
    for measured in (False, True):
        folder = tmp_path / str(measured)
        fit(
            line.spec,
            faint,
            None,
            name,
            0,
            config.model_copy(update={"standardise": measured}),
            encoder,
            folder,
        )
        policy = load_policy(folder, encoder=encoder)
        texts = [faint.instructions[faint.which[i]].text for i in faint.owner]
        rates.append((policy.act(faint.states[faint.before], texts) == faint.actions).mean())
    assert rates[0] < 0.7 and rates[1] > 0.85
