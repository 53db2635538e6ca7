import numpy as np
import pytest

from kalm import envs
from kalm.data.rollouts import RolloutSet
from kalm.evaluation.imagined import Quality, direction_of, quality
from kalm.evaluation.statistics import rate
from kalm.types import Goal, Instruction, Rollout

START = np.array(
    [-0.4, 0.0, 0.0, 0.0, 0.4, 0.0, -0.2, 0.45, 0.2, 0.45]
)  # no ball near another, all on the table
HARD = Instruction("gather at green", "hard", Goal.of("gather", center="green"))
LEFT = Instruction("green to the left", "easy", Goal.of("move", ball="green", direction="left"))


@pytest.fixture(scope="module")
def world():
    return envs.make("clevr")


def moved(state, ball, dx, dy):
    state = state.copy()
    state[2 * ball : 2 * ball + 2] += dx, dy
    return state


def rollout(instruction, states, actions, success):
    return Rollout(
        instruction, np.array(states), np.array(actions), np.zeros(len(actions)), success, "imagined"
    )


@pytest.fixture(scope="module")
def rollouts(world):
    left, right = moved(START, 2, -0.2, 0.0), moved(START, 2, 0.2, 0.0)
    far = moved(START, 0, -1.0, 0.0)  # red off the table, a step no push makes
    inside = moved(START, 3, 0.3, 0.0)  # purple within 0.1 of cyan
    return RolloutSet.from_rollouts(
        world.spec,
        [
            rollout(LEFT, [START, left], [18], True),  # green pushed left and imagined to go left
            rollout(LEFT, [START, right], [18], True),  # right action, wrong outcome
            rollout(LEFT, [START, left], [16], False),  # wrong action, right outcome
            rollout(LEFT, [far, START], [16], False),  # neither; what is given is not held against it
            rollout(HARD, [START, far, START, START], [0, 0, 0], False),
            rollout(HARD, [START, inside], [24], False),
        ],
    )


def test_one_step_goals_are_judged_on_action_and_on_outcome(rollouts, world):
    easy = quality(rollouts, world)["easy"]
    assert easy.rollouts == 4 and easy.length == 1.0
    assert easy.match == rate(2, 4) and easy.action_match == rate(2, 4) and easy.change_match == rate(2, 4)


def test_violations_per_rollout_and_per_state(rollouts, world):
    both = quality(rollouts, world)
    assert list(both) == ["easy", "hard"]
    assert both["hard"].action_match is None and both["hard"].length == 2.0
    assert both["hard"].violations["off_table"] == (rate(1, 2), 0.25)
    assert both["hard"].violations["interpenetrating"] == (rate(1, 2), 0.25)
    assert both["easy"].violations["off_table"] == (rate(1, 4), 0.25)  # right: green ends at x = 0.6


def test_motion_is_averaged_over_transitions(rollouts, world):
    hard = quality(rollouts, world)["hard"].motion
    # Of four steps three move one ball and one moves none; the first two are longer than any push.
    assert hard["moving_balls"] == pytest.approx(0.75)
    assert hard["step_too_large"] == pytest.approx(0.5)


def test_json_round_trip(rollouts, world):
    for found in quality(rollouts, world).values():
        assert Quality.from_json(found.to_json()) == found


def test_goal_first_in_all_per_direction_and_per_family(world):
    def red(ball, reference, direction, family):
        goal = Goal.of("relation", ball=ball, reference=reference, direction=direction)
        return Instruction(f"{ball} {direction} of {reference}, {family}", "rephrase", goal, family=family)

    left, right = moved(START, 1, -0.7, 0.0), moved(START, 1, -0.1, 0.0)  # blue, of red at -0.4
    found = RolloutSet.from_rollouts(
        world.spec,
        [
            rollout(red("blue", "red", "right", "hand"), [START, right], [8], True),
            rollout(red("blue", "red", "right", "wrong"), [START, left, right], [8, 8], True),
            rollout(red("blue", "red", "left", "wrong"), [START, left], [8], True),
            rollout(red("blue", "red", "left", ""), [START, START], [8], False),
        ],
    )
    measured = quality(found, world)["rephrase"]
    assert measured.match == rate(3, 4) and measured.goal_first == rate(2, 3)
    assert measured.first_by_direction == {"left": rate(1, 1), "right": rate(1, 2)}
    assert measured.first_by_family == {"hand": rate(1, 1), "wrong": rate(1, 2)}
    assert Quality.from_json(measured.to_json()) == measured
    none = quality(found.take(np.array([3])), world)["rephrase"]
    assert none.goal_first is None and none.first_by_direction == {}


def test_goals_without_a_single_direction_are_told_apart_by_kind(rollouts, world):
    assert set(quality(rollouts, world)["easy"].first_by_direction) == {"left"}
    assert direction_of(HARD) == "gather"


def test_figures_of_earlier_versions_are_read(rollouts, world):
    found = quality(rollouts, world)["hard"]
    old = {name: part for name, part in found.to_json().items() if "first" not in name}
    assert Quality.from_json(old) == found


def test_nothing_imagined(rollouts, world):
    assert quality(rollouts.take(np.zeros(0, dtype=int)), world) == {}
