"""Which step of a plan is to be done."""

from __future__ import annotations

import numpy as np

from kalm import envs
from kalm.envs.clevr.world import ClevrWorld
from kalm.envs.follow import PlanFollower
from kalm.types import Goal

PATIENCE = ClevrWorld.patience
# red, blue, green, purple, cyan: red behind blue and green right of purple hold, all else is far apart.
TABLE = np.array([0.0, 0.3, 0.0, 0.05, 0.45, 0.5, 0.15, 0.5, -0.45, 0.5])


def relation(ball: str, reference: str, direction: str) -> Goal:
    return Goal.of("relation", ball=ball, reference=reference, direction=direction)


HOLDS = relation("red", "blue", "behind")
HOLDS_TOO = relation("green", "purple", "right")
OPEN = relation("cyan", "blue", "left")
OPEN_TOO = relation("red", "blue", "left")


def steps(plan: list[Goal], count: int) -> list[int]:
    follower = PlanFollower(envs.make("clevr"), [plan])
    return [int(follower.now(np.array([0]), TABLE[None])[0]) for _ in range(count)]


def test_what_holds_is_passed_by():
    assert steps([HOLDS, OPEN], 3) == [1, 1, 1]
    assert steps([HOLDS, HOLDS_TOO, OPEN], 1) == [2]


def test_where_all_hold_and_it_goes_on_each_has_its_turn_again():
    assert steps([HOLDS, HOLDS_TOO], 2 * PATIENCE) == [0] * PATIENCE + [1] * PATIENCE


def test_after_so_many_actions_another_step_has_its_turn():
    found = steps([OPEN, HOLDS, OPEN_TOO], 2 * PATIENCE + 1)
    assert found == [0] * PATIENCE + [2] * PATIENCE + [0]
    assert steps([OPEN], 2 * PATIENCE + 1) == [0] * (2 * PATIENCE + 1)


def test_a_step_that_was_undone_is_done_again():
    follower = PlanFollower(envs.make("clevr"), [[HOLDS, OPEN]])
    undone = TABLE.copy()
    undone[:2] = undone[2:4] + [0.3, -0.1]
    row = np.array([0])
    assert follower.now(row, undone[None]) == 0
    assert follower.now(row, TABLE[None]) == 1
    done = TABLE.copy()
    done[8:10] = done[2:4] - [0.3, 0.0]
    done[:2] = undone[:2]
    assert follower.now(row, done[None]) == 0


def test_rows_are_independent():
    plans = [[HOLDS, OPEN], [OPEN], [OPEN, OPEN_TOO, HOLDS]]
    together = PlanFollower(envs.make("clevr"), plans)
    found = [together.now(np.arange(3), np.stack([TABLE] * 3)) for _ in range(PATIENCE + 2)]
    for row, plan in enumerate(plans):
        assert [int(step[row]) for step in found] == steps(plan, PATIENCE + 2)


def test_the_first_task_of_two_holds_once_the_target_has_moved_on():
    world = envs.make("metaworld")
    first, second = world.plan_of(Goal.of("make-coffee"))
    start = world.initial_states([Goal.of("make-coffee")], [3])
    simulator = world.simulator(1)
    states = simulator.reset([Goal.of("make-coffee")], [3])
    assert not world.holds(world.judge([first]), start).any()
    expert, judge = world.expert(0.0), world.judge([Goal.of("make-coffee")])
    rng = np.random.default_rng(0)
    for _ in range(200):
        if judge.stage(states)[0] == 1:
            break
        states = simulator.step(expert.act(states, judge, rng))
    simulator.close()
    assert judge.stage(states)[0] == 1
    assert world.holds(world.judge([first]), states).all()
    assert not world.holds(world.judge([second]), states).any()
