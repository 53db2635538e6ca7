"""What cannot pass through walls: on states made by hand, and never found in the simulator."""

import numpy as np
import pytest

from kalm.envs.metaworld.goals import MetaWorldJudge
from kalm.envs.metaworld.spec import ENTITY, TASKS
from kalm.envs.registry import make
from kalm.types import Goal

WALLED = [name for name, task in TASKS.items() if "wall" in task.entities]
RAISED, STANDING = (0.1, 0.75, 0.06), (0.1, 0.6, 0.0)


def state(hand, wall, **where):
    numbers = np.zeros((1, 91))
    numbers[0, :4] = (*hand, 1.0)
    for name, place in {"wall": wall, **where}.items():
        numbers[0, ENTITY[name]] = (*place, 1, 0, 0, 0)
    return numbers


def through(task, before, after):
    return MetaWorldJudge([Goal.of(task)]).violations(before, after)["through_wall"][0]


@pytest.mark.parametrize(
    ("wall", "x", "z", "passes"),
    [
        (STANDING, 0.1, 0.1, False),
        (STANDING, 0.1, 0.25, True),  # over it: the fingertips are 5 cm lower
        (STANDING, -0.05, 0.1, True),  # around it
        (RAISED, 0.1, 0.1, False),
        (RAISED, 0.1, 0.17, True),
        (RAISED, 0.23, 0.1, True),
    ],
)
def test_fingers_go_over_or_around_a_wall(wall, x, z, passes):
    block = {"target_object": (0.3, 0.5, 0.02)}
    sides = [state((x, wall[1] + side, z), wall, **block) for side in (-0.03, 0.04)]
    for before, after in (sides, sides[::-1]):
        assert through("push-wall", before, after) != passes


def test_so_does_a_block_and_it_stops_before_the_middle():
    hand = (-0.2, 0.6, 0.2)
    before, near, far = (state(hand, RAISED, target_object=(0.1, y, 0.02)) for y in (0.72, 0.73, 0.8))
    assert through("push-wall", before, near) and through("push-wall", before, far)
    assert not through("push-wall", before, before)


def test_other_tasks_have_only_the_numbers_of_a_wall():
    sides = [state((0.1, y, 0.1), RAISED) for y in (0.72, 0.8)]
    assert through("reach-wall", *sides) and not through("reach", *sides)


@pytest.mark.parametrize("task", WALLED)
def test_nothing_real_goes_through(task):
    """Hands go straight at the wall, and over it and back at it from behind."""
    n, world = 6, make("metaworld")
    judge, simulator = world.judge([Goal.of(task)] * n), world.simulator(n)
    states = simulator.reset(judge.goals, np.arange(n))
    wall, rng = states[:, ENTITY["wall"]][:, :3], np.random.default_rng(0)
    over, touched = np.arange(n) % 2 == 0, np.zeros(n, bool)
    for step in range(70):
        beyond, high = np.where(over, 1.0, -1.0), step < 35
        to = wall + [0, 0.2, 0.05]
        to[over, 1:] = wall[over, 1:] + ([0.15, 0.3] if high else [-0.2, 0.05])
        ways = np.clip(10 * (to - states[:, :3]) + rng.normal(0, 0.3, (n, 3)), -1, 1)
        if step < 15:
            ways[over, 1] = 0  # first up
        after = simulator.step(np.column_stack([ways, beyond]).astype(np.float32))
        assert not judge.violations(states, after)["through_wall"].any(), step
        touched |= np.abs(after[:, 1] - wall[:, 1]) < 0.06
        states = after
    assert touched.all()
    assert (states[~over, 1] < wall[~over, 1]).all()  # they press against it and do not get past
