"""The sweep on tiny real data: one table, cell by cell, stopped and started, grown, and refused."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kalm import envs
from kalm.config import load_config
from kalm.data import storage
from kalm.data.collect import collect_rollouts
from kalm.data.settings import CollectConfig
from kalm.errors import KalmError
from kalm.evaluation.results import read_rows
from kalm.lm import sft
from whole_runs import here

TINY = [
    "--set", "train.steps=40", "--set", "train.checkpoint_every=10", "--set", "train.hidden=[16]",
    "--set", "train.batch=16", "--set", "train.evaluate_every=20", "--set", "train.evaluate_episodes=2",
    "--set", "train.imagined=all", "--set", "report.filmstrips=0",
    "--set", "evaluate.episodes=5", "--set", "evaluate.horizon=3", "--set", "evaluate.checkpoints=2",
]  # fmt: skip


def arguments(*more):
    return [*TINY, *map(str, more)]


def sweep(*more, workers=1):
    """Run the command in this process, its cells too."""
    return here("sweep", *arguments("--workers", workers, *more))


@pytest.fixture(scope="module")
def inputs(small_lm, tmp_path_factory) -> list[str]:
    """Real rollouts, the same with other sentences as if they were imagined, and small models."""
    folder = tmp_path_factory.mktemp("inputs")
    world = envs.make("clevr")
    real = collect_rollouts(world, CollectConfig(rollouts=30, shard=30), 0, folder / "real")
    novel = [replace(one, held_back=False) for one in world.suite("rephrase")[: len(real.instructions)]]
    dreams = replace(real, instructions=tuple(novel), source=np.ones_like(real.source))
    storage.write(dreams, folder / "imagined", {})
    storage.write(dreams, folder / "shuffled", {"settings": {"control": "shuffled"}})
    return ["--real", str(folder / "real"), "--imagined", str(folder / "imagined"), *small_lm]


@pytest.fixture(scope="module")
def done(inputs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sweeps") / "sweep"
    printed = sweep(*inputs, "--out", out, "--algos", "bc", "td3bc", "--seeds", 0, 1)
    assert "TD3BC+KALM" in printed.stdout and "Report:" in printed.stdout
    assert "sweep: 8/8" in printed.stderr
    return out


def policies(rows):
    return sorted({(row.policy, row.seed) for row in rows})


def test_every_cell_is_in_one_table(done):
    rows = read_rows(done / "evaluation" / "rows.csv")
    names = ("BC", "BC+KALM", "TD3BC", "TD3BC+KALM")
    assert policies(rows) == [(name, seed) for name in names for seed in (0, 1)]
    assert len(rows) == 8 * 4 * 5
    with (done / "sweep.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == 2 * 6 and lines[0]["plain_episodes"] == "10" == lines[0]["kalm_episodes"]
    table = (done / "sweep.md").read_text()
    assert "BC+KALM − BC" in table and table.replace("\n", "") in (
        done / "report" / "report.md"
    ).read_text().replace("\n", "")


def test_the_last_checkpoints_divide_the_episodes(done):
    rows = read_rows(done / "policies" / "bc+kalm-seed0" / "rows-tune.csv")
    assert {row.checkpoint_step for row in rows} == {30, 40}
    assert (
        sum(row.checkpoint_step == 30 for row in rows) == sum(row.checkpoint_step == 40 for row in rows) == 10
    )
    for level in ("seen", "hard"):
        mine = [row for row in rows if row.level == level]
        assert len({row.episode_seed for row in mine}) == 5, "every episode is another draw"
        assert {row.checkpoint_step for row in mine} == {30, 40}
    other = read_rows(done / "policies" / "td3bc-seed0" / "rows-tune.csv")
    assert [(row.text, row.episode_seed) for row in rows] == [(row.text, row.episode_seed) for row in other]


def test_looks_are_rows_metrics_and_a_figure(done):
    place = done / "policies" / "bc-seed1"
    looks = read_rows(place / "eval.csv")
    assert len(looks) == 2 * 4 * 2 and {row.checkpoint_step for row in looks} == {20, 40}
    metrics = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics if "success/seen" in row] == [20, 40]
    won = [row.success for row in looks if row.level == "seen" and row.checkpoint_step == 40]
    assert metrics[-1]["success/seen"] == sum(won) / 2
    played = read_rows(place / "rows-tune.csv")
    assert {row.split for row in looks} == {"tune"} == {row.split for row in played}
    assert not {row.episode_seed for row in looks} & {row.episode_seed for row in played}
    assert (done / "report" / "figures" / "learning.png").exists()


def test_more_algorithms_levels_and_seeds_join_the_same_table(done, inputs, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in done.glob("policies/*/rows-tune.csv")}
    first = sweep(*inputs, "--out", done, "--algos", "iql", "--seeds", 0, "--json")
    assert {policy["policy"] for policy in json.loads(first.stdout)["policies"]} == {
        *("BC", "BC+KALM", "TD3BC", "TD3BC+KALM", "IQL", "IQL+KALM"),
    }
    assert before == {path: path.stat().st_mtime_ns for path in before}, "nothing is done twice"
    alone = ["--out", tmp_path, "--algos", "iql", "--seeds", 0, "--levels"]
    sweep(*inputs, *alone, "seen")
    name = "policies/iql+kalm-seed0"
    weights = f"{name}/policy.safetensors"
    assert (done / weights).read_bytes() == (tmp_path / weights).read_bytes()
    rows = read_rows(done / name / "rows-tune.csv")
    assert read_rows(tmp_path / name / "rows-tune.csv") == [row for row in rows if row.level == "seen"]
    sweep(*inputs, *alone, "seen", "hard")
    levels = [row.level for row in read_rows(tmp_path / name / "rows-tune.csv")]
    assert levels == ["seen"] * 5 + ["hard"] * 5


def test_controls_join_the_same_table_later(done, inputs, tmp_path):
    shutil.copytree(done, tmp_path / "sweep")
    control = Path(inputs[3]).with_name("shuffled")
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("policy.safetensors")}
    ask = [*inputs, "--out", tmp_path / "sweep", "--algos", "bc", "--seeds", 0]
    both = ["--set", "train.controls=[shuffled, unfiltered]"]
    with pytest.raises(KalmError, match="train.controls=shuffled needs rollouts.*--shuffled FOLDER"):
        sweep(*ask, *both)
    printed = sweep(*ask, *both, "--shuffled", control)
    assert weights == {path: path.stat().st_mtime_ns for path in weights}, "what is done is kept"
    told = " ".join(printed.stdout.split())
    assert "BC+KALM − BC+shuffled" in told and "adds to BC over the filter alone" in told
    rows = read_rows(tmp_path / "sweep" / "evaluation" / "rows.csv")
    assert {("BC+shuffled", 0), ("BC+unfiltered", 0), ("BC+KALM", 1)} <= set(policies(rows))
    sweep(*ask)  # neither the control nor its rollouts need to be named again
    with pytest.raises(KalmError, match="a sweep with other inputs.shuffled"):
        storage.write(storage.read(control), tmp_path / "other", {"settings": {"control": "shuffled"}})
        sweep(*ask, *both, "--shuffled", tmp_path / "other")
    with pytest.raises(KalmError, match="was imagined with imagine.control=shuffled, none is needed here"):
        sweep(*ask[:3], control, *ask[4:])
    with pytest.raises(KalmError, match="was imagined with imagine.control=none, shuffled is needed here"):
        sweep(*ask, *both, "--shuffled", inputs[3])


def test_the_final_call_plays_test_with_the_same_policies(done, inputs, tmp_path):
    shutil.copytree(done, tmp_path / "sweep")
    weights = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("policy.safetensors")}
    tuned = read_rows(tmp_path / "sweep" / "evaluation" / "rows.csv")
    ask = [*inputs, "--out", tmp_path / "sweep", "--algos", "bc", "--seeds", 0]
    printed = sweep(*ask, "--final")
    assert weights == {path: path.stat().st_mtime_ns for path in weights}, "nothing is trained again"
    rows = read_rows(tmp_path / "sweep" / "evaluation" / "rows.csv")
    assert policies(rows) == [("BC", 0), ("BC+KALM", 0)] and {row.split for row in rows} == {"test"}
    assert not {row.text for row in rows} & {row.text for row in tuned}
    assert not {row.episode_seed for row in rows} & {row.episode_seed for row in tuned}
    assert "of `test`, on which no setting was chosen" in " ".join(printed.stdout.split())
    sweep(*ask)
    assert read_rows(tmp_path / "sweep" / "evaluation" / "rows.csv") == tuned


def test_killed_and_started_again_with_workers_it_ends_with_the_same_rows(done, inputs, tmp_path):
    more = [*inputs, "--out", tmp_path / "out", "--algos", "bc", "td3bc", "--seeds", 0]
    command = [sys.executable, "-m", "kalm", "sweep", *arguments("--workers", 2, *more)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while process.poll() is None and not list(tmp_path.glob("out/policies/*/rows-tune.csv")):
        time.sleep(0.02)
    assert process.poll() is None, "ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for late in sorted(tmp_path.glob("out/policies/*/rows-tune.csv"))[3:]:
        late.unlink()  # on a busy machine all cells may have ended by now
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/policies/*/rows-tune.csv")}
    assert 0 < len(finished) < 4
    sweep(*more)
    assert finished == {path: path.stat().st_mtime_ns for path in finished}, "finished cells are kept"
    for path in tmp_path.glob("out/policies/*/rows-tune.csv"):
        assert path.read_bytes() == (done / path.relative_to(tmp_path / "out")).read_bytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ["--set", "train.lr=0.1"],
            "a sweep with other train.lr. Only algorithms, levels, seeds, controls and",
        ),
        (["--set", "evaluate.split=test"], "kalm sweep plays `tune`.*evaluate.split=test.*give --final once"),
        (["--set", "evaluate.split=all"], "kalm sweep plays `tune`.*evaluate.split=all"),
        (["--final", "--set", "evaluate.split=tune"], "--final plays what is reported"),
        (["--set", "evaluate.episodes=6"], "other evaluate.episodes"),
        (["--algos", "ppo"], "unknown algorithm 'ppo'. Known: awac, bc"),
        (["--algos", "lm"], "needs a grounded language model. Give --model FOLDER"),
        (["--levels", "hrad"], "unknown level 'hrad'"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(done, inputs, change, says):
    kept = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()}
    with pytest.raises(KalmError, match=says):
        sweep(*inputs, "--out", done, *change)
    assert kept == {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()}


def altered(inputs, tmp_path, change):
    """Return the inputs with other imagined rollouts."""
    dreams = storage.read(Path(inputs[3]))
    storage.write(change(dreams), tmp_path / "dreams", {})
    return [*inputs[:3], str(tmp_path / "dreams"), *inputs[4:]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda dreams: dreams.take(np.zeros(0, dtype=int)), "there are no imagined rollouts"),
        (
            lambda dreams: replace(dreams, weights=0 * dreams.weights),
            "imagined rollouts: .*'weights'.*above 0",
        ),
        (lambda dreams: replace(dreams, rewards=dreams.rewards * np.float32(np.nan)), "'rewards'.*finite"),
        (
            lambda dreams: replace(
                dreams,
                spec=replace(dreams.spec, state_names=dreams.spec.state_names[1:], entities=()),
                states=dreams.states[:, 1:],
            ),
            "imagined rollouts do not fit.* state width 9 instead of 10",
        ),
    ],
)
def test_rollouts_that_cannot_be_learnt_from_are_told_before_training(inputs, tmp_path, change, says):
    bad = altered(inputs, tmp_path, change)
    with pytest.raises(KalmError, match=says):
        sweep(*bad, "--out", tmp_path / "out", "--algos", "bc", "--seeds", 0)
    assert not list(tmp_path.glob("out/policies/*/*"))


def test_the_language_model_and_the_decision_transformer_are_cells(inputs, small_lm, tmp_path):
    config = load_config(None, [*small_lm[1::2], "ground.state_network=false"])
    model = sft.fresh(config.ground, envs.make("clevr"), 0, "cpu")
    model.fit_scales(storage.read(Path(inputs[1])))
    model.save(tmp_path / "run" / "grounded" / "model")
    sweep(*inputs, "--out", tmp_path / "out", "--algos", "lm", "dt", "--seeds", 0, "--levels", "seen",
          "--model", tmp_path / "run", "--set", "decision_transformer.steps=2",
          "--set", "evaluate.episodes=1", "--set", "evaluate.checkpoints=1")  # fmt: skip
    rows = read_rows(tmp_path / "out" / "evaluation" / "rows.csv")
    assert policies(rows) == [("DT", 0), ("DT+KALM", 0), ("LM", 0)]


def test_a_cell_that_fails_does_not_stop_the_others(inputs, tmp_path):
    where = tmp_path / "policies" / "bc-seed0"
    where.parent.mkdir()
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(KalmError, match="holds no sweep"):
        sweep(*inputs, "--out", tmp_path, "--algos", "bc", "--seeds", 0)
    (tmp_path / "config.json").unlink()
    where.parent.rmdir()
    sweep(*inputs, "--out", tmp_path, "--algos", "bc", "--seeds", 0, "--levels", "seen")
    for name in ("bc-seed0", "bc+kalm-seed0"):
        (tmp_path / "policies" / name / "rows-tune.csv").unlink()
    (where / "steps" / "00000040" / "policy.safetensors").write_bytes(b"")
    with pytest.raises(KalmError, match=r"1 of 2 cells failed.* bc-seed0: policy .*policy.safetensors"):
        sweep(*inputs, "--out", tmp_path, "--algos", "bc", "--seeds", 0, "--levels", "seen")
    assert {row.policy for row in read_rows(tmp_path / "evaluation" / "rows.csv")} == {"BC+KALM"}
