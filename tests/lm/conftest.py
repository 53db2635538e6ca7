"""Small random language models saved to disk in the Hugging Face layout, and a few real rollouts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertLMHeadModel, LlamaConfig, LlamaForCausalLM

from kalm import envs
from kalm.config import CollectConfig, GroundConfig
from kalm.data.collect import collect
from kalm.lm import sft
from kalm.weights import locate


@pytest.fixture(scope="session")
def world():
    return envs.make("clevr")


@pytest.fixture(scope="session")
def rollouts(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    return collect(world, CollectConfig(rollouts=160, shard=160), 0, folder)


@pytest.fixture(scope="session", params=["bert", "llama"])
def checkpoint(request, tmp_path_factory) -> Path:
    """A random model of each family, with the packaged tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = AutoTokenizer.from_pretrained(locate("minilm"))
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
    }
    torch.manual_seed(0)
    if request.param == "bert":
        model = BertLMHeadModel(BertConfig(vocab_size=len(tokenizer), is_decoder=True, **sizes))
    else:
        config = LlamaConfig(
            vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=256, **sizes
        )
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def config(checkpoint) -> GroundConfig:
    return GroundConfig(
        backbone=str(checkpoint),
        rows=2,
        row_tokens=128,
        held_out=16,
        evaluate_every=1000,
        checkpoint_every=1000,
        match_rollouts=0,
        body_lr=3e-3,
        new_lr=3e-3,
        precision="float32",
    )


@pytest.fixture
def model(config, world, rollouts):
    fresh = sft.fresh(config, world, 0, "cpu").double().eval()
    fresh.fit_scales(rollouts)
    # Heads start small; larger ones make different inputs give clearly different outputs.
    with torch.no_grad():
        for head in (fresh.state_head, fresh.action_head):
            head.get_parameter("2.weight").mul_(20)
    return fresh


@pytest.fixture
def rows(world):
    """Instructions of all levels, some of them repeated."""
    rng = np.random.default_rng(0)
    picked = [
        world.suite(level)[i]
        for level in ("seen", "rephrase", "easy", "hard")
        for i in rng.integers(100, size=3)
    ]
    return [*picked, *picked[:4]]
