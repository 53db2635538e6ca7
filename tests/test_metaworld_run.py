"""The whole pipeline on Meta-World, small but real: all algorithms, actions as vectors, distractors."""

import csv
import json

import numpy as np
import pytest

from kalm.data import storage
from kalm.envs.metaworld.spec import ENTITIES, ENTITY, TASKS
from whole_runs import TINY, here

SMALL = [
    *TINY, "--set", "collect.rollouts=40", "--set", "collect.shard=20",
    "--set", "ground.held_out=4", "--set", "ground.rollouts=12", "--set", "inspect.rollouts=3",
    "--set", "ground.precision=bfloat16", "--set", "imagine.precision=bfloat16",  # auto, where it is native
    "--set", "imagine.refine.plausibility=keep",  # it has learnt nothing, so nothing would be left
    "--set", "imagine.horizon=3", "--set", "imagine.reading=parts", "--set", "evaluate.readings=['off']",
    "--set", "train.controls=[]", "--set", "dynamics.members=1", "--set", "dynamics.forward_steps=20",
    "--set", "train.algorithms=[bc, cql, td3bc, awac, iql, combo]", "--set", "train.steps=6",
    "--set", "train.batch=16", "--set", "train.checkpoint_every=6", "--set", "train.combo.rollouts=20",
    "--set", "evaluate.episodes=3", "--set", "evaluate.horizon=5",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(small_lm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "arm"
    settings = ["--preset", "demo", "--workers", 1, *SMALL, *small_lm]
    done = here("run", "--env", "metaworld", "--out", folder, *settings, "--json")
    return folder, json.loads(done.stdout)


def distractors(rollouts) -> list[int]:
    """Numbers of entities, at the beginning, that are not of the task."""
    tasks = [rollouts.instructions[which].goal.kind for which in rollouts.which]
    first = rollouts.states[rollouts.state_starts]
    return [
        sum(state[ENTITY[name]].any() for name in ENTITIES if name not in TASKS[task].entities)
        for task, state in zip(tasks, first, strict=True)
    ]


def test_every_algorithm_is_trained_plain_and_with_imagined_rollouts(run):
    names = {policy["policy"] for policy in run[1]["policies"]}
    plain = {"BC", "CQL", "TD3BC", "AWAC", "IQL", "COMBO"}
    assert names == plain | {f"{name}+KALM" for name in plain}


def test_data_have_none_one_or_two_distractors_and_imagination_and_inspection_one_as_tests(run):
    assert set(distractors(storage.read(run[0] / "real"))) == {0, 1, 2}
    for folder in ("imagined", "inspection/rollouts"):
        assert set(distractors(storage.read(run[0] / folder))) == {1}


def test_actions_are_vectors_in_range_everywhere(run):
    for folder in ("real", "imagined"):
        actions = storage.read(run[0] / folder).actions
        assert actions.shape[1] == 4 and np.abs(actions).max() <= 1 and actions.std() > 0


def test_the_report_has_a_row_for_each_task_that_was_played(run):
    page = (run[0] / "report" / "report.html").read_text()
    assert "Success per kind of goal" in page
    with (run[0] / "evaluation" / "rows.csv").open() as file:
        played = {row["kind"] for row in csv.DictReader(file)}
    assert len(played) > 4 and played <= set(TASKS)
    assert all(f">{task}<" in page for task in played)
