"""Packed models and policies: small, with a card, and what they were before up to rounding."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import kalm
from kalm.cli.main import app
from kalm.errors import KalmError
from kalm.runs.io import file_sha256

GROUND = {"held_out": 4, "epochs": 0.2, "match_rollouts": 0, "explain_rollouts": 0, "network_steps": 5}
TRAIN = {"train.steps": 20, "train.batch": 16, "train.hidden": [16]}


@pytest.fixture(scope="module")
def made(tmp_path_factory, small_lm):
    """A folder with rollouts, a model tuned with adapters, its inspection, a policy and its episodes."""
    folder = tmp_path_factory.mktemp("made")
    backbone, encoder = (part.partition("=")[2] for part in small_lm[1::2])
    real = kalm.collect(folder / "real", env="clevr", rollouts=30, workers=1)
    ground = {**GROUND, "tuning": "lora", "lora": {"rank": 2}}
    kalm.ground(real, folder / "grounded", backbone=backbone, settings={"ground": ground})
    settings = {**TRAIN, "train.encoder": encoder}
    kalm.train(real, None, folder / "policies", algorithms=["bc"], seeds=[0, 1], workers=1, settings=settings)
    kalm.evaluate(folder / "policies", folder / "evaluation", settings={"evaluate.episodes": 4})
    small = [f"inspect.{name}=4" for name in ("rollouts", "explanations", "transitions")]
    options = [part for setting in small for part in ("--set", setting)]
    command = ["inspect", str(folder / "grounded"), "--out", str(folder / "inspection"), *options]
    assert CliRunner().invoke(app, command).exit_code == 0
    return folder


def pack(*arguments):
    result = CliRunner().invoke(app, ["models", "pack", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def model(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("packed") / "mine"
    return out, pack(made / "grounded", "--out", out, "--inspection", made / "inspection")


def test_the_card_says_what_a_model_is_and_how_it_was_made(model, made):
    out, card = model
    assert json.loads((out / "card.json").read_text()) == card
    assert (card["name"], card["kind"], card["environment"]) == ("mine", "grounded model", "clevr")
    assert card["data"] == {"rollouts": 30, "held_out": 4, "rollouts_in_data": 30}
    assert card["steps"] > 0 and card["losses"]["held_out/explanation_text"] > 0
    assert card["match"]["seen"]["n"] == 4 and {"seen_prompt", "inverse_planning"} < set(card["explanations"])
    for change in ("ground.tuning=lora", "ground.lora.rank=2", "ground.epochs=0.2", "--seed 0"):
        assert change in card["command"]
    assert card["files"].keys() == {
        str(path.relative_to(out)) for path in out.rglob("*") if path.is_file() and path.name != "card.json"
    }
    for name, facts in card["files"].items():
        assert facts == {"bytes": (out / name).stat().st_size, "sha256": file_sha256(out / name)}


def test_a_packed_model_is_in_half_precision_and_the_same_up_to_rounding(model, made):
    out, _ = model
    whole = made / "grounded" / "model"
    for name in ("modules.safetensors", "backbone/adapter/adapter_model.safetensors"):
        for tensor, weight in load_file(out / name).items():
            exact = tensor.startswith(("network.", "scales.", "changes."))
            assert weight.dtype == (torch.float32 if exact else torch.bfloat16), tensor
    before, after = kalm.load_model(whole).state_dict(), kalm.load_model(out).state_dict()
    for name, weight in before.items():
        assert after[name].dtype == weight.dtype
        torch.testing.assert_close(after[name], weight, rtol=2**-8, atol=0)


def test_a_packed_policy_acts_as_before_and_its_card_has_its_episodes_only(made, tmp_path):
    out, place = tmp_path / "policy", made / "policies" / "bc-seed1"
    card = pack(place, "--out", out, "--rows", made / "evaluation" / "rows.csv")
    assert (card["kind"], card["policy"], card["seed"], card["steps"]) == ("policy", "BC", 1, 20)
    assert card["success"]["BC"]["seen"]["n"] == 4 and list(card["success"]) == ["BC"]
    assert sorted(path.name for path in out.iterdir()) == [
        "card.json", "job.json", "policy.json", "policy.safetensors",
    ]  # fmt: skip
    states = np.random.default_rng(0).normal(size=(5, 10))
    texts = ["Push the red ball behind the blue ball."] * 5
    before, after = (kalm.load_policy(folder).act(states, texts) for folder in (place, out))
    assert np.array_equal(before, after)


def test_a_model_that_was_tuned_as_a_whole_is_refused(made, small_lm, tmp_path):
    backbone = small_lm[1].partition("=")[2]
    kalm.ground(made / "real", tmp_path / "full", backbone=backbone, settings={"ground": GROUND})
    result = CliRunner().invoke(
        app, ["models", "pack", str(tmp_path / "full"), "--out", str(tmp_path / "out")]
    )
    assert result.exit_code == 1 and isinstance(result.exception, KalmError | SystemExit)
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_over(model, made):
    out, _ = model
    before = file_sha256(out / "card.json")
    result = CliRunner().invoke(app, ["models", "pack", str(made / "grounded"), "--out", str(out)])
    assert result.exit_code == 1 and "not empty" in str(result.exception)
    assert file_sha256(out / "card.json") == before


def test_what_is_packed_is_taken_by_name(model, made, monkeypatch, tmp_path):
    out, _ = model
    monkeypatch.setattr("kalm.pretrained.shipped.SHIPPED", out.parent)
    monkeypatch.chdir(tmp_path)
    assert kalm.load_model("mine").spec.name == "clevr"
    shown = CliRunner().invoke(app, ["models", "show", "mine", "--json"])
    assert json.loads(shown.stdout)["name"] == "mine"
    listed = CliRunner().invoke(app, ["models", "list"])
    assert "mine: grounded model of clevr" in listed.stdout
    (tmp_path / "mine").mkdir()  # a folder of the user's goes first
    with pytest.raises(KalmError, match=r"grounded\.json does not exist"):
        kalm.load_model("mine")
