"""What the command line does, in Python: every stage as a function, on folders and on rollouts in memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import kalm
from kalm.runs.io import read_json
from kalm.types import Goal, Instruction

GROUND = {
    "held_out": 4, "rollouts": 12, "epochs": 0.2, "match_rollouts": 0, "explain_rollouts": 0,
    "network_steps": 5, "evaluate_every": 1000,
}  # fmt: skip
TRAIN = {"train.steps": 20, "train.batch": 16, "train.hidden": [16], "train.imagined": "all"}
RED_BEHIND_BLUE = Goal("relation", (("ball", "red"), ("reference", "blue"), ("direction", "behind")))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def real(place) -> kalm.RolloutSet:
    return kalm.collect(place / "real", env="clevr", rollouts=30, workers=1)


@pytest.fixture(scope="module")
def model(place, real) -> Path:
    return kalm.ground(place / "real", place / "grounded", settings={"ground": GROUND})


@pytest.fixture(scope="module")
def imagined(place, model) -> kalm.RolloutSet:
    goals = [Instruction("Red behind blue!", "rephrase", RED_BEHIND_BLUE)]
    settings = {"imagine.horizon": 2, "imagine.per_file_instruction": 3}
    return kalm.imagine(model, place / "imagined", goals=goals, settings=settings)


@pytest.fixture(scope="module")
def policies(place, real, imagined) -> dict[str, Path]:
    return kalm.train(real, imagined, place / "policies", algorithms=["bc"], seeds=[0], workers=1,
                      settings=TRAIN)  # fmt: skip


def test_collecting_gives_rollouts_and_a_second_call_does_nothing(place, real):
    assert len(real) == 30 and real.spec.name == "clevr" and real.success.all()
    before = (place / "real" / "done.json").stat().st_mtime_ns
    again = kalm.collect(place / "real", rollouts=30, settings={"collect": {"noise": 0.1}})
    assert again.digest() == real.digest()
    assert (place / "real" / "done.json").stat().st_mtime_ns == before
    with pytest.raises(kalm.KalmError, match="other settings or inputs"):
        kalm.collect(place / "real", rollouts=31)


def test_a_model_is_made_and_loaded(place, model):
    assert model == place / "grounded" / "model"
    assert kalm.load_model(model).spec.name == "clevr"


def test_goals_in_memory_are_imagined(imagined):
    assert len(imagined) == 3 and {one.text for one in imagined.instructions} == {"Red behind blue!"}
    assert (imagined.source == 1).all()


def test_policies_learn_from_rollouts_in_memory(place, policies, real, imagined):
    assert list(policies) == ["bc-seed0", "bc+kalm-seed0"]
    assert kalm.load_policy(policies["bc+kalm-seed0"], world="clevr").spec == real.spec
    made_from = read_json(place / "policies" / "done.json", "marker")["made_from"]
    assert made_from["real"] == real.digest() and made_from["imagined"] == imagined.digest()
    facts = read_json(policies["bc+kalm-seed0"] / "policy.json", "policy")["provenance"]
    assert facts["steps"] == 20 and facts["made_from"]["real"]["rollouts"] == 30


def test_only_policies_with_imagined_rollouts(place, real, imagined):
    found = kalm.train(place / "real", place / "imagined", place / "kalm only", algorithms=["bc"], seeds=[0],
                       plain=False, workers=1, settings=TRAIN)  # fmt: skip
    assert list(found) == ["bc+kalm-seed0"]


def test_results_are_episodes_and_rates(place, policies):
    settings = {"evaluate.horizon": 3}
    results = kalm.evaluate(place / "policies", place / "evaluation", levels=["seen", "hard"], episodes=4,
                            workers=1, settings=settings)  # fmt: skip
    assert len(results.episodes) == 2 * 2 * 4
    won = sum(row.success for row in results.episodes if row.policy == "BC" and row.level == "seen")
    assert results.rate("BC", "seen").mean == won / 4
    assert "BC+KALM" in str(results)
    with pytest.raises(kalm.KalmError, match="unknown level 'hrad'"):
        kalm.evaluate(place / "policies", place / "x", levels=["hrad"])


def test_a_run_and_its_parts_as_inputs(place, small_lm):
    small = dict(setting.split("=", 1) for setting in small_lm[1::2])
    settings = {
        **small, **{f"ground.{name}": value for name, value in GROUND.items()}, **TRAIN,
        "collect.rollouts": 30, "train.algorithms": ["bc"], "train.seeds": [0],
        "inspect": {"rollouts": 1, "explanations": 1, "transitions": 2},
        "imagine": {"rephrase": 0, "easy": 1, "hard": 0, "horizon": 2},
        "evaluate": {"episodes": 2, "horizon": 3}, "report.filmstrips": 0,
    }  # fmt: skip
    run = kalm.run(place / "run", workers=1, settings=settings)
    assert len(run.real) == 30 and len(run.imagined) > 0 and run.report.exists()
    assert len(run.results.episodes) == 2 * 4 * 2 and set(run.policies) == {"bc-seed0", "bc+kalm-seed0"}
    again = kalm.evaluate(place / "run", place / "again", episodes=2, workers=1,
                          settings={"evaluate.horizon": 3})  # fmt: skip
    assert again.episodes == run.results.episodes
    more = kalm.train(place / "run", place / "run", place / "more", algorithms=["lm"], model=place / "run",
                      settings={"train.seeds": [0]})  # fmt: skip
    assert list(more) == ["lm-seed0"]


def test_bad_settings_are_told(tmp_path):
    with pytest.raises(kalm.KalmError, match="unknown field 'train.stepz'"):
        kalm.run(tmp_path / "run", settings={"train": {"stepz": 1}})
    with pytest.raises(kalm.KalmError, match="unknown environment 'marbles'"):
        kalm.collect(tmp_path / "real", env="marbles")


def test_public_names_are_there_without_loading_anything():
    code = "import json, sys, kalm; print(json.dumps([dir(kalm), list(kalm.__all__), sorted(sys.modules)]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names, public, modules = json.loads(done.stdout)
    assert set(public) <= set(names) and "kalm.api" not in modules
    assert all(getattr(kalm, name) is not None for name in public)
    assert kalm.run is sys.modules["kalm.api"].run
    with pytest.raises(AttributeError, match="no attribute 'ruin'"):
        kalm.ruin  # noqa: B018
