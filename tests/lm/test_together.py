"""Several processes give what one gives: trained replicated or sharded, and imagining."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from kalm.data import storage
from kalm.errors import KalmError
from kalm.lm import sft
from kalm.lm.imagine import imagination_plan, imagine_dataset
from kalm.lm.settings import GroundConfig, ImagineConfig
from kalm.runs import processes
from kalm.runs.metrics import read_metrics
from kalm.training.checkpoint import NAME

# Weights move by 1e-3. The world's numbers are float32, so are the heads' outputs, and Adam enlarges that.
ROUNDING = 1e-6
IMAGINE = ImagineConfig(rephrase=1, easy=0, hard=0, horizon=3, shard=4)


@pytest.fixture(scope="module")
def settings(llama):
    return GroundConfig(
        backbone=str(llama),
        rows=4,
        row_tokens=128,
        network_steps=5,
        rollouts=24,
        held_out=8,
        checkpoint_every=2,
        match_rollouts=2,
        explain_rollouts=2,
        precision="float32",
    )


def train(settings, world, rollouts, folder):
    # In float64, because Adam turns gradients that are nothing but rounding into steps of full size.
    model = sft.fresh(settings, world, 0, "cpu").double()
    return sft.finetune(model, rollouts, world, settings, 0, folder)


@pytest.fixture(scope="module")
def place(settings, world, rollouts, tmp_path_factory) -> Path:
    """A folder with what one process did, and then two."""
    place = tmp_path_factory.mktemp("together")
    storage.write(rollouts, place / "real", {})
    (place / "ground.json").write_text(settings.model_dump_json())
    (place / "imagine.json").write_text(IMAGINE.model_dump_json())
    train(settings, world, rollouts, place / "alone")
    (place / "continued").mkdir()
    shutil.copy(place / "alone" / NAME, place / "continued")
    script = Path(__file__).with_name("together.py")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run([*launcher, script, place], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    return place


def weights(folder: Path) -> dict[str, torch.Tensor]:
    model = folder / "model"
    return load_file(model / "modules.safetensors") | load_file(model / "backbone" / "model.safetensors")


def largest_difference(one: Path, two: Path) -> float:
    left, right = weights(one), weights(two)
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


@pytest.mark.parametrize("way", ["replicated", "sharded", "continued"])
def test_two_processes_train_what_one_trains(place, way):
    with safe_open(place / "alone" / NAME, "pt") as stored:
        assert json.loads(stored.metadata()["about"])["step"] >= 2
    assert largest_difference(place / "alone", place / way) < ROUNDING
    alone, together = (read_metrics(place / name)[-1] for name in ("alone", way))
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        assert together[name] == pytest.approx(value, rel=1e-6), name


def test_one_process_continues_what_two_with_shards_began(place, settings, world, rollouts, tmp_path):
    shutil.copy(place / "sharded" / NAME, tmp_path)
    train(settings, world, rollouts, tmp_path)
    assert largest_difference(place / "alone", tmp_path) < ROUNDING


def test_two_processes_imagine_what_one_imagines_to_the_bit(place, world, tmp_path):
    from kalm.lm.model import load_model

    model = load_model(place / "alone" / "model")
    one = imagine_dataset(model, world, imagination_plan(world, IMAGINE)[:20], IMAGINE, 0, tmp_path, {})
    two = storage.read(place / "imagined")
    assert storage.finished_shards(tmp_path) == storage.finished_shards(place / "imagined") == set(range(5))
    for name in ("states", "actions", "rewards", "lengths", "which", "success"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


def test_a_batch_in_parts_gives_the_gradient_of_the_whole(settings, world, rollouts, tmp_path):
    parts = settings.changed(accumulate=4)
    whole = train(settings, world, rollouts, tmp_path / "whole").state_dict()
    for name, value in train(parts, world, rollouts, tmp_path / "parts").state_dict().items():
        assert torch.allclose(value, whole[name], rtol=0, atol=ROUNDING), name


def test_more_parts_than_rows_are_refused(settings, world, rollouts, tmp_path):
    parts = settings.changed(accumulate=5)
    with pytest.raises(KalmError, match="4 rows cannot be divided into 5 parts"):
        train(parts, world, rollouts, tmp_path)


def test_one_process_is_the_main_one_and_waits_for_nobody():
    assert processes.count() == 1 and processes.is_main()
    processes.wait()
    assert processes.total([1.5, 2]) == [1.5, 2]
