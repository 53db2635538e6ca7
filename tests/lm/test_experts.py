"""LoRA on mixtures of experts: adapted, saved, loaded, counted; what is left alone is said."""

import logging

import pytest
import torch

from checkpoints import write_checkpoint
from kalm.errors import KalmError
from kalm.lm import lora
from kalm.lm.loading import load_backbone
from kalm.lm.settings import GroundConfig


@pytest.fixture(params=["qwen2_moe", "deepseek_v3"])
def folder(request, tmp_path):
    return write_checkpoint(request.param, tmp_path / request.param)


def adapted(folder, dropout=0.0, **settings):
    config = GroundConfig(
        backbone=str(folder), tuning="lora", lora={"rank": 2, "dropout": dropout}, **settings
    )
    return lora.tuned(load_backbone(str(folder), weights=config.weights), config)


def hidden(backbone):
    ids = torch.arange(10, 20)[None]
    return backbone.body(input_ids=ids, use_cache=False).last_hidden_state


def test_experts_have_adapters_that_learn_and_the_rest_is_said(folder, caplog):
    with caplog.at_level(logging.WARNING):
        backbone = adapted(folder)
    reach = lora.reach(backbone)
    assert not [name for name in reach.left_alone if ".mlp.experts." in name]
    assert 0.5 < reach.share < 1 and any("mlp.gate" in name for name in reach.left_alone)
    assert all(name in caplog.text for name in reach.left_alone)
    hidden(backbone).square().sum().backward()
    experts = {n: p for n, p in backbone.body.named_parameters() if "experts" in n and lora.is_adapter(n)}
    assert experts and all(weight.grad is not None for weight in experts.values())
    assert any(weight.grad.any() for weight in experts.values())


@pytest.mark.parametrize("weights", ["float32", "bfloat16"])
def test_loaded_adapters_are_the_saved_ones(folder, tmp_path, weights):
    backbone = adapted(folder, weights=weights)
    with torch.no_grad():
        before = hidden(backbone)
        for name, weight in backbone.model.named_parameters():
            if lora.is_adapter(name):
                weight.normal_(std=0.3)
        moved = hidden(backbone)
        assert not torch.allclose(moved, before)
        lora.save_backbone(backbone, tmp_path / "saved")
        loaded = lora.restore_backbone(tmp_path / "saved", backbone.origin, backbone.two_way_prompt)
        assert torch.equal(hidden(loaded), moved)


def test_a_base_that_is_stored_keeps_its_own_names(folder, tmp_path):
    backbone = adapted(folder, train_embeddings=True)
    assert backbone.origin.stored
    lora.save_backbone(backbone, tmp_path / "saved")
    loaded = lora.restore_backbone(tmp_path / "saved", backbone.origin, backbone.two_way_prompt)
    with torch.no_grad():
        assert torch.equal(hidden(loaded), hidden(backbone))


def test_dropout_on_experts_is_refused(folder):
    with pytest.raises(KalmError, match="Set ground.lora.dropout=0"):
        adapted(folder, dropout=0.1)
