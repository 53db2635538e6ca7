import numpy as np
import pytest

from kalm.envs.clevr.world import ClevrWorld
from kalm.envs.registry import make
from kalm.errors import KalmError
from kalm.types import Goal

APART = [-0.4, 0.0, 0.0, 0.0, 0.4, 0.0, -0.4, 0.4, 0.4, 0.4]  # red, blue, green, purple, cyan
RED_LEFT = Goal.of("move", ball="red", direction="left")


def state(**balls):
    positions = dict(zip(["red", "blue", "green", "purple", "cyan"], np.reshape(APART, (5, 2)), strict=True))
    return np.array([{**positions, **balls}[name] for name in positions]).ravel()


def test_spec():
    spec = make("clevr").spec
    assert spec.state_names[:4] == ("red_x", "red_y", "blue_x", "blue_y")
    assert (spec.state_size, spec.action_kind, spec.action_size, spec.horizon) == (10, "discrete", 40, 50)


def test_violations():
    states = np.array(
        [
            state(),
            state(red=(-0.61, 0.0)),
            state(red=(0.0, 0.71)),
            state(red=(0.1, 0.14)),  # 0.172 m from blue
            state(red=(0.1, 0.16)),  # 0.189 m from blue
            state(red=(np.nan, 0.0)),
        ]
    )
    found = ClevrWorld().violations(states)
    assert found["off_table"].tolist() == [False, True, True, False, False, True]
    assert found["interpenetrating"].tolist() == [False, False, False, True, False, False]


def test_motion():
    before = np.array([state()] * 3)
    after = np.array(
        [
            state(red=(-0.2, 0.0), blue=(0.0, 0.0005)),
            state(red=(-0.2, 0.0), blue=(0.0, 0.3), green=(0.4, 0.01)),
            state(cyan=(-0.06, 0.4)),
        ]
    )
    found = ClevrWorld().motion(before, np.array([0, 7, 39]), after)  # red, red, cyan
    assert found["moving_balls"].tolist() == [1, 3, 1]
    assert found["pushed_moves_most"].tolist() == [1, 0, 1]
    assert found["step_too_large"].tolist() == [0, 0, 1]
    assert all(values.dtype == np.float32 for values in found.values())


def test_real_steps_are_plausible():
    world, simulator = ClevrWorld(), ClevrWorld().simulator(40)
    before = simulator.reset([RED_LEFT] * 40, np.arange(40))
    for _ in range(3):
        actions = np.arange(40)
        after = simulator.step(actions)
        assert not world.violations(after)["off_table"].any()
        assert not world.motion(before, actions, after)["step_too_large"].any()
        before = after


def test_reward_option_reaches_the_judge():
    goal = Goal.of("relation", ball="red", reference="blue", direction="behind")
    before, after = state()[None], state(red=(-0.4, 0.1))[None]
    rewards = [
        ClevrWorld(reward=form).judge([goal]).reward(before, np.array([1]), after)[0]
        for form in ("point", "distance")
    ]
    assert rewards[0] == pytest.approx(10 * (np.hypot(0.4, 0.195) - np.hypot(0.4, 0.095)), abs=1e-4)
    assert rewards[1] == pytest.approx(10 * (0.4 - np.hypot(0.4, 0.1)), abs=1e-4)


@pytest.mark.parametrize("options", [{"physics": "mujoco2"}, {"reward": "dense"}])
def test_unknown_options_are_named(options):
    with pytest.raises(KalmError, match=next(iter(options))):
        make("clevr", **options)
