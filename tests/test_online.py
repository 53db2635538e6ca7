"""The online loop on a tiny real run: policies collect, everything goes on, any stop is made good."""

import json
import shutil
from pathlib import Path

import pytest

from kalm.config import load_config
from kalm.data import storage
from kalm.errors import KalmError
from kalm.evaluation.results import read_rows
from kalm.online import collector, settings_of
from whole_runs import here

SMALL = [
    "--set", "collect.rollouts=80", "--set", "collect.shard=80",
    "--set", "ground.held_out=16", "--set", "ground.match_rollouts=0", "--set", "ground.rollouts=60",
    "--set", "ground.explain_rollouts=0", "--set", "ground.network_steps=10",
    "--set", "ground.tasks.explanation=0", "--set", "ground.tasks.dynamics=0", "--set", "ground.epochs=0.2",
    "--set", "inspect.rollouts=1", "--set", "inspect.explanations=1", "--set", "inspect.transitions=2",
    "--set", "imagine.rephrase=0", "--set", "imagine.easy=1", "--set", "imagine.hard=0",
    "--set", "imagine.horizon=2", "--set", "train.imagined=all", "--set", "train.hidden=[16]",
    "--set", "train.steps=40", "--set", "train.algorithms=[bc]", "--set", "train.seeds=[0,1]",
    "--set", "evaluate.episodes=4", "--set", "evaluate.horizon=8", "--set", "report.filmstrips=0",
    "--set", "online.episodes=12", "--set", "online.train_steps=20", "--set", "online.network_steps=5",
]  # fmt: skip


@pytest.fixture(scope="module")
def do(small_lm):
    """Run so many rounds."""

    def run_rounds(out, rounds, *more):
        here("run", "--out", out, "--rounds", rounds, "--workers", 1, *SMALL, *small_lm, *more)

    return run_rounds


@pytest.fixture(scope="module")
def run(do, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    do(folder, 2)
    return folder


def test_successes_join_the_real_data_under_the_sentence_asked_for(run):
    first, base = storage.read(run / "rounds/1/collected"), storage.read(run / "real")
    assert len(first) > 0 and first.success.all()
    assert not any(instruction.held_back for instruction in first.instructions)
    joined = storage.read(run / "rounds/1/real")
    assert len(joined) == len(base) + len(first)
    assert [r.instruction for r in joined][len(base) :] == [r.instruction for r in first]
    manifest, _ = storage.read_manifest(run / "rounds/1/collected")
    facts = manifest["provenance"]
    assert facts["round"] == 1 and facts["policies"] == ["bc+kalm-seed0", "bc+kalm-seed1"]
    assert facts["episodes"] == {"easy": 12, "hard": 12, "rephrase": 12, "seen": 12}
    second = storage.read(run / "rounds/2/collected")
    assert len(storage.read(run / "rounds/2/real")) == len(joined) + len(second)


def test_training_goes_on_and_sees_what_was_collected(run):
    collected = len(storage.read(run / "rounds/1/collected")) + len(storage.read(run / "rounds/2/collected"))
    for number, steps, more in ((0, 40, 0), (2, 80, collected)):
        place = run / "rounds" / str(number) if number else run
        facts = json.loads((place / "policies/bc+kalm-seed1/policy.json").read_text())["provenance"]
        assert facts["steps"] == steps and facts["made_from"]["real"]["rollouts"] == 80 + more
        assert ("start" in facts["made_from"]) == bool(number)


def test_every_round_plays_the_same_episodes_and_is_reported(run):
    rows = [read_rows(place / "evaluation/rows.csv") for place in (run, run / "rounds/1", run / "rounds/2")]
    asked = [[(row.policy, row.text, row.episode_seed) for row in part] for part in rows]
    assert asked[0] == asked[1] == asked[2]
    text = (run / "report/report.md").read_text()
    assert "BC+KALM, round 2" in text and "practised" in text and "figures/rounds.png" in text


@pytest.mark.parametrize("cut", ["collected", "real", "grounded", "imagined", "policies", "evaluation"])
def test_stopped_at_any_stage_it_ends_with_the_same_numbers(run, do, tmp_path, cut):
    """Whatever a stop left of a round: the stages before `cut` are kept, it and those behind are done."""
    folder = shutil.copytree(run, tmp_path / "run")
    stages = ["collected", "real", "grounded", "imagined", "policies", "evaluation"]
    shutil.rmtree(folder / "report")
    for stage in stages[stages.index(cut) :]:
        (folder / "rounds/2" / stage / "done.json").unlink()
    for stage in stages[stages.index(cut) + 1 :]:
        shutil.rmtree(folder / "rounds/2" / stage)
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("done.json")}
    do(folder, 2)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    names = ["evaluation/rows.csv", "policies/bc+kalm-seed0/policy.safetensors"]
    for name in [*names, "grounded/model/modules.safetensors", "collected/shard-00000.parquet"]:
        assert (folder / "rounds/2" / name).read_bytes() == (run / "rounds/2" / name).read_bytes()


def test_rounds_can_be_asked_for_later(run, do, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(folder / "rounds/2")
    settings = json.loads((folder / "config.json").read_text())
    settings["settings"]["online"]["rounds"] = 1
    (folder / "config.json").write_text(json.dumps(settings))
    do(folder, 2, "--resume")
    name = "rounds/2/evaluation/rows.csv"
    assert (folder / name).read_bytes() == (run / name).read_bytes()


def test_a_round_is_shorter_grounding_and_longer_training():
    config = load_config(None, ["train.steps=100", "decision_transformer.steps=50", "online.train_steps=20"])
    later = settings_of(config, 3)
    assert later.train.steps == 160 and later.decision_transformer.steps == 10
    assert later.ground.epochs == 0.1 and later.ground.body_lr == config.ground.body_lr / 2
    assert later.seed != config.seed and later.seed == settings_of(config, 3).seed


def test_who_collects():
    assert collector(load_config(None, ["train.algorithms=[lm, cql]"])) == "cql"
    assert collector(load_config(None, ["online.algorithm=bc"])) == "bc"
    with pytest.raises(KalmError, match="online.algorithm='iql' cannot collect: .*learn: bc, cql"):
        collector(load_config(None, ["online.algorithm=iql"]))
    with pytest.raises(KalmError, match="seen, rephrase, easy, hard"):
        load_config(None, ["online.levels=[hrad]"])
