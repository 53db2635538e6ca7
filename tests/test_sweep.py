"""The sweep on tiny real data: one table, cell by cell, stopped and started, grown, and refused."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kalm import envs
from kalm.config import CollectConfig, GroundConfig
from kalm.data import store
from kalm.data.collect import collect
from kalm.evaluation.results import read_rows

TINY = [
    "--set", "train.steps=40", "--set", "train.checkpoint_every=10", "--set", "train.hidden=[16]",
    "--set", "train.batch=16", "--set", "train.evaluate_every=20", "--set", "train.evaluate_episodes=2",
    "--set", "train.imagined=all",
    "--set", "evaluate.episodes=5", "--set", "evaluate.horizon=3", "--set", "evaluate.checkpoints=2",
]  # fmt: skip


def kalm(*arguments, check=True):
    done = subprocess.run(
        [sys.executable, "-m", "kalm", *map(str, arguments)], capture_output=True, text=True
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> list[str]:
    """Real rollouts, and the same with other sentences as if they were imagined."""
    folder = tmp_path_factory.mktemp("inputs")
    world = envs.make("clevr")
    real = collect(world, CollectConfig(rollouts=30, shard=30), 0, folder / "real")
    novel = world.suite("rephrase")
    dreams = replace(
        real,
        instructions=tuple(replace(novel[i], held_back=False) for i in range(len(real.instructions))),
        source=np.ones_like(real.source),
    )
    store.write(dreams, folder / "imagined", {})
    return ["--real", str(folder / "real"), "--imagined", str(folder / "imagined")]


@pytest.fixture(scope="module")
def done(inputs, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("sweeps") / "sweep"
    printed = kalm("sweep", *inputs, "--out", out, "--algos", "bc", "td3bc", "--seeds", "0", "1", *TINY)
    assert "TD3BC+KALM" in printed.stdout and "Report:" in printed.stdout
    assert "sweep: 8/8" in printed.stderr and " left, cell " in printed.stderr
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
    rows = read_rows(done / "policies" / "bc+kalm-seed0" / "rows.csv")
    assert {row.step for row in rows} == {30, 40}
    assert sum(row.step == 30 for row in rows) == sum(row.step == 40 for row in rows) == 10
    for level in ("seen", "hard"):
        mine = [row for row in rows if row.level == level]
        assert len({row.episode_seed for row in mine}) == 5, "every episode is another draw"
        assert {row.step for row in mine} == {30, 40}
    other = read_rows(done / "policies" / "td3bc-seed0" / "rows.csv")
    assert [(row.text, row.episode_seed) for row in rows] == [(row.text, row.episode_seed) for row in other]


def test_looks_are_rows_metrics_and_a_figure(done):
    place = done / "policies" / "bc-seed1"
    looks = read_rows(place / "looks.csv")
    assert len(looks) == 2 * 4 * 2 and {row.step for row in looks} == {20, 40}
    metrics = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in metrics if "success/seen" in row] == [20, 40]
    won = [row.success for row in looks if row.level == "seen" and row.step == 40]
    assert metrics[-1]["success/seen"] == sum(won) / 2
    played = read_rows(place / "rows.csv")
    assert not {row.episode_seed for row in looks} & {row.episode_seed for row in played}
    assert (done / "report" / "figures" / "learning.png").exists()


def test_more_algorithms_join_the_same_table_and_nothing_is_done_twice(done, inputs, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in done.glob("policies/*/rows.csv")}
    first = kalm("sweep", *inputs, "--out", done, "--algos", "iql", "--seeds", "0", "--json", *TINY)
    assert {policy["policy"] for policy in json.loads(first.stdout)["policies"]} == {
        *("BC", "BC+KALM", "TD3BC", "TD3BC+KALM", "IQL", "IQL+KALM"),
    }
    assert before == {path: path.stat().st_mtime_ns for path in before}
    kalm("sweep", *inputs, "--out", tmp_path / "at-once", "--algos", "iql", "--seeds", "0",
         "--levels", "seen", *TINY)  # fmt: skip
    name = "policies/iql+kalm-seed0"
    assert (done / name / "policy.safetensors").read_bytes() == (
        tmp_path / "at-once" / name / "policy.safetensors"
    ).read_bytes()
    seen = [row for row in read_rows(done / name / "rows.csv") if row.level == "seen"]
    alone = tmp_path / "at-once" / name / "rows.csv"
    assert read_rows(alone) == seen
    kalm("sweep", *inputs, "--out", tmp_path / "at-once", "--algos", "iql", "--seeds", "0",
         "--levels", "seen", "hard", *TINY)  # fmt: skip
    assert [row.level for row in read_rows(alone)] == ["seen"] * 5 + ["hard"] * 5


def test_killed_and_started_again_it_ends_with_the_same_rows(done, inputs, tmp_path):
    out = tmp_path / "killed"
    arguments = ["sweep", *inputs, "--out", str(out), "--algos", "bc", "td3bc", "--seeds", "0", "1", *TINY]
    process = subprocess.Popen(
        [sys.executable, "-m", "kalm", *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while process.poll() is None and not list(out.glob("policies/*/rows.csv")):
        time.sleep(0.02)
    assert process.poll() is None, "ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("policies/*/rows.csv")}
    assert 0 < len(finished) < 8
    kalm(*arguments)
    assert finished == {path: path.stat().st_mtime_ns for path in finished}
    for path in done.glob("policies/*/rows.csv"):
        if "iql" not in path.parent.name:
            assert (out / path.relative_to(done)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["--set", "train.lr=0.1"], "other train.lr"),
        (["--set", "evaluate.episodes=6"], "other evaluate.episodes"),
        (["--algos", "ppo"], "unknown algorithm 'ppo'. Known: awac, bc"),
        (["--algos", "lm"], "needs a grounded language model. Give --model FOLDER"),
        (["--levels", "hrad"], "unknown level 'hrad'"),
        (["--seeds", "one"], "not a valid int"),
    ],
)
def test_bad_input_is_one_clear_error_before_anything_starts(done, inputs, change, says):
    kept = {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()}
    answer = kalm("sweep", *inputs, "--out", done, *TINY, *change, check=False)
    assert answer.returncode == 2 and says in " ".join(answer.stderr.replace("│", " ").split())
    assert kept == {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.is_file()}


def test_the_language_model_and_the_decision_transformer_are_cells(inputs, tmp_path):
    from kalm.lm import sft

    model = sft.fresh(GroundConfig(state_network=False), envs.make("clevr"), 0, "cpu")
    model.fit_scales(store.read(Path(inputs[1])))
    model.save(tmp_path / "grounded" / "model")
    small = ["--set", "decision.steps=4", "--set", "evaluate.episodes=1", "--set", "ground.held_out=8",
             "--set", "train.evaluate_every=0", "--levels", "seen"]  # fmt: skip
    kalm("sweep", *inputs, "--out", tmp_path / "out", "--algos", "lm", "dt", "--seeds", "0",
         "--model", tmp_path / "grounded", *TINY, *small)  # fmt: skip
    rows = read_rows(tmp_path / "out" / "evaluation" / "rows.csv")
    assert policies(rows) == [("DT", 0), ("DT+KALM", 0), ("LM", 0)]
    (tmp_path / "grounded" / "model" / "modules.safetensors").unlink()
    answer = kalm("evaluate", "--policy", tmp_path / "out" / "policies" / "lm-seed0",
                  "--out", tmp_path / "ev", check=False)  # fmt: skip
    assert answer.returncode == 2 and "modules.safetensors is missing" in " ".join(answer.stderr.split())
