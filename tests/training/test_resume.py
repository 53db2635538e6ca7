"""A training that was stopped ends as one that was not, to the bit; and files that must not be continued."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from trainee import Killed, Trainee

from kalm.errors import KalmError
from kalm.runs.metrics import read_metrics
from kalm.training.checkpoint import FORMAT, NAME, Checkpoint


@pytest.mark.parametrize("kill_at", [4, 7, 8, 15, 19])
def test_a_stopped_training_ends_with_the_same_bits(tmp_path, kill_at):
    whole = Trainee(tmp_path / "whole")
    expected = whole.run()
    with pytest.raises(Killed):
        Trainee(tmp_path / "stopped").run(kill_at)
    resumed = Trainee(tmp_path / "stopped")
    found = resumed.run()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    assert read_metrics(tmp_path / "stopped") == read_metrics(tmp_path / "whole")
    assert resumed.rates == whole.rates[-len(resumed.rates) :]
    one, two = (load_file(tmp_path / name / NAME) for name in ("whole", "stopped"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_finished_training_takes_no_step_more(tmp_path):
    expected = {name: tensor.clone() for name, tensor in Trainee(tmp_path).run().items()}
    again = Trainee(tmp_path)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.run().items())
    assert again.rates == []


def test_the_file_says_what_it_is_in_its_header(tmp_path):
    Trainee(tmp_path).run()
    with safe_open(tmp_path / NAME, "pt") as stored:
        about = json.loads(stored.metadata()["about"])
        names = list(stored.keys())
    assert (about["format"], about["identity"], about["step"]) == (FORMAT, "trainee", 20)
    assert set(about["facts"]) == {"rng", "mean"}
    assert {"weight/second.bias", "first/0/exp_avg", "second/1/step", "rng/cpu"} <= set(names)


def test_random_numbers_go_on_where_they_were(tmp_path):
    module = nn.Linear(2, 2)
    checkpoint = Checkpoint(tmp_path / NAME, "a", dict(module.named_parameters()), {})
    torch.manual_seed(5)
    torch.rand(3)
    checkpoint.save(1)
    expected = torch.rand(3)
    torch.manual_seed(6)
    assert checkpoint.restore().step == 1
    assert torch.equal(torch.rand(3), expected)


def test_a_file_of_something_else_is_refused_by_name(tmp_path):
    Trainee(tmp_path).run()
    with pytest.raises(KalmError, match=f"{NAME} was made from other data, settings or seed.*delete"):
        Trainee(tmp_path, identity="another").run()
    # Another training may begin where this one ended ...
    other = Trainee(tmp_path / "other", identity="another")
    assert other.checkpoint.restore_from(tmp_path / NAME).step == 20
    assert torch.equal(other.second.weight, load_file(tmp_path / NAME)["weight/second.weight"])
    # ... if it trains the same weights.
    with pytest.raises(KalmError, match=r"has \(5, 3\) first.0.weight, needed is \(6, 3\)"):
        Trainee(tmp_path / "other", width=6).checkpoint.restore_from(tmp_path / NAME)
    with pytest.raises(KalmError, match="no.*does not exist|does not exist.*no training"):
        other.checkpoint.restore_from(tmp_path / "nothing" / NAME)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def _header(path):
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def _foreign(path):
    save_file({"a": torch.zeros(1)}, path)


def _older(path):
    save_file(load_file(path), path, {"about": json.dumps({"format": "kalm-training-0"})})


def _empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_cut, _header, _foreign, _older, _empty])
def test_a_damaged_file_is_named_with_the_remedy(tmp_path, damage):
    Trainee(tmp_path).run()
    damage(tmp_path / NAME)
    with pytest.raises(KalmError, match=f"checkpoint .*{NAME} is damaged .*Delete the file") as raised:
        Trainee(tmp_path).run()
    assert "\n" not in str(raised.value)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    with pytest.raises(Killed):
        Trainee(tmp_path / "stopped").run(kill_at=5)
    monkeypatch.setattr("kalm.training.checkpoint.save_file", _half_written)
    with pytest.raises(Killed):
        Trainee(tmp_path / "stopped").run()
    monkeypatch.undo()
    assert sorted(path.name for path in (tmp_path / "stopped").glob("*.safetensors")) == [NAME]
    found, expected = Trainee(tmp_path / "stopped").run(), Trainee(tmp_path / "whole").run()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def _half_written(tensors, path, metadata):
    path.write_bytes(b"half")
    raise Killed
