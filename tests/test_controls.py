"""Controls of +KALM in a whole run, and what is imagined for them."""

import json
from pathlib import Path

import numpy as np
import pytest

from kalm import envs
from kalm.data import storage
from kalm.data.collect import collect_rollouts
from kalm.data.settings import CollectConfig
from kalm.errors import KalmError
from kalm.evaluation.results import read_rows
from kalm.stages.imagine import control_of, first_tries
from whole_runs import TINY, here

SMALL = [
    *TINY, "--set", "collect.rollouts=60", "--set", "collect.shard=60", "--set", "ground.held_out=4",
    "--set", "ground.rollouts=12", "--set", "ground.epochs=0.2", "--set", "ground.match_rollouts=0",
    "--set", "imagine.horizon=2", "--set", "imagine.samples=2", "--set", "imagine.temperature=1.0",
    "--set", "imagine.refine.plausibility=weight", "--set", "dynamics.members=0", "--set", "train.steps=20",
    "--set", "train.checkpoint_every=20", "--set", "evaluate.episodes=3", "--set", "evaluate.horizon=3",
    "--set", "report.filmstrips=0", "--workers", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(small_lm, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    controls = ["--set", "train.controls=[shuffled, unfiltered]"]
    here("run", "--out", folder, *SMALL, *small_lm, *controls)
    return folder


def test_a_run_trains_and_plays_controls_beside_kalm(run):
    rows = read_rows(run / "evaluation" / "rows.csv")
    assert {(row.policy, row.data) for row in rows} == {
        *(("BC", "plain"), ("BC+KALM", "kalm"), ("BC+shuffled", "shuffled"), ("BC+unfiltered", "unfiltered")),
    }
    page = (run / "report" / "report.md").read_text("utf-8")
    assert "What the language model adds to BC over the filter alone" in page
    assert "What the filter keeps of rollouts imagined without knowing what is asked" in page
    assert "imagine, shuffled" in page  # among the times


def test_shuffled_rollouts_lie_beside_the_imagined_ones(run):
    assert (control_of(run / "imagined"), control_of(run / "shuffled")) == ("none", "shuffled")
    own, blind = (storage.read(run / name / "raw") for name in ("imagined", "shuffled"))
    assert np.array_equal(
        first_tries(run / "imagined").first_states, first_tries(run / "shuffled").first_states
    )
    assert len(own) == len(blind) and not np.array_equal(own.states, blind.states)


def test_unfiltered_is_the_first_try_of_all_that_was_asked_for(run):
    asked = json.loads((run / "imagined" / "done.json").read_text())["result"]["rollouts_asked"]
    assert len(first_tries(run / "imagined")) == asked < len(storage.read(run / "imagined" / "raw"))


def test_what_was_filtered_and_not_kept_cannot_be_had(tmp_path):
    real = collect_rollouts(envs.make("clevr"), CollectConfig(rollouts=2, shard=2), 0, tmp_path / "real")
    storage.write(real, tmp_path / "plain", {"settings": {"control": "none"}})
    assert len(first_tries(tmp_path / "plain")) == 2
    storage.write(real, tmp_path / "filtered", {"refined": {"raw": 9}})
    with pytest.raises(KalmError, match="needs .*raw, what was imagined before it was filtered"):
        first_tries(tmp_path / "filtered")
    with pytest.raises(KalmError, match="rollouts in memory do not hold. Give the folder"):
        first_tries(real)
