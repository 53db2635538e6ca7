"""Speed of the worlds: steps and resets per second, against what one would write first.

For CLEVR-Robot that is a plain loop over the MuJoCo bindings: one table at a time, `mj_step` called 40 times
from Python, contacts left to MuJoCo's broad phase. For Meta-World it is the package's own environments, one
after another. Both run here, in one process, on the same states and actions, and must agree.

    python benchmarks/bench_world.py [threads]
"""

# pyright: reportAttributeAccessIssue=false

import re
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TypeVar

import mujoco
import numpy as np

from kalm.envs.clevr import simulator
from kalm.envs.clevr.spec import PUSHES
from kalm.envs.registry import make
from kalm.types import Goal

Result = TypeVar("Result")

TABLES = 512
ARMS = ("reach", "push", "door-open", "coffee-push")  # tasks of Meta-World, in equal shares
EPISODES, LENGTH = 16, 40  # rows and steps of Meta-World
ROUNDS = 3  # the best of these counts: other work on the machine only ever slows one down


def plain_model() -> mujoco.MjModel:
    """Return the scene with contact types instead of listed pairs, as the original environment has it."""
    text = re.sub("<contact>.*</contact>", "", simulator.scene())
    defaults = '<geom friction=".8 .1 .1" margin=".002" condim="3"/>'
    text = text.replace('<geom contype="0" conaffinity="0"/>', defaults)
    text = re.sub(r'name="(wall_\w+|pusher)" type', r'name="\1" contype="1" conaffinity="0" type', text)
    model = mujoco.MjModel.from_xml_string(text)
    pusher = model.body("pusher").id
    model.body_invweight0[pusher] = (2 / 3) / (model.body_mass[pusher] + 0.04)
    return model


def plain_steps(model: mujoco.MjModel, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """Take one action on each table, one after another: (n, 10), (n,) -> (n, 10)."""
    columns, after = simulator.QPOS_XY.ravel(), np.empty_like(states)
    data = mujoco.MjData(model)
    for row, (state, action) in enumerate(zip(states, actions, strict=True)):
        mujoco.mj_resetData(model, data)
        data.qpos[columns] = state
        ball, push = divmod(int(action), len(PUSHES))
        data.qpos[35:37] = data.qpos[7 * ball : 7 * ball + 2] - simulator.START_BEHIND * PUSHES[push]
        data.ctrl[:] = PUSHES[push]
        for _ in range(simulator.SUBSTEPS):
            mujoco.mj_step(model, data)
        after[row] = data.qpos[columns]
    return after


def plain_resets(count: int) -> None:
    """Draw `count` initial states with array calls, one ball at a time."""
    for seed in range(count):
        rng, balls = np.random.default_rng(seed), np.zeros((0, 2))
        while len(balls) < 5:
            for _ in range(simulator.RESET_TRIES):
                spot = rng.uniform([-0.5, -0.3], [0.5, 0.5])
                gaps = np.abs(balls - spot)
                if (np.hypot(*gaps.T) >= simulator.RESET_DISTANCE).all() and (
                    gaps >= simulator.RESET_OFFSET
                ).all():
                    balls = np.vstack([balls, spot])
                    break
            else:
                balls = np.zeros((0, 2))


def best(call: Callable[[], Result]) -> tuple[float, Result]:
    """Return the shortest of `ROUNDS` times in seconds, and the call's result."""
    times, results = [], []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        results.append(call())
        times.append(time.perf_counter() - start)
    return min(times), results[-1]


def report(name: str, rate: float, plain: float) -> None:
    """Print one line."""
    print(f"{name:24} {rate:8.0f} /s   plain loop {plain:8.0f} /s   ratio {rate / plain:.2f}")


def metaworld(threads: int) -> None:
    """Print one line per measurement of Meta-World."""
    from kalm.envs.metaworld.scenes import build

    world, goals = make("metaworld"), [Goal.of(ARMS[row % len(ARMS)]) for row in range(EPISODES)]
    actions = np.random.default_rng(0).uniform(-1, 1, (LENGTH, EPISODES, 4)).astype(np.float32)
    envs = {task: build(task) for task in ARMS}

    def plain() -> np.ndarray:
        """Step one episode after another: -> (EPISODES,) where the hand ends in x."""
        ends = []
        for row, goal in enumerate(goals):
            env = envs[goal.kind]
            env.seed(row)
            env.reset()
            resets.append(time.perf_counter())
            hands = [env.step(action)[0][0] for action in actions[:, row]]
            steps.append(time.perf_counter() - resets[-1])
            ends.append(hands[-1])
        return np.array(ends)

    slowest, begun, ends = [], [], np.zeros(EPISODES)
    for _ in range(ROUNDS):
        resets, steps, start = [], [], time.perf_counter()
        ends = plain()
        slowest.append(sum(steps))
        begun.append(time.perf_counter() - start - sum(steps))
    slow, slow_reset = min(slowest), min(begun)
    begins = []
    for count in dict.fromkeys((1, threads)):
        simulator = world.simulator(EPISODES, count)
        times, begins = [], []
        for _ in range(ROUNDS + 1):  # the first builds the models
            start = time.perf_counter()
            simulator.reset(goals, range(EPISODES))
            begins.append(time.perf_counter() - start)
            start = time.perf_counter()
            after = [simulator.step(action) for action in actions][-1]
            times.append(time.perf_counter() - start)
            assert np.abs(after[:, 0] - ends).max() < 1e-4, "the two disagree"
        simulator.close()
        report(f"arm steps, {count} thread(s)", EPISODES * LENGTH / min(times), EPISODES * LENGTH / slow)
    report("arm resets", EPISODES / min(begins), EPISODES / slow_reset)


def main(threads: int = 2) -> None:
    """Print one line per measurement."""
    world, seeds = make("clevr"), np.arange(TABLES)
    goals = [one.goal for one in world.suite("seen")[:TABLES]]
    states, actions = (
        world.initial_states([goals[0]] * TABLES, seeds),
        np.random.default_rng(0).integers(40, size=TABLES),
    )
    model, sample = plain_model(), slice(0, TABLES // 4)
    slow, expected = best(lambda: plain_steps(model, states[sample], actions[sample]))
    plain = len(states[sample]) / slow
    for count in dict.fromkeys((1, threads)):
        simulator = world.simulator(TABLES, count)

        def steps(simulator=simulator):
            simulator.set_states(states)
            return simulator.step(actions)

        seconds, after = best(steps)
        simulator.close()
        assert np.abs(after[sample] - expected).max() < 1e-9, "the two disagree"
        rate = TABLES / seconds
        report(f"world steps, {count} thread(s)", rate, plain)
    fast, _ = best(lambda: world.initial_states([goals[0]] * TABLES, seeds))
    slow, _ = best(lambda: plain_resets(TABLES // 4))
    rate, plain = TABLES / fast, TABLES // 4 / slow
    report("resets", rate, plain)
    judge, expert = world.judge(goals), world.expert(0.0)
    seconds, _ = best(lambda: expert.act(states[: len(goals)], judge, np.random.default_rng(0)))
    print(f"{'actions of the expert':24} {len(goals) / seconds:8.0f} /s")
    if find_spec("metaworld") is not None:
        metaworld(threads)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
