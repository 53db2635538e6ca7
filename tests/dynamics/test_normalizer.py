"""The normaliser: what numbers are measured from and by, and layers that do the measuring."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kalm import envs
from kalm.data.rollouts import RolloutSet
from kalm.dynamics.normalizer import (
    Normalizer,
    present_names,
    share_among_kinds,
    state_deviations,
    usual_changes,
)
from kalm.envs.rollout import EpisodeRecorder
from kalm.types import Entity, Goal, Instruction, WorldSpec


def test_by_hand_and_back():
    values = torch.tensor([[1.0, 5.0, 2.0], [3.0, 5.0, 6.0]])
    normalizer = Normalizer(3).fit(values)
    assert normalizer.mean.tolist() == [2, 5, 4] and normalizer.std.tolist() == [1, 1, 2]
    assert normalizer.normal(values).tolist() == [[-1, 0, -1], [1, 0, 1]]
    assert torch.equal(normalizer.denormal(normalizer.normal(values)), values)
    assert Normalizer(3).fit(values, constant=0.0).std.tolist() == [1, 0, 2]
    single = Normalizer().fit(torch.tensor([2.0, 6.0]).double())
    assert single.mean.shape == () and single.normal(torch.tensor([8.0])).tolist() == [2.0]


def test_it_is_saved_and_not_trained():
    normalizer = Normalizer(2).fit(torch.rand(5, 2))
    assert list(normalizer.state_dict()) == ["mean", "std"] and not list(normalizer.parameters())
    again = Normalizer(2)
    again.load_state_dict(normalizer.state_dict())
    assert torch.equal(again.std, normalizer.std)


def test_states_and_changes_of_rollouts():
    spec = WorldSpec("one", ("a", "b"), "discrete", 2, 5)
    record = EpisodeRecorder(spec, 1, horizon=2)
    record.states[:], record.lengths[:] = np.array([[[0, 4], [3, 4], [6, 4]]], np.float32), 2
    rollouts = RolloutSet.from_recorder([Instruction("go", "seen", Goal.of("go"))], record, "real")
    states, changes = Normalizer(2).fit_states(rollouts), Normalizer(2).fit_changes(rollouts)
    assert states.mean.tolist() == [3, 4]
    assert states.std.tolist() == pytest.approx([np.sqrt(6), 1], abs=1e-5)
    assert changes.mean.tolist() == [0, 0] and changes.std.tolist() == pytest.approx([3, 0], abs=1e-5)


def test_a_folded_first_layer_does_the_measuring():
    torch.manual_seed(0)
    raw = 1 + 0.001 * torch.randn(100, 3).double()
    more = torch.randn(100, 4).double()
    normalizer = Normalizer(3).fit(raw)
    layers = [(torch.randn(8, 7), torch.randn(8)), (torch.randn(2, 8), torch.randn(2))]
    folded = normalizer.folded(layers)
    assert folded[1] is layers[1] and folded[0][0].dtype == torch.float32
    weight, bias = (part.double() for part in layers[0])
    expected = torch.cat([normalizer.normal(raw), more], dim=1) @ weight.T + bias
    weight, bias = (part.double() for part in folded[0])
    # Stored in single precision, where its numbers are some thousand times larger.
    assert torch.allclose(torch.cat([raw, more], dim=1) @ weight.T + bias, expected, atol=2e-3)


def test_files_with_earlier_names_are_read():
    tensors = {"scale": torch.tensor([2.0]), "other": torch.ones(1)}
    found = present_names(tensors, {"scale": "changes.std", "gone": "states.std"})
    assert found == {
        "changes.std": tensors["scale"],
        "changes.mean": torch.zeros(1),
        "other": tensors["other"],
    }
    assert present_names(found, {"scale": "changes.std"}) == found


def test_a_number_that_never_varies_is_left_in_its_own_units():
    spec = WorldSpec("plain", ("a", "b"), "discrete", 2, 5)
    found = state_deviations(spec, np.array([[1, 0.1], [3, 0.1], [1, 0.1], [3, 0.1]], np.float32))
    assert found.tolist() == pytest.approx([1, 1], abs=1e-5)


def test_entities_of_one_kind_share_scales_and_others_do_not():
    world = envs.make("clevr")
    values = np.arange(10.0)
    assert share_among_kinds(world.spec, values).tolist() == [4.0, 5.0] * 5
    kinds = [replace(e, kind="ball" if i < 2 else "cube") for i, e in enumerate(world.spec.entities)]
    found = share_among_kinds(replace(world.spec, entities=tuple(kinds)), values)
    assert found.tolist() == [1.0, 2.0] * 2 + [6.0, 7.0] * 3


def test_things_that_are_not_there_make_no_movement_look_larger():
    things = tuple(Entity(name, (i,), "thing") for i, name in enumerate("abc"))
    spec = WorldSpec("things", ("a", "b", "c", "free"), "discrete", 2, 5, things)
    states = np.zeros((2, 3, 4), np.float32)
    states[0, :, 0] = 1.0, 1.3, 1.3  # the first has a, which moves by 0.3 in one of two steps
    states[1, :, 1] = 2.0, 2.4, 2.8  # the second has b, which moves by 0.4 in both; nobody has c
    record = EpisodeRecorder(spec, 2, horizon=2)
    record.states[:], record.lengths[:] = states, 2
    rollouts = RolloutSet.from_recorder([Instruction("go", "seen", Goal.of("go"))] * 2, record, "real")
    usual = (0.3 / np.sqrt(2) + 0.4) / 2
    np.testing.assert_allclose(usual_changes(spec, rollouts), [usual] * 3 + [0], atol=1e-5)
    alone = replace(spec, entities=(replace(things[2], kind="other"),))
    assert usual_changes(alone, replace(rollouts, spec=alone))[2] == pytest.approx(1, abs=1e-5)
