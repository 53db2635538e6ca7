"""A GGUF file as backbone does all that any other does: it trains, imagines, explains, and comes back."""

import shutil

import numpy as np
import pytest
import torch

from checkpoints import write_checkpoint, write_gguf
from kalm.errors import KalmError
from kalm.lm import sft
from kalm.lm.budget import estimate
from kalm.lm.explain import explain
from kalm.lm.generate import imagine_rollouts
from kalm.lm.model import load_model
from kalm.runs.io import read_json


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setenv("KALM_CACHE", str(tmp_path / "cache"))
    plain = write_checkpoint("llama", tmp_path / "plain", tie_word_embeddings=True)
    return write_gguf(plain, tmp_path / "tiny.gguf", "Q8_0")


def ground(file, tuning, single, world, rollouts, folder):
    config = single.changed(backbone=str(file), tuning=tuning, lora={"rank": 4})
    fresh = sft.fresh(config, world, 0, "cpu")
    return config, sft.finetune(fresh, rollouts, world, config, 0, folder)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_it_is_grounded_and_comes_back(file, tuning, single, world, rollouts, rows, tmp_path):
    few = rollouts.take(np.arange(60))
    config, model = ground(file, tuning, single, world, few, tmp_path / "out")
    assert model.prompt_builder().start != model.prompt_builder().end and not model.backbone.two_way_prompt
    if tuning == "lora":  # the file is found again, whatever happened to the cache
        shutil.rmtree(tmp_path / "cache")
    else:  # the file is needed no more
        file.unlink()
    loaded = load_model(tmp_path / "out" / "model")
    about = read_json(tmp_path / "out" / "model" / "grounded.json", "model")["backbone"]
    assert (about["name"], about["stored"]) == (str(file), tuning == "full")
    assert not any("quantization" in one.read_text() for one in tmp_path.rglob("out/model/**/config.json"))
    some = few.take(np.arange(4))
    for one in (model, loaded):
        one.eval()
    assert explain(loaded, some, words=4) == explain(model, some, words=4)
    both = (imagine_rollouts(one, world, rows[:3], [0, 1, 2], horizon=3).rollouts for one in (model, loaded))
    ours, theirs = both
    assert np.array_equal(ours.actions, theirs.actions) and np.array_equal(ours.states, theirs.states)


def test_another_file_in_its_place_is_found_out(file, single, world, rollouts, tmp_path):
    ground(file, "frozen", single, world, rollouts.take(np.arange(60)), tmp_path / "out")
    write_gguf(write_checkpoint("llama", tmp_path / "other", seed=1), file)
    with pytest.raises(KalmError, match="Put that backbone back in its place"):
        load_model(tmp_path / "out" / "model")
    file.unlink()
    with pytest.raises(KalmError, match="no model folder and no GGUF file at"):
        load_model(tmp_path / "out" / "model")


def test_a_dry_run_converts_nothing(file, single, world, rollouts, tmp_path):
    config = single.changed(backbone=str(file))
    cost = estimate(config, rollouts, world, 0, "cpu", 1)
    assert cost["model_type"] == "llama" and cost["tried_out"]
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    torch.manual_seed(0)
    random = sft.fresh(config.changed(pretrained=False), world, 0, "cpu")
    assert random.backbone.origin.name == str(file)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
