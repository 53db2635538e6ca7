"""Adapters folded into the weights for imagining: the same rollouts, and a drift that is measured."""

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

import kalm
from kalm.lm import lora, sft
from kalm.lm.generate import imagine_rollouts
from kalm.lm.merging import merge_for_imagining
from kalm.runs.io import read_json
from kalm.types import Instruction


@pytest.fixture
def adapted(config, world):
    """A model whose adapters, which begin as zeros, say something."""
    model = sft.fresh(config.changed(tuning="lora"), world, 0, "cpu").eval()
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if lora.is_adapter(name):
            torch.nn.init.normal_(weight.data, std=0.1)
    return model


def imagined(model, world, rows):
    return imagine_rollouts(model, world, rows, range(len(rows)), horizon=4, precision="float32").rollouts


def test_merged_adapters_imagine_the_same(adapted, world, rows):
    before = imagined(adapted, world, rows)
    drift = merge_for_imagining(adapted, [row.text for row in rows])
    adapters = [module for module in adapted.backbone.body.modules() if isinstance(module, LoraLayer)]
    assert adapters and all(module.merged for module in adapters)
    assert 0 < drift < 1e-4
    after = imagined(adapted, world, rows)
    assert np.array_equal(before.actions, after.actions)
    assert np.allclose(before.states, after.states, atol=1e-5)


def test_the_drift_shows_a_weight_that_is_not_what_it_was(adapted, world, rows, monkeypatch):
    first = next(m for m in adapted.backbone.body.modules() if isinstance(m, LoraLayer))
    monkeypatch.setattr(first, "merge", lambda safe_merge: first.get_base_layer().weight.mul_(-1))
    assert merge_for_imagining(adapted, [row.text for row in rows]) > 1e-3


def test_without_adapters_nothing_moves(single, world, rows):
    model = sft.fresh(single, world, 0, "cpu").eval()
    assert merge_for_imagining(model, [row.text for row in rows]) == 0


def test_the_stage_tells_the_drift(adapted, world, rows, tmp_path):
    adapted.save(tmp_path / "model")
    goals = [Instruction(row.text, row.level, row.goal) for row in rows[:3]]
    settings = {"imagine.horizon": 2, "imagine.per_file_instruction": 1, "imagine.merge_adapters": True}
    kalm.imagine(tmp_path / "model", tmp_path / "imagined", goals=goals, settings=settings)
    found = read_json(tmp_path / "imagined" / "done.json", "imagination")["result"]
    assert 0 < found["merge_drift"] < 1e-4
