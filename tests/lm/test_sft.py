import numpy as np
import pytest
import torch

from kalm.errors import KalmError
from kalm.lm import sft
from kalm.lm.dataset import GroundingDataset
from kalm.lm.model import load_model
from kalm.runs.metrics import read_metrics


def run(config, world, rollouts, folder, seed=0):
    return sft.finetune(sft.fresh(config, world, seed, "cpu"), rollouts, world, config, seed, folder)


def test_losses_fall(config, world, rollouts, tmp_path):
    long = config.changed(rollouts=80, epochs=6.0)
    run(long, world, rollouts, tmp_path)
    rows = [row for row in read_metrics(tmp_path) if "train/text" in row]
    for name in ("text", "state", "action"):
        losses = [row[f"train/{name}"] for row in rows if row[f"train/{name}"] > 0]  # 0: no such answer
        assert np.mean(losses[-3:]) < np.mean(losses[:3]), name


class Stop(Exception):
    pass


def test_a_stopped_training_resumes_to_the_same_weights(config, world, rollouts, tmp_path):
    config = config.changed(rollouts=60, checkpoint_every=5)
    whole = run(config, world, rollouts, tmp_path / "whole")

    from contextlib import contextmanager

    @contextmanager
    def stopping(description, steps):
        assert steps > 8 or description != "ground"
        done = [0]

        def advance(n=1, **fields):
            done[0] += n
            if done[0] == 8:
                raise Stop

        yield advance

    with pytest.raises(Stop):
        sft.finetune(
            sft.fresh(config, world, 0, "cpu"), rollouts, world, config, 0, tmp_path / "stopped", stopping
        )
    resumed = run(config, world, rollouts, tmp_path / "stopped")
    for (name, one), two in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    steps = [row["step"] for row in read_metrics(tmp_path / "stopped")]
    assert steps == sorted(steps) and steps == [row["step"] for row in read_metrics(tmp_path / "whole")]


def test_a_checkpoint_of_other_data_is_refused(single, world, rollouts, tmp_path):
    config = single.changed(rollouts=60, checkpoint_every=2)
    run(config, world, rollouts, tmp_path)
    with pytest.raises(KalmError, match="other data, settings or seed"):
        run(config, world, rollouts.take(np.arange(100)), tmp_path)


def test_a_loss_that_is_not_finite_stops_the_training(config, world, rollouts, tmp_path):
    model = sft.fresh(config, world, 0, "cpu")
    with torch.no_grad():
        model.action_head.get_parameter("2.bias")[0] = float("inf")
    with pytest.raises(KalmError, match="the loss is"):
        sft.finetune(model, rollouts, world, config, 0, tmp_path)


def test_too_few_rollouts_are_refused(config, world, rollouts, tmp_path):
    with pytest.raises(KalmError, match="too few"):
        run(config, world, rollouts.take(np.arange(10)), tmp_path)


def test_every_rollout_gives_one_example_of_each_task(config, world, rollouts):
    model = sft.fresh(config, world, 0, "cpu")
    prompt_builder = model.prompt_builder()
    curriculum = GroundingDataset(rollouts, prompt_builder, config, 0)
    assert curriculum.examples() == dict.fromkeys(("generation", "explanation", "dynamics"), len(rollouts))
    ablated = config.changed(tasks={"dynamics": 0.0, "explanation": 0.5})
    counts = GroundingDataset(rollouts, prompt_builder, ablated, 0).examples()
    assert counts == {"generation": len(rollouts), "explanation": len(rollouts) // 2}


def test_a_saved_model_gives_the_same_losses(model, config, rollouts, tmp_path):
    from kalm.lm import packing

    model = model.float()
    prompt_builder = model.prompt_builder()
    rows = GroundingDataset(rollouts, prompt_builder, config, 0).groups(0)
    batch = packing.batch(rows, rollouts, model.backbone.two_way_prompt)
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.spec == model.spec
    for name, value in model(batch)._asdict().items():
        assert torch.allclose(value, getattr(loaded(batch), name), atol=1e-6)


def test_a_damaged_model_is_refused(model, tmp_path):
    model.float().save(tmp_path / "model")
    weights = tmp_path / "model" / "modules.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(KalmError, match="damaged"):
        load_model(tmp_path / "model")
    with pytest.raises(KalmError, match="does not exist"):
        load_model(tmp_path / "nothing")


def test_frozen_parts_do_not_move(config, world, rollouts, tmp_path):
    frozen = config.changed(rollouts=60, tuning="frozen")
    before = sft.fresh(frozen, world, 0, "cpu")
    after = run(frozen, world, rollouts, tmp_path)
    for (name, one), two in zip(
        before.lm.base_model.named_parameters(), after.lm.base_model.parameters(), strict=True
    ):
        assert torch.equal(one, two), name
    one, two = (model.action_head.get_parameter("0.weight") for model in (before, after))
    assert not torch.equal(one, two)
