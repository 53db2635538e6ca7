import re
from pathlib import Path

import mujoco
import numpy as np
import pytest

from kalm.envs.clevr.simulator import (
    PHYSICS,
    QPOS_XY,
    ClevrSimulator,
    initial_states,
    scene,
)
from kalm.envs.clevr.spec import PUSHES
from kalm.errors import KalmError
from kalm.types import Goal

HERE = Path(__file__).parent
GOAL = Goal.of("gather", center="red")  # initial states do not depend on it
ORIGINAL = HERE.parents[2] / "shared" / "samples" / "clevr_physics.npz"  # outside the project


@pytest.fixture(scope="module")
def original():
    if not ORIGINAL.exists():
        pytest.skip(f"the original environment's samples are not at {ORIGINAL}")
    return np.load(ORIGINAL)


@pytest.fixture(scope="module")
def pushes():
    """8 single pushes and 2 sequences of 5, made by this environment when it agreed with the original."""
    return np.load(HERE / "clevr_pushes.npz")


def with_qpos(qpos, kind="paper"):
    """Scenes at rest in full positions: the original's balls do not lie exactly on the table."""
    simulator = ClevrSimulator(len(qpos), kind)
    simulator.set_states(qpos[:, QPOS_XY.ravel()])
    simulator._full[:, 1:38] = qpos
    return simulator


@pytest.mark.parametrize(("kind", "key"), [("paper", ""), ("mujoco3", "_mujoco3")])
def test_single_pushes_are_the_originals(original, kind, key):
    after = with_qpos(original["single_qpos"], kind).step(original["single_action"])
    np.testing.assert_allclose(after, original[f"single_next_xy{key}"], rtol=0, atol=1e-6)


def test_sequences_are_the_originals_with_velocities_carried_over(original):
    simulator = with_qpos(original["sequence_qpos0"])
    for step, actions in enumerate(original["sequence_action"].T):
        np.testing.assert_allclose(
            simulator.step(actions), original["sequence_xy"][:, step], rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("kind", PHYSICS)
def test_stored_pushes(pushes, kind):
    simulator = ClevrSimulator(8, kind)
    simulator.set_states(pushes["states"])
    np.testing.assert_allclose(simulator.step(pushes["actions"]), pushes[f"next_{kind}"], rtol=0, atol=1e-6)
    simulator = ClevrSimulator(2, kind)
    simulator.set_states(pushes["start"])
    for step, actions in enumerate(pushes["sequence"].T):
        np.testing.assert_allclose(
            simulator.step(actions), pushes[f"path_{kind}"][:, step], rtol=0, atol=1e-6
        )


def broad_phase_model():
    """The scene with contact types in place of listed pairs, as the original has it."""
    text = re.sub("<contact>.*</contact>", "", scene())
    text = text.replace(
        '<geom contype="0" conaffinity="0"/>', '<geom friction=".8 .1 .1" margin=".002" condim="3"/>'
    )
    text = re.sub(r'name="(wall_\w+|pusher)" type', r'name="\1" contype="1" conaffinity="0" type', text)
    model = mujoco.MjModel.from_xml_string(text)
    model.body_invweight0[model.body("pusher").id] = (2 / 3) / (model.body("pusher").mass[0] + 0.04)
    return model


def plain_step(model, data, action):
    ball, push = divmod(int(action), 8)
    data.qpos[35:37] = data.qpos[7 * ball : 7 * ball + 2] - 0.15 * PUSHES[push]
    data.qvel[30:] = 0
    data.qacc_warmstart[:] = 0
    data.ctrl[:] = PUSHES[push]
    for _ in range(40):
        mujoco.mj_step(model, data)
    return data.qpos[QPOS_XY.ravel()].copy()


def test_agrees_with_a_plain_loop_over_a_broad_phase():
    model, starts = broad_phase_model(), initial_states(np.arange(12))
    actions = np.random.default_rng(0).integers(40, size=(3, 12))
    simulator = ClevrSimulator(12)
    simulator.set_states(starts)
    fast = np.stack([simulator.step(row) for row in actions], axis=1)
    for start, own, path in zip(starts, actions.T, fast, strict=True):
        data = mujoco.MjData(model)
        data.qpos[QPOS_XY.ravel()] = start
        slow = [plain_step(model, data, action) for action in own]
        np.testing.assert_allclose(path, slow, rtol=0, atol=1e-9)


def test_a_free_push_from_rest_goes_a_quarter_of_a_metre():
    simulator = ClevrSimulator(1)
    simulator.set_states(np.array([[0.0, 0.0, -0.4, -0.1, -0.4, 0.5, 0.0, 0.5, 0.4, 0.5]]))
    after = simulator.step(np.array([0]))[0]
    assert after[0] == pytest.approx(0.250, abs=0.001) and abs(after[1]) < 1e-3


def test_the_two_physics_part_by_centimetres(pushes):
    ends = []
    for kind in PHYSICS:
        simulator = ClevrSimulator(8, kind)
        simulator.set_states(pushes["states"])
        ends.append(simulator.step(pushes["actions"]))
    assert np.abs(ends[0] - ends[1]).max() > 0.05


def test_reset_follows_the_originals_distribution():
    balls = initial_states(np.arange(3000)).reshape(-1, 5, 2)
    assert balls[..., 0].min() >= -0.5 and balls[..., 0].max() <= 0.5
    assert balls[..., 1].min() >= -0.3 and balls[..., 1].max() <= 0.5
    first, second = np.triu_indices(5, 1)
    gaps = np.abs(balls[:, first] - balls[:, second])  # (N, 10, 2)
    distances = np.hypot(gaps[..., 0], gaps[..., 1])
    assert gaps.min() >= 0.01 and distances.min() >= 0.36
    # Measured on 5,000 resets of the original.
    quantiles = np.percentile(distances.min(axis=1), [5, 50, 95])
    np.testing.assert_allclose(quantiles, [0.3613, 0.3784, 0.4294], atol=0.004)
    assert distances.mean() == pytest.approx(0.6146, abs=0.004)
    outside = (np.abs(balls[..., 0]) > 0.47) | (balls[..., 1] < -0.17)
    assert outside.any(axis=1).mean() == pytest.approx(0.93, abs=0.03)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s: s.step(np.array([40])), "0 to 39"),
        (lambda s: s.step(np.array([-1])), "0 to 39"),
        (lambda s: s.step(np.array([1.0])), "whole numbers"),
        (lambda s: s.step(np.array([1, 2])), "shape"),
        (lambda s: s.set_states(np.full((1, 10), np.nan)), "finite"),
        (lambda s: s.set_states(np.full((1, 10), 11.0)), "10"),
        (lambda s: s.set_states(np.zeros((1, 15))), r"\(1, 10\)"),
        (lambda s: s.reset([GOAL], [-1]), "seeds"),
        (lambda s: s.reset([GOAL], [0.5]), "seeds"),
        (lambda s: ClevrSimulator(1).step(np.array([0])), "reset"),
        (lambda s: ClevrSimulator(0), "at least 1"),
        (lambda s: ClevrSimulator(1, threads=0), "at least 1"),
        (lambda s: ClevrSimulator(1, "mujoco4"), "paper"),
    ],
)
def test_bad_input_is_named(call, says):
    simulator = ClevrSimulator(1)
    simulator.reset([GOAL], [0])
    with pytest.raises(KalmError, match=says):
        call(simulator)
