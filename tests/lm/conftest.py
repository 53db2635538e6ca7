"""A grounded model of every family of small random checkpoints, and a few real rollouts."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from checkpoints import SPECIAL, write_checkpoint
from kalm import envs
from kalm.data.collect import collect_rollouts
from kalm.data.settings import CollectConfig
from kalm.lm import sft
from kalm.lm.settings import GroundConfig


@pytest.fixture(scope="session")
def world():
    return envs.make("clevr")


@pytest.fixture(scope="session")
def rollouts(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    return collect_rollouts(world, CollectConfig(rollouts=160, shard=160), 0, folder)


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Return where a random model of a family is, with a tokenizer that has the family's special tokens."""
    return cache(lambda family: write_checkpoint(family, tmp_path_factory.mktemp(family)))


@pytest.fixture(params=SPECIAL)
def checkpoint(request, saved) -> Path:
    return saved(request.param)


@pytest.fixture(scope="session")
def llama(saved) -> Path:
    """A model of one family, for tests that need no other."""
    return saved("llama")


@pytest.fixture(params=[family for family in SPECIAL if family != "qwen2"])
def config(request, saved) -> GroundConfig:
    """Settings with each family; to train it, Qwen2 is a Llama."""
    return small(saved(request.param))


@pytest.fixture
def single(llama) -> GroundConfig:
    """Settings with one family, for tests that need no other."""
    return small(llama)


def small(backbone: Path) -> GroundConfig:
    return GroundConfig(
        backbone=str(backbone),
        rows=2,
        row_tokens=128,
        held_out=16,
        network_steps=5,
        evaluate_every=1000,
        checkpoint_every=1000,
        match_rollouts=0,
        explain_rollouts=0,
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
        for head in (fresh.state_head.layers, fresh.action_head):
            head.get_submodule(str(len(head) - 1)).get_parameter("weight").mul_(20)
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
