"""A world from outside the package: the example of docs/worlds.md, installed as a plug-in is, runs it all."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from whole_runs import TINY

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "taxi"
SMALL = [
    *TINY, "--set", "collect.rollouts=80", "--set", "ground.rollouts=32", "--set", "ground.held_out=8",
    "--set", "imagine.easy=1", "--set", "imagine.horizon=3", "--set", "imagine.samples=1",
    "--set", "imagine.refine.plausibility=keep", "--set", "train.steps=20",
    "--set", "train.checkpoint_every=20", "--set", "evaluate.episodes=4", "--set", "evaluate.horizon=6",
    "--set", "imagine.reading=off", "--set", 'evaluate.readings=["off"]', "--set", "train.controls=[]",
]  # fmt: skip


@pytest.fixture(scope="module")
def plugged(tmp_path_factory) -> dict[str, str]:
    """Install the example into a folder of its own; return the environment in which it is found."""
    folder = tmp_path_factory.mktemp("plug-in")
    shutil.copytree(EXAMPLE, folder / "source")  # building leaves files beside the source
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run(
        [*pip, "--no-build-isolation", "--target", folder / "site", folder / "source"],
        check=True,
        timeout=600,
    )
    paths = [str(folder / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def python(environment, *arguments):
    command = [sys.executable, "-m", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def taxi(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from kalm_taxi import world

    return world, world.TaxiWorld()


def test_the_tests_of_every_world_accept_it(plugged):
    assert "passed" in python(
        plugged, "pytest", "-p", "no:cacheprovider", ROOT / "tests" / "envs" / "test_worlds.py", "-k", "taxi"
    )


def test_its_demo_runs_from_collection_to_report(plugged, small_lm, tmp_path):
    run = tmp_path / "run"
    printed = python(
        plugged, "kalm", "run", "--env", "taxi", "--preset", "demo", "--out", run, *SMALL, *small_lm, "--json"
    )
    assert {policy["policy"] for policy in json.loads(printed)["policies"]} == {"BC", "BC+KALM"}
    assert len(list(run.rglob("done.json"))) == 7
    page, table = (run / "report" / "report.html").read_text(), (run / "report" / "report.md").read_text()
    for text in (page, table):
        assert "taxi" in text and "BC+KALM" in text and "clevr" not in text.lower()
    assert "data:image/" in page
    with (run / "evaluation" / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 4 and {row["level"] for row in rows} == {"seen", "rephrase", "easy", "hard"}


def test_its_rules_are_those_of_the_environment_it_stands_for(taxi):
    rules, world = taxi
    from gymnasium.envs.toy_text.taxi import TaxiEnv

    env, simulator = TaxiEnv(), world.simulator(1)
    env.reset(seed=0)
    for state in range(len(rules.STATES)):
        for action in range(rules.ACTIONS):
            env.s = 4 * state + state % 4  # whatever the destination that Gymnasium draws
            after = env.step(action)[0] // 4
            simulator.set_states(rules.STATES[[state]])
            np.testing.assert_array_equal(simulator.step(np.array([action]))[0], rules.STATES[after])


def test_its_expert_reaches_every_goal_within_the_horizon(taxi):
    _, world = taxi
    for level in ("seen", "rephrase", "easy", "hard"):
        goals = [instruction.goal for instruction in world.suite(level)]
        simulator, judge, expert = world.simulator(len(goals)), world.judge(goals), world.expert(0.0)
        states, done = simulator.reset(goals, np.arange(len(goals))), np.zeros(len(goals), dtype=bool)
        for _ in range(world.spec.horizon):
            actions = expert.act(states, judge, np.random.default_rng(0))
            after = simulator.step(actions)
            done |= judge.success(states, actions, after)
            states = after
        assert done.all()


def test_its_measures_find_what_is_impossible(taxi):
    rules, world = taxi
    assert not world.violations(rules.STATES)["impossible"].any()
    strange = [[2, 2, 2, 2, 0], [7, 2, 0, 0, 0], [2, 2, 2, 2, 3], [np.nan, 0, 0, 0, 0]]
    assert world.violations(np.array(strange))["impossible"].all()
    before, actions = rules.STATES[[60, 60]], np.array([1, 1])  # up, from the third row
    measures = world.motion(before, actions, before + np.array([[0, -1, 0, 0, 0], [2, 0, 0, 0, 0]]))
    np.testing.assert_array_equal(measures["as_the_rules_say"], [1, 0])
    np.testing.assert_array_equal(measures["step_too_large"], [0, 1])


def test_a_world_may_have_no_measures_at_all(taxi):
    _, world = taxi
    from kalm.data.collect import run_expert
    from kalm.data.settings import CollectConfig
    from kalm.evaluation.imagined import quality
    from kalm.evaluation.simulated import agreement

    class Bare(type(world)):
        def violations(self, states):
            return {}

        def motion(self, states, actions, next_states):
            return {}

    config = CollectConfig(rollouts=8, noise=0.2)
    rollouts, _ = run_expert(Bare(), world.suite("seen")[:8], config, np.random.default_rng(0))
    found = quality(rollouts, Bare())["seen"]
    assert (found.rollouts, found.violations, found.motion) == (8, {}, {})
    assert agreement(rollouts, Bare()).step.model.value == 0  # it is real


def test_every_seen_sentence_tells_its_own_goal_and_no_other(taxi):
    _, world = taxi
    goals = {instruction.goal for instruction in world.suite("seen")}
    for instruction in world.suite("seen"):
        right = {goal for goal in goals if all(world.explains(instruction.text, goal).values())}
        assert right == {instruction.goal}
