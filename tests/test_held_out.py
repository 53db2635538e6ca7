"""As a user who measures sentences of their own with `imagine`, `evaluate` and `data info`."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kalm.data.goal_files import write_goals
from kalm.envs.clevr.sentences import suite
from kalm.envs.sentences import of_split
from kalm.errors import KalmError
from kalm.evaluation.episodes import sample_episodes
from kalm.evaluation.results import read_rows
from kalm.stages import evaluate
from whole_runs import TINY, here

GOALS = [*of_split(suite("easy"), "test")[:3], *of_split(suite("hard"), "test")[:2]]
FAST = ["--set", "evaluate.horizon=3", "--workers", 1]


@pytest.fixture(scope="module")
def policies(tmp_path_factory) -> Path:
    """Two policies trained for a few steps, and the data that they are made from, beside each other."""
    home = tmp_path_factory.mktemp("held_out")
    here("collect", "--out", home / "real", "--set", "collect.rollouts=40", "--workers", 1)
    here("train", "--real", home / "real", "--out", home / "policies", *TINY,
         "--set", "train.algorithms=[bc]", "--set", "train.seeds=[0,1]", "--set", "train.steps=20",
         "--workers", 1)  # fmt: skip
    return home / "policies"


@pytest.fixture
def goals(tmp_path) -> Path:
    """Three goals of one level and two of another."""
    path = tmp_path / "goals.jsonl"
    write_goals(path, GOALS)
    return path


def texts(folder: Path, seed: int = 0) -> list[str]:
    return [row.text for row in read_rows(folder / "rows.csv") if row.seed == seed]


def test_every_line_is_played_once_and_more_only_if_asked(policies, goals, tmp_path):
    here("evaluate", "--policy", policies, "--goals", goals, "--out", tmp_path / "once", *FAST)
    wanted = [instruction.text for instruction in GOALS]
    assert texts(tmp_path / "once") == wanted == texts(tmp_path / "once", seed=1)
    more = ["--set", "evaluate.episodes=4"]
    here("evaluate", "--policy", policies, "--goals", goals, "--out", tmp_path / "more", *FAST, *more)
    assert len(texts(tmp_path / "more")) == 8


def test_a_level_filters_the_goal_file(policies, goals, tmp_path):
    ask = ["evaluate", "--policy", policies, "--goals", goals, *FAST]
    here(*ask, "--level", "hard", "--out", tmp_path / "hard")
    assert texts(tmp_path / "hard") == [instruction.text for instruction in GOALS[3:]]
    with pytest.raises(KalmError, match="goals.jsonl: no goal of level seen; .* there are: easy, hard"):
        here(*ask, "--level", "seen", "--out", tmp_path / "seen")


def test_sentences_are_played_in_their_split_and_undivided_ones_in_any(policies, tmp_path):
    tune, test, mine = suite("easy")[5], suite("easy")[0], replace(suite("easy")[10], text="Mine.", split="")
    assert (tune.split, test.split) == ("tune", "test")
    write_goals(tmp_path / "goals.jsonl", [tune, test, mine])
    ask = ["evaluate", "--policy", policies / "bc-seed0", "--goals", tmp_path / "goals.jsonl", *FAST]
    expected = {"tune": [tune, mine], "test": [test, mine], "all": [tune, test, mine], None: [test, mine]}
    for split, wanted in expected.items():
        out = tmp_path / str(split)
        here(*ask, "--out", out, *(["--split", split] if split else []))
        assert texts(out) == [one.text for one in wanted]
        assert [row.split for row in read_rows(out / "rows.csv")] == [one.split for one in wanted]
    with pytest.raises(KalmError, match="evaluate.split.* 'tune', 'test' or 'all'"):
        here(*ask, "--out", tmp_path / "bad", "--split", "train")
    write_goals(tmp_path / "goals.jsonl", [tune])
    with pytest.raises(KalmError, match="no sentence of level 'easy' is of the split 'test'. Of every list"):
        here(*ask, "--out", tmp_path / "none")


def test_evaluation_writes_nothing_beside_the_policies(policies, goals, tmp_path):
    def contents():
        return {path: path.stat().st_mtime_ns for path in policies.rglob("*")}

    before = contents()
    here("evaluate", "--policy", policies, "--goals", goals, "--out", tmp_path / "ev", *FAST)
    assert contents() == before and list((tmp_path / "ev" / "encodings").iterdir())


def test_a_stopped_evaluation_goes_on(policies, goals, tmp_path, monkeypatch):
    ask = ["evaluate", "--policy", policies, "--goals", goals, *FAST]
    here(*ask, "--out", tmp_path / "whole")
    play, played = evaluate.play_policy, []

    def stops_at_second(session, job, *rest):
        if played:
            raise KeyboardInterrupt
        played.append(job.name)
        return play(session, job, *rest)

    monkeypatch.setattr(evaluate, "play_policy", stops_at_second)
    with pytest.raises(AssertionError):  # the command's exit code
        here(*ask, "--out", tmp_path / "stopped")
    monkeypatch.setattr(evaluate, "play_policy", lambda *rest: played.append(rest[1].name) or play(*rest))
    here(*ask, "--out", tmp_path / "stopped")
    assert played == ["bc-seed0", "bc-seed1"], "neither is played twice"
    rows = [(tmp_path / name / "rows.csv").read_bytes() for name in ("whole", "stopped")]
    assert rows[0] == rows[1] and not (tmp_path / "stopped" / "parts").exists()


def test_without_a_number_every_instruction_comes_once_in_order():
    given = [*of_split(suite("hard"), "test")[:3], *suite("easy")[:2]]
    chosen, seeds = sample_episodes(given, None, 7)
    assert list(chosen) == given and len(set(seeds.tolist())) == 5
    drawn, drawn_seeds = sample_episodes(given, 3, 7)
    assert set(seeds[:3]) == set(drawn_seeds[:3]), "episode i has the same initial state either way"


def test_data_info_fits_a_screen(policies):
    real = policies.parent / "real"
    printed = here("data", "info", real).stdout.splitlines()
    assert len(printed) <= 24 and "rollouts: 40 of " in "\n".join(printed)
    assert json.loads(here("data", "info", real, "--json").stdout)["world"]["entities"]


def test_overwriting_an_input_is_refused_by_every_command(policies, tmp_path):
    home = tmp_path / "copy"
    shutil.copytree(policies.parent, home)
    before = sorted(home.rglob("*"))
    real, trained = home / "real", home / "policies"
    for out in (real, home, real / "below"):
        with pytest.raises(KalmError, match="which is an input"):
            here("train", "--real", real, "--out", out, "--overwrite")
    for out in (trained, home):
        with pytest.raises(KalmError, match="which is an input"):
            here("evaluate", "--policy", trained, "--out", out, "--overwrite")
    for command in (["ground", "--data", real], ["sweep", "--real", real], ["imagine", "--model", real]):
        with pytest.raises(KalmError, match="which is an input"):
            here(*command, "--out", real, "--overwrite")
    with pytest.raises(KalmError, match="which is an input"):
        here("run", "--out", home, "--overwrite", "--set", f"ground.backbone={real}")
    assert sorted(home.rglob("*")) == before
