"""The whole pipeline, small but real: stages run, are skipped, resume after a kill, refuse when they must."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kalm.cli.main import main
from kalm.config import Config, load_config
from kalm.data import storage
from kalm.errors import KalmError
from kalm.online import settings_of
from kalm.pipeline import run_pipeline
from kalm.runs.folder import JOB, PolicyJob, trained_policies
from kalm.runs.io import write_json
from kalm.session import Session
from kalm.stages.train import TrainInputs, policy_jobs, train_policies
from whole_runs import TINY, here, kalm

SMALL = [
    *TINY, "--set", "collect.rollouts=240", "--set", "collect.shard=60",
    "--set", "ground.held_out=16", "--set", "ground.rollouts=60", "--set", "ground.checkpoint_every=4",
    "--set", "imagine.horizon=2", "--set", "imagine.shard=80",
    "--set", "train.steps=60", "--set", "train.checkpoint_every=20",
    "--set", "evaluate.episodes=4", "--set", "evaluate.horizon=6",
]  # fmt: skip


@pytest.fixture(scope="module")
def small(small_lm) -> list[str]:
    return [*SMALL, *small_lm, "--workers", "1"]


@pytest.fixture(scope="module")
def run(small, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    printed = kalm("run", "--out", folder, *small, "--json")
    summary = json.loads(printed.stdout)
    assert {policy["policy"] for policy in summary["policies"]} == {"BC", "BC+KALM"}
    return folder


def digest(run: Path) -> dict[str, bytes]:
    names = ["evaluation/rows.csv", "grounded/model/modules.safetensors"]
    names += [str(path.relative_to(run)) for path in run.glob("*/shard-*.parquet")]
    return {name: (run / name).read_bytes() for name in names}


def test_the_report_is_one_page_without_outside_requests(run):
    page = (run / "report" / "report.html").read_text()
    assert "BC+KALM" in page and "data:image/" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "<script" not in page


def test_a_second_call_skips_everything(run, small):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("done.json")}
    assert len(before) == 7
    here("run", "--out", run, *small)
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("done.json")}


def test_other_settings_are_refused_unless_resumed(run, small, tmp_path):
    run = shutil.copytree(run, tmp_path / "run")
    changed = [*small, "--set", "evaluate.episodes=5"]
    with pytest.raises(KalmError, match="other settings"):
        here("run", "--out", run, *changed)
    model = (run / "grounded" / "done.json").stat().st_mtime_ns
    here("run", "--out", run, *changed, "--resume")
    assert (run / "grounded" / "done.json").stat().st_mtime_ns == model, "stages before are kept"
    rows = (run / "evaluation" / "rows.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 4 * 5


def test_killed_and_started_again_it_ends_with_the_same_numbers(run, small, tmp_path):
    folder = tmp_path / "killed"
    arguments = ["run", "--out", str(folder), *small]
    command = [sys.executable, "-m", "kalm", *arguments]
    for mark in ("real/shard-00001.parquet", "grounded/checkpoint.safetensors", "policies/encodings"):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and not (folder / mark).exists():
            time.sleep(0.02)
        assert process.poll() is None, f"ended before {mark} appeared"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    here(*arguments)
    assert digest(folder) == digest(run)


def test_a_stage_runs_alone_from_folders(run, tmp_path):
    here("imagine", "--model", run / "grounded" / "model", "--out", tmp_path / "im",
         "--goals", goal_file(tmp_path),
         "--set", "imagine.horizon=2", "--set", "imagine.per_file_instruction=2")  # fmt: skip
    info = json.loads(here("data", "info", tmp_path / "im", "--json").stdout)
    assert info["rollouts"] == 2
    policy = run / "policies" / "bc+kalm-seed0"
    here("evaluate", "--policy", policy, "--out", tmp_path / "ev", "--goals", goal_file(tmp_path),
         "--set", "evaluate.episodes=3")  # fmt: skip
    assert len((tmp_path / "ev" / "rows.csv").read_text().splitlines()) == 4


def test_imagined_rollouts_are_refined_beside_the_raw_ones(run, tmp_path):
    out = tmp_path / "im"
    settings = [
        "--goals", goal_file(tmp_path), "--set", "imagine.per_file_instruction=4",
        "--set", "imagine.horizon=2", "--set", "imagine.samples=2", "--set", "imagine.temperature=5",
        "--set", "imagine.refine.relabel=true", "--set", "imagine.refine.plausibility=weight",
        "--set", "dynamics.members=2", "--set", "dynamics.hidden=[16]",
        "--set", "dynamics.forward_steps=20", "--set", "dynamics.inverse_steps=20",
    ]  # fmt: skip
    model = run / "grounded" / "model"
    with pytest.raises(KalmError, match="Give --real FOLDER"):
        here("imagine", "--model", model, "--out", out, *settings)
    real = ["--real", run / "real"]
    printed = here("imagine", "--model", model, "--out", out, *settings, *real, "--overwrite").stdout
    assert "raw, rephrase" in printed and "kept, rephrase" in printed
    result = json.loads((out / "done.json").read_text())["result"]
    assert result["raw"]["rephrase"]["rollouts"] == 4 == result["kept"]["rephrase"]["rollouts"]
    assert set(result["refined"]["models"]) == {"forward", "inverse"}
    info = json.loads(here("data", "info", out, "--json").stdout)
    again = info["provenance"]["refined"]["samples"]["set_aside"]  # tries of what missed its goal
    assert info["rollouts"] == 4 and 0 <= again <= 4
    assert json.loads(here("data", "info", out / "raw", "--json").stdout)["rollouts"] == 4 + again


def test_a_model_is_inspected_with_and_without_a_folder(run, tmp_path):
    stored = json.loads((run / "inspection" / "inspect.json").read_text())
    assert set(stored["levels"]) == {"seen", "rephrase", "easy", "hard"} and stored["splits"] == ["test"]
    assert {one.split for one in storage.read(run / "inspection" / "rollouts").instructions} == {"test"}
    small = ["--goals", goal_file(tmp_path), "--set", "inspect.explanations=3",
             "--set", "inspect.transitions=4", "--set", "imagine.horizon=2", "--rollouts", 3]  # fmt: skip
    printed = here("inspect", run, *small).stdout
    for words in ("interpenetrating", "drift after", "unseen", "random"):
        assert words in printed
    out = tmp_path / "inspected"
    found = json.loads(here("inspect", run / "grounded" / "model", *small, "--out", out, "--json").stdout)
    assert found["levels"]["rephrase"]["rollouts"] == 3
    assert json.loads((out / "inspect.json").read_text()) == found
    assert len((out / "explanations.jsonl").read_text().splitlines()) == 15
    assert json.loads(here("data", "info", out / "rollouts", "--json").stdout)["rollouts"] == 3


def test_a_table_of_effects_is_shown_and_reported(run, tmp_path):
    table = tmp_path / "effects.csv"
    table.write_text("variant,seed,measure,value,count\nno gate,0,match/easy,0.5,10\n")
    assert "no gate" in here("inspect", "--effects", table).stdout
    shutil.copytree(run / "evaluation", tmp_path / "run" / "evaluation")
    shutil.copy(run / "config.json", tmp_path / "run")
    done = here("report", "--run", tmp_path / "run", "--out", tmp_path / "report", "--effects", table)
    assert done.stderr.startswith("report: into")
    assert "no gate" in (tmp_path / "report" / "report.md").read_text()


def goal_file(folder: Path) -> Path:
    goal = {"kind": "relation", "ball": "red", "reference": "blue", "direction": "behind"}
    path = folder / "goals.jsonl"
    path.write_text(json.dumps({"text": "Red behind blue!", "level": "rephrase", "goal": goal}) + "\n")
    return path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "--env", "marbles", "--out", "x"], "unknown environment 'marbles'. Known: clevr"),
        (["run", "--preset", "huge", "--out", "x"], "unknown preset 'huge'. Known: demo, gpu, mini, paper"),
        (["run", "--set", "train.stepz=1", "--out", "x"], "Known: train.algorithms"),
        (
            ["train", "--real", "nowhere", "--algo", "ppo", "--out", "x"],
            "unknown algorithm 'ppo'. Known: awac, bc, bc-continuous, combo, cql",
        ),
        (["imagine", "--model", "nowhere", "--level", "hrad", "--out", "x"], "unknown level 'hrad'"),
        (["ground", "--data", "nowhere", "--out", "x"], "does not exist"),
        (["evaluate", "--policy", "nowhere", "--out", "x"], "no trained policy"),
        (["collect", "--device", "tpu", "--out", "x"], "No such option"),
        (["inspect"], "nothing to inspect"),
        (["inspect", "--effects", "nowhere.csv"], "cannot be read"),
        (["inspect", "nowhere"], "does not exist"),
        (["run", "--device", "warp", "--out", "x"], "device 'warp' cannot be used"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kalm", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert says in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_is_no_run_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(KalmError, match="no run"):
        here("run", "--out", tmp_path, "--overwrite")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_goals_can_be_shown_written_and_checked(tmp_path):
    path = tmp_path / "hard.jsonl"
    here("goals", "show", "--level", "hard", "--limit", 0, "--out", path)
    assert json.loads(here("goals", "check", path, "--json").stdout)["hard"] == 200
    counts = []
    for split in ("tune", "test"):
        here("goals", "show", "--level", "hard", "--limit", 0, "--split", split, "--out", tmp_path / split)
        counts.append(json.loads(here("goals", "check", tmp_path / split, "--json").stdout)["hard"])
    assert counts == [70, 130]
    with pytest.raises(KalmError, match="unknown split 'train'. Known: all, test, tune"):
        here("goals", "show", "--split", "train")
    path.write_text(path.read_text() + "{broken\n")
    done = kalm("goals", "check", path, check=False)
    assert done.returncode == 2 and "201" in done.stderr


def test_when_all_policies_are_finished_no_data_are_read(tmp_path):
    config = Config()
    for job in policy_jobs(config):
        write_json(tmp_path / job.name / JOB, {})
    inputs = TrainInputs(tmp_path / "no real data", tmp_path / "no imagined data")
    done = train_policies(Session(config), inputs, tmp_path)
    assert done["policies"] == [job.name for job in policy_jobs(config)]


def test_controls_are_policies_beside_kalm():
    asked = ["train.algorithms=[bc, lm]", "train.seeds=[0]", "train.controls=[shuffled, unfiltered]"]
    jobs = policy_jobs(load_config(None, asked))
    assert [job.name for job in jobs] == [
        *("bc-seed0", "bc+kalm-seed0", "bc+shuffled-seed0", "bc+unfiltered-seed0", "lm-seed0"),
    ]
    assert [job.policy for job in jobs[2:4]] == ["BC+shuffled", "BC+unfiltered"]
    assert [job.name for job in policy_jobs(load_config(None, asked), imagined=False)] == [
        *("bc-seed0", "lm-seed0"),
    ]
    later = settings_of(load_config(None, asked), 1)
    assert not later.train.controls, "rounds of the online loop go on without them"


@pytest.mark.parametrize(
    ("facts", "data"),
    [({"kalm": False}, "plain"), ({"kalm": True}, "kalm"), ({"data": "shuffled"}, "shuffled")],
)
def test_policies_of_earlier_versions_say_whether_they_learned_from_imagined_rollouts(facts, data, tmp_path):
    write_json(tmp_path / JOB, {"algorithm": "bc", "seed": 3, "level": None, **facts})
    assert trained_policies(tmp_path) == [(PolicyJob("bc", data, 3, None), tmp_path)]


def test_a_policy_of_data_that_are_not_known_is_named(tmp_path):
    write_json(tmp_path / JOB, {"algorithm": "bc", "seed": 3, "level": None, "data": "more"})
    with pytest.raises(KalmError, match="unknown data of a policy 'more'. Known: kalm, plain, shuffled"):
        trained_policies(tmp_path)


def test_a_run_is_no_control(tmp_path):
    session = Session(load_config(None, ["imagine.control=shuffled"]))
    with pytest.raises(KalmError, match=r"set train.controls=\[shuffled\]"):
        run_pipeline(session, tmp_path / "run")


def test_plain_policies_can_be_left_out():
    config = load_config(None, ["train.plain=false", "train.algorithms=[bc, lm]", "train.seeds=[0]"])
    assert [job.name for job in policy_jobs(config)] == ["bc+kalm-seed0", "lm-seed0"]
    with pytest.raises(KalmError, match="train.plain=false leaves no policy"):
        policy_jobs(load_config(None, ["train.plain=false"]), imagined=False)
