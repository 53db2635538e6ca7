"""What goals are made of and mistaken for: parts, plans in other words, counterfactuals."""

from __future__ import annotations

import numpy as np
import pytest

from kalm import envs
from kalm.envs.follow import fits_scene
from kalm.envs.sentences import plain_steps
from kalm.types import LEVELS, Goal


def relation(ball: str, reference: str, direction: str) -> Goal:
    return Goal.of("relation", ball=ball, reference=reference, direction=direction)


@pytest.mark.parametrize("name", ["clevr", "metaworld"])
def test_every_goal_has_its_own_plan_and_is_none_of_its_counterfactuals(name: str) -> None:
    world = envs.make(name)
    known = plain_steps(world)
    for goal in {instruction.goal for level in LEVELS for instruction in world.suite(level)}:
        plan = world.plan_of(goal)
        assert world.is_plan(plan, goal)
        assert set(plan) <= set(known)
        assert (plan == (goal,)) == (goal in known)
        others = world.counterfactuals(goal)
        assert goal not in others
        for other in others:
            assert world.parse_goal(other.to_json()) == other
            if plan:
                assert not world.is_plan(world.plan_of(other), goal)


def test_a_plain_sentence_per_goal_of_the_data() -> None:
    steps = plain_steps(envs.make("clevr"))
    assert len(steps) == 80
    assert steps[relation("red", "blue", "behind")].text == "Push the red ball behind the blue ball."
    tasks = plain_steps(envs.make("metaworld"))
    assert len(tasks) == 10
    assert tasks[Goal.of("door-open")].text == "Open the door."


def test_plans_are_about_what_is_in_the_scene() -> None:
    world = envs.make("metaworld")
    goals = list(dict.fromkeys(row.goal for level in LEVELS for row in world.suite(level)))
    states = world.initial_states(goals, range(len(goals)), "tested")
    fits = fits_scene(world, [[world.plan_of(goal)] for goal in goals], states)
    assert np.array(fits).shape == (len(goals), 1) and np.all(fits)
    tasks = list(plain_steps(world))
    door = world.initial_states([Goal.of("door-open")] * len(tasks), [3] * len(tasks))
    assert [task for task, there in zip(tasks, world.in_scene(tasks, door), strict=True) if there] == [
        Goal.of("door-open")
    ]
    both = [[tasks[0], Goal.of("door-open")], [Goal.of("door-open")], []]
    assert fits_scene(world, [both, []], door[:2]) == [[False, True, True], []]
    assert fits_scene(world, [], door[:0]) == []


def test_plans_of_clevr_in_other_words() -> None:
    world = envs.make("clevr")
    a, b = relation("red", "blue", "left"), relation("cyan", "green", "front")
    both = Goal.of("all", goals=[a.to_json(), b.to_json()])
    assert world.is_plan([b, a], both)
    assert not world.is_plan([a], both)
    assert not world.is_plan([a, a, b], both)
    line = Goal.of("line", order=["red", "blue", "green", "purple", "cyan"])
    assert world.plan_of(line)[0] == relation("blue", "red", "right")
    from_the_left = [relation(x, y, "left") for x, y in zip(line["order"], line["order"][1:], strict=False)]
    assert world.is_plan(from_the_left, line)
    assert not world.is_plan(from_the_left[1:], line)
    assert not world.is_plan(world.plan_of(Goal.of("line", order=line["order"][::-1])), line)
    gather = Goal.of("gather", center="green")
    sides = ("left", "behind", "right", "front")
    around = [relation(x, "green", d) for x, d in zip(("red", "blue", "purple", "cyan"), sides, strict=True)]
    assert world.is_plan(around, gather)
    same = [relation(x, "green", "left") for x in ("red", "blue", "purple", "cyan")]
    assert not world.is_plan(same, gather)


def test_counterfactuals_turn_directions_round() -> None:
    world = envs.make("clevr")
    assert world.counterfactuals(relation("red", "blue", "left")) == (relation("red", "blue", "right"),)
    move = Goal.of("move", ball="red", direction="behind")
    assert world.counterfactuals(move) == (Goal.of("move", ball="red", direction="front"),)
    assert world.plan_of(move) == ()


def test_plans_of_meta_world() -> None:
    world = envs.make("metaworld")
    assert world.plan_of(Goal.of("make-coffee")) == (Goal.of("coffee-push"), Goal.of("coffee-button"))
    assert world.plan_of(Goal.of("push-wall")) == (Goal.of("push"),)
    assert world.plan_of(Goal.of("door-close")) == ()
    assert world.counterfactuals(Goal.of("door-close")) == ()


def test_tasks_of_meta_world_on_the_same_things_come_true_together() -> None:
    world = envs.make("metaworld")
    judge = world.judge([Goal.of("window-open"), Goal.of("window-close")])
    state = np.random.default_rng(0).normal(size=91)
    at_its_target = state.copy()
    at_its_target[35:38] = at_its_target[4:7]  # the window's place, and the target location
    for after, verdict in ((state, False), (at_its_target, True)):
        assert judge.reached(np.stack([state] * 2), np.stack([after] * 2)).tolist() == [verdict] * 2


@pytest.mark.parametrize("name", ["clevr", "metaworld"])
def test_a_plan_makes_up_its_goal_again(name: str) -> None:
    world = envs.make(name)
    for goal in {instruction.goal for level in LEVELS for instruction in world.suite(level)}:
        plan = world.plan_of(goal)
        found = world.goal_of(plan)
        if not plan:
            assert found is None
        elif name == "clevr":
            assert found is not None and world.is_plan(plan, found)
            assert found.kind == goal.kind
            assert world.parse_goal(found.to_json()) == found
        else:
            assert found is not None and world.plan_of(found) == plan


def test_what_makes_up_no_goal_of_clevr() -> None:
    world = envs.make("clevr")
    a, turned = relation("red", "blue", "left"), relation("blue", "red", "right")
    assert world.goal_of([]) is None
    assert world.goal_of([a, turned]) is None
    four = [
        a,
        relation("green", "blue", "front"),
        relation("purple", "cyan", "left"),
        relation("cyan", "red", "left"),
    ]
    assert world.goal_of(four) is None
    assert world.goal_of(four[:2]) == Goal("all", (("goals", tuple(four[:2])),))
