"""Collection: what it keeps, that it resumes exactly, and that workers do not change the rollouts."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from multiprocessing import parent_process

import numpy as np
import pytest
from corridor import Corridor
from sets import assert_same

from kalm import envs
from kalm.data import storage
from kalm.data.collect import collect_rollouts, plan
from kalm.data.scoring import score
from kalm.data.settings import CollectConfig
from kalm.data.validation import require_valid
from kalm.errors import KalmError

SMALL = CollectConfig(rollouts=50, noise=0.5, shard=20)
MANY_SHARDS = CollectConfig(rollouts=60, shard=3)


@pytest.fixture(scope="module")
def world():
    return Corridor()


def provenance(folder):
    return json.loads((folder / "dataset.json").read_text())["provenance"]


def test_keeps_successes_only_and_stays_balanced(tmp_path, world):
    rollouts = collect_rollouts(world, SMALL, 0, tmp_path, command="kalm collect")
    require_valid(rollouts)
    assert len(rollouts) == 50 and rollouts.success.all()
    assert sorted(Counter(rollouts.which.tolist()).values()) == [12, 12, 13, 13]
    about = provenance(tmp_path)
    assert about["episodes"] > 50  # half of the actions are random: some episodes failed and ran again
    assert about["success_rate"] == pytest.approx(50 / about["episodes"])
    assert about["settings"]["noise"] == 0.5 and about["seed"] == 0 and about["command"] == "kalm collect"


def test_keeps_all(tmp_path, world):
    rollouts = collect_rollouts(world, SMALL.changed(keep="all"), 0, tmp_path)
    failed = ~rollouts.success
    assert len(rollouts) == 50 and 0 < failed.sum() < 50
    walks = np.array([rollout.instruction.goal.kind == "walk" for rollout in rollouts])
    assert (rollouts.lengths[failed & walks] == world.spec.horizon).all()
    assert (rollouts.lengths[~walks] == 1).all()
    about = provenance(tmp_path)
    assert about["episodes"] == 50 and about["success_rate"] == pytest.approx(rollouts.success.mean())
    assert about["success_by_kind"] == {
        "step": pytest.approx(rollouts.success[~walks].mean()),
        "walk": pytest.approx(rollouts.success[walks].mean()),
    }


def test_stops_at_the_first_success(tmp_path, world):
    rollouts = collect_rollouts(world, SMALL, 1, tmp_path)
    for rollout in rollouts:
        judge = world.judge([rollout.instruction.goal] * len(rollout.actions))
        hits = judge.success(rollout.states[:-1], rollout.actions, rollout.states[1:])
        assert hits.tolist() == [False] * (len(hits) - 1) + [True]


def test_rewards_and_verdicts_are_those_of_the_stored_states(tmp_path, world):
    rollouts = collect_rollouts(world, SMALL, 2, tmp_path)
    assert_same(score(rollouts, world), rollouts)
    moved = rollouts.states[rollouts.before + 1] - rollouts.states[rollouts.before]
    assert moved == pytest.approx(0.25 * rollouts.actions, abs=0.51)  # the walls shorten a step at most


def test_starts_where_the_instruction_says(tmp_path):
    rollouts = collect_rollouts(Corridor(start=(0.125, 0.25)), SMALL, 0, tmp_path)
    assert (rollouts.first_states == [0.125, 0.25]).all()


def test_workers_do_not_change_the_rollouts(tmp_path, world):
    alone = collect_rollouts(world, SMALL, 3, tmp_path / "one", workers=1)
    assert_same(collect_rollouts(world, SMALL, 3, tmp_path / "two", workers=2), alone)


def test_seeds_differ_and_repeat(tmp_path, world):
    first = collect_rollouts(world, SMALL, 4, tmp_path / "a")
    assert_same(collect_rollouts(world, SMALL, 4, tmp_path / "b"), first)
    assert not np.array_equal(
        collect_rollouts(world, SMALL, 5, tmp_path / "c").first_states, first.first_states
    )


def test_resumes_at_the_missing_shard(tmp_path, world):
    whole = collect_rollouts(world, SMALL, 6, tmp_path)
    before = provenance(tmp_path)
    (tmp_path / "dataset.json").unlink()
    storage.shard_path(tmp_path, 1).unlink()
    kept = storage.shard_path(tmp_path, 0).stat().st_mtime_ns
    calls = []
    again = collect_rollouts(
        world, SMALL, 6, tmp_path, advance=lambda n=1, resumed=False, **_: calls.append((n, resumed))
    )
    assert_same(again, whole)
    assert calls == [(30, True), (20, False)]
    assert storage.shard_path(tmp_path, 0).stat().st_mtime_ns == kept
    assert provenance(tmp_path) == {**before, "command": ""}


def test_finished_collection_is_only_read(tmp_path, world):
    whole = collect_rollouts(world, SMALL, 7, tmp_path)
    written = (tmp_path / "dataset.json").stat().st_mtime_ns
    assert_same(collect_rollouts(world, SMALL, 7, tmp_path), whole)
    assert (tmp_path / "dataset.json").stat().st_mtime_ns == written


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    collect_rollouts(envs.make("clevr"), MANY_SHARDS, 1, folder)
    return folder


KILLED = """
import os, signal, sys
from pathlib import Path
from kalm import envs
from kalm.data.settings import CollectConfig
from kalm.data.collect import collect_rollouts

calls = []

def die(n=1, **fields):
    calls.append(n)
    if len(calls) == 4:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    config = CollectConfig.model_validate_json(sys.argv[1])
    collect_rollouts(envs.make("clevr"), config, 1, Path(sys.argv[2]), int(sys.argv[3]), die)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_collection_goes_on(tmp_path, undisturbed, workers):
    """A real kill -9 in the middle, on the real world, against a run that nobody disturbed."""
    folder, script = tmp_path / "killed", tmp_path / "script.py"
    script.write_text(KILLED)
    command = [sys.executable, script, MANY_SHARDS.model_dump_json(), folder, str(workers)]
    process = subprocess.Popen(command, start_new_session=True)
    assert process.wait() == -signal.SIGKILL
    wait_for_group(process.pid)
    assert 3 <= len(storage.finished_shards(folder)) < 20 and not storage.sealed(folder)
    assert_same(collect_rollouts(envs.make("clevr"), MANY_SHARDS, 1, folder), storage.read(undisturbed))
    assert provenance(folder) == provenance(undisturbed)


def wait_for_group(group):
    """Workers must follow their killed parent by themselves."""
    for _ in range(6000):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError("a worker outlived its killed parent by a minute")


def test_folder_of_another_collection(tmp_path, world):
    collect_rollouts(world, SMALL, 0, tmp_path)
    with pytest.raises(KalmError, match="holds a collection with other seed"):
        collect_rollouts(world, SMALL, 1, tmp_path)
    with pytest.raises(KalmError, match="holds a collection with other settings"):
        collect_rollouts(world, SMALL.changed(noise=0.2), 0, tmp_path)
    with pytest.raises(KalmError, match="holds a collection with other dynamics, instructions"):
        collect_rollouts(Corridor(ends=("left",)), SMALL, 0, tmp_path)


@pytest.mark.parametrize("options", [{"physics": "mujoco3"}, {"reward": "distance"}])
def test_folder_of_other_world_options(tmp_path, options):
    config = CollectConfig(rollouts=2, shard=2)
    collect_rollouts(envs.make("clevr"), config, 0, tmp_path)
    with pytest.raises(KalmError, match="holds a collection with other dynamics"):
        collect_rollouts(envs.make("clevr", **options), config, 0, tmp_path)


def test_folder_of_foreign_rollouts(tmp_path, world):
    storage.write(collect_rollouts(world, SMALL, 0, tmp_path / "a"), tmp_path / "b", {})
    with pytest.raises(KalmError, match="holds rollouts that no collection made"):
        collect_rollouts(world, SMALL, 0, tmp_path / "b")


@pytest.mark.parametrize("workers", [1, 2])
def test_goal_that_the_expert_cannot_reach(tmp_path, workers):
    with pytest.raises(KalmError, match="failed 200 times at 'step nowhere'"):
        collect_rollouts(Corridor(ends=("nowhere",)), SMALL, 0, tmp_path, workers)


class Deadly(Corridor):
    """A world whose expert takes its worker process along."""

    def expert(self, noise):
        return super().expert(noise) if parent_process() is None else os._exit(3)


def test_worker_that_dies(tmp_path):
    with pytest.raises(KalmError, match="a worker process died"):
        collect_rollouts(Deadly(), SMALL, 0, tmp_path, workers=2)


def test_plan_deals_every_instruction_equally():
    suite = envs.make("clevr").suite("seen")
    jobs = plan(suite, CollectConfig(rollouts=2 * len(suite) + 100, shard=1000), 0)
    assert [index for index, _ in jobs] == list(range(len(jobs)))
    assert all(len(rows) == 1000 for _, rows in jobs[:-1])
    counts = Counter(instruction for _, rows in jobs for instruction in rows)
    assert len(counts) == len(suite)
    assert Counter(counts.values()) == {2: len(suite) - 100, 3: 100}
    assert jobs[0][1] != suite[:1000]


def test_clevr(tmp_path):
    world = envs.make("clevr")
    rollouts = collect_rollouts(
        world, CollectConfig(rollouts=60, shard=30, noise=0.2), 0, tmp_path, workers=2
    )
    assert len(rollouts) == 60 and rollouts.success.all()
    assert_same(score(rollouts, world), rollouts)
    assert rollouts.actions.max() < 40 and rollouts.lengths.max() <= world.spec.horizon
