"""A whole inspection of a small random model."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertLMHeadModel

from kalm import envs
from kalm.data.settings import CollectConfig
from kalm.errors import KalmError
from kalm.evaluation.grounding import Inspection, fresh_rollouts, inspect
from kalm.evaluation.settings import InspectConfig
from kalm.lm import sft
from kalm.lm.settings import GroundConfig, ImagineConfig
from kalm.pretrained import locate
from kalm.types import LEVELS

CONFIG = InspectConfig(rollouts=6, explanations=5, transitions=20)
SAMPLING = ImagineConfig(horizon=3, precision="float32")


@pytest.fixture(scope="module")
def world():
    return envs.make("clevr")


@pytest.fixture(scope="module")
def real(world):
    return fresh_rollouts(world, CONFIG, CollectConfig(), 0)


@pytest.fixture(scope="module")
def model(world, real, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = AutoTokenizer.from_pretrained(locate("minilm"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    BertLMHeadModel(BertConfig(vocab_size=len(tokenizer), is_decoder=True, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    model = sft.fresh(GroundConfig(backbone=str(folder)), world, 0, "cpu").eval()
    model.fit_scales(real)
    return model


@pytest.fixture(scope="module")
def goals(world):
    return [instruction for level in LEVELS for instruction in world.suite(level)]


@pytest.fixture(scope="module")
def found(model, world, goals, real):
    return inspect(model, world, goals, real, CONFIG, SAMPLING, 0)


def test_everything_is_measured_with_its_numbers(found, goals):
    inspection, evidence = found
    assert list(inspection.levels) == list(LEVELS)
    assert all(level.rollouts == 6 for level in inspection.levels.values())
    easy = inspection.levels["easy"]
    assert easy.action_match.n == easy.change_match.n == 6
    assert list(inspection.agreement) == [*LEVELS, "real"]
    assert inspection.agreement["easy"].drift.keys() == {1}
    assert list(inspection.explanation)[2:] == [
        "inverse_planning", "inverse_planning_and_success_test", "success_test_alone",
    ]  # fmt: skip
    for slots in inspection.explanation.values():
        assert slots.keys() == {"object", "direction", "reference", "all"} and slots["all"].n == 5
    assert [error.transitions for error in inspection.dynamics.values()] == [20, 20]
    assert inspection.dropped == 0 and inspection.splits == ("test", "tune")
    assert len(evidence.imagined) == 24 and len(evidence.explained) == 25
    assert evidence.lines()[0].keys() == {"prompt", "label", "text"}


def test_the_same_seed_gives_the_same_figures(found, model, world, goals, real):
    assert inspect(model, world, goals, real, CONFIG, SAMPLING, 0)[0] == found[0]
    assert inspect(model, world, goals, real, CONFIG, SAMPLING, 1)[0] != found[0]


def test_json_round_trip(found):
    assert Inspection.from_json(found[0].to_json()) == found[0]


def test_a_few_goals_are_taken_in_turn(model, world, real):
    goals = world.suite("rephrase")[:2]
    inspection, evidence = inspect(model, world, goals, real, CONFIG, SAMPLING, 0)
    assert list(inspection.levels) == ["rephrase"]
    assert np.bincount(evidence.imagined.which).tolist() == [3, 3]


def test_fresh_rollouts_reach_their_goals(real):
    assert len(real) == 20 and real.success.all() and set(real.levels) == {"seen"}


def test_the_splits_share_no_sentence_and_no_initial_state(world, real):
    tuned = fresh_rollouts(world, CONFIG.changed(split="tune"), CollectConfig(), 0)
    for one, split in ((real, "test"), (tuned, "tune")):
        assert {instruction.split for instruction in one.instructions} == {split}
    assert not set(map(tuple, real.first_states)) & set(map(tuple, tuned.first_states))


def test_a_model_of_which_nothing_is_finite_is_refused(model, world, goals, real):
    broken = deepcopy(model)
    with torch.no_grad():
        for parameter in broken.network.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(KalmError, match="not usable"):
        inspect(broken, world, goals[:1], real, CONFIG, SAMPLING, 0)
