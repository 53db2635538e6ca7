"""Stages that ask in plans: who reads them, and that nothing is read to what the reader is not sure of."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from checkpoints import write_checkpoint
from kalm.config import Config
from kalm.data.collect import collect_rollouts
from kalm.data.settings import CollectConfig
from kalm.envs import make
from kalm.envs.sentences import plain_steps
from kalm.errors import KalmError
from kalm.evaluation.results import read_rows
from kalm.pipeline import run_pipeline
from kalm.reader.adapter import FACTS
from kalm.reader.reader import load_reader
from kalm.runs.io import read_json, write_json
from kalm.session import Session
from kalm.stages.evaluate import EVALUATE, EvaluateInputs
from kalm.stages.reading import planner, plans_for
from kalm.stages.train import TRAIN, TrainInputs


def scenes(world, rows):
    return world.initial_states([row.goal for row in rows], range(len(rows)))


def session(reader, **sections):
    return Session(Config(reader=str(reader)).changed(**sections))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return str(write_checkpoint("bert", tmp_path_factory.mktemp("bert"), max_position_embeddings=1024))


@pytest.fixture(scope="module")
def policies(encoder, tmp_path_factory):
    """The folder of a policy that was hardly trained."""
    real, folder = tmp_path_factory.mktemp("real"), tmp_path_factory.mktemp("policies") / "made"
    world = make("clevr")
    collect_rollouts(world, CollectConfig(rollouts=40, shard=40), 0, real)
    train = {"encoder": encoder, "algorithms": ["bc"], "seeds": [0], "steps": 20, "evaluate_episodes": 1}
    TRAIN.alone(session("smollm2", train=train, workers=1), TrainInputs(real), folder)
    return folder


def test_the_goals_own_structure():
    mine = session("smollm2")
    asked = [*mine.world.suite("hard")[::23], *mine.world.suite("easy")[:3]]
    found = plans_for(mine, asked, "parts", samples=0)
    assert set(found) == {row for row in asked if row.goal.kind != "move"}
    for row, (plan,) in found.items():
        assert mine.world.is_plan([step.goal for step in plan], row.goal)
        assert all(step == plain_steps(mine.world)[step.goal] for step in plan)
    acted = planner(mine, asked, "parts")([row.text for row in asked], scenes(mine.world, asked))
    assert [[tuple(plan)] if plan else [] for plan in acted] == [found.get(row, []) for row in asked]


def test_all_plans_are_there_to_be_tried_and_the_sure_ones_to_be_acted_on(sure_reader):
    mine = session(sure_reader)
    asked = mine.world.suite("rephrase")[:4]
    best = load_reader(sure_reader).read([row.text for row in asked], mine.world)
    tried = plans_for(mine, asked, "reader", samples=6)
    assert list(tried) == list(asked) and any(len(plans) > 2 for plans in tried.values())
    assert all(len(set(plans)) == len(plans) for plans in tried.values())
    assert all(plan.sure for plan in best) and any(plan.steps for plan in best)
    acted = planner(mine, asked, "reader")([row.text for row in asked], scenes(mine.world, asked))
    assert acted == [plan.steps for plan in best]


def test_no_plan_that_the_reader_is_not_sure_of_is_acted_on(sure_reader, tmp_path):
    doubtful = Path(shutil.copytree(sure_reader, tmp_path / "doubtful"))
    facts = read_json(doubtful / FACTS, "reader")
    facts["calibration"]["threshold"] = 1.0
    write_json(doubtful / FACTS, facts)
    mine = session(doubtful)
    asked = mine.world.suite("rephrase")[:4]
    acted = planner(mine, asked, "reader")([row.text for row in asked], scenes(mine.world, asked))
    assert acted == [()] * 4
    best = load_reader(doubtful).read([row.text for row in asked], mine.world)
    tried = plans_for(mine, asked, "reader", samples=0)
    assert [plans[0] for plans in tried.values()] == [plan.steps for plan in best]


def test_a_reader_that_is_not_there_ends_a_run_before_it_begins(tmp_path):
    mine = session(tmp_path / "none", evaluate={"readings": ["reader"]})
    with pytest.raises(KalmError, match="none"):
        run_pipeline(mine, tmp_path / "run")
    assert not (tmp_path / "run" / "real").exists()


def test_off_may_be_written_as_yaml_reads_it():
    config = Config.model_validate(
        {"imagine": {"reading": False}, "evaluate": {"readings": [False, "parts"]}}
    )
    assert config.imagine.reading == "off"
    assert config.evaluate.readings == ("off", "parts")


def test_policies_play_once_per_reading(sure_reader, tmp_path, policies, encoder):
    evaluate = {"episodes": 4, "horizon": 3, "readings": ["off", "reader", "parts"]}
    mine = session(sure_reader, evaluate=evaluate, train={"encoder": encoder}, workers=1)
    EVALUATE.alone(mine, EvaluateInputs(policies, levels=("rephrase", "hard")), tmp_path / "out")
    rows = read_rows(tmp_path / "out" / "rows.csv")
    names = {row.policy: row.reading for row in rows}
    assert names == {"BC": "", "BC + reader": "reader", "BC + parts": "parts"}
    assert len(rows) == 3 * 2 * 4
    same = [[(r.text, r.episode_seed) for r in rows if r.policy == name] for name in names]
    assert same[0] == same[1] == same[2]
    assert np.isfinite([row.reward for row in rows]).all()
