"""What is impossible in Meta-World, on states made by hand."""

import numpy as np
import pytest

from kalm.envs.base import TOO_LARGE
from kalm.envs.metaworld.plausibility import motion, violations
from kalm.envs.metaworld.spec import ENTITY, TARGET

HAND = (0.0, 0.6, 0.2, 1.0)
NAMES = ("floating", "off_workbench", "impossible_gripper")


def state(hand=HAND, target=(0.0, 0.85, 0.02), **where):
    """One state with the named entities at these places; ``coffee_button`` is the button of the machine."""
    numbers = np.zeros((1, 91))
    numbers[0, :4], numbers[0, TARGET] = hand, target
    for name, place in where.items():
        numbers[0, ENTITY[name.replace("_button", "-button")]] = (*place, 1, 0, 0, 0)
    return numbers


def broken(states):
    found = violations(states)
    assert tuple(found) == NAMES
    return [name for name in NAMES if found[name][0]]


BLOCK = {"target_object": (0.05, 0.65, 0.02)}


@pytest.mark.parametrize(
    "sound",
    [
        state(**BLOCK),
        state(target_object=(0.0, 0.6, 0.155)),  # between the fingertips
        state(hand=(0.0, 0.6, 0.2, 1.03)),  # imagined: what shows 1 at most is not met to the hair
        state(soccer=(0.0, 0.7, 0.1)),  # knocked up, near the hand
        state(handle=(-0.3, 0.4, 0.15)),
        state(hammer=(0, 0.45, 0.03), nail=(0.24, 0.64, 0.11)),
        state(window=(0, 0.7, 0.16), coffee_button=(0, 0.68, 0.3)),
    ],
)
def test_sound_states_break_nothing(sound):
    assert broken(sound) == []


def test_a_thing_in_the_air_must_be_at_the_gripper():
    assert broken(state(target_object=(0.0, 0.9, 0.2))) == ["floating"]
    assert broken(state(coffee=(0.2, 0.6, 0.2))) == ["floating"]
    assert broken(state(hand=(0.2, 0.6, 0.25, 0.5), coffee=(0.2, 0.6, 0.2))) == []
    # a button has its height from its box
    assert broken(state(coffee_button=(0.0, 0.7, 0.3))) == []


@pytest.mark.parametrize(
    "off",
    [
        {"target_object": (0.9, 0.65, 0.02)},
        {"target_object": (0.0, 0.65, -0.2)},
        {"button": (0.0, 0.75, 0.5)},
        {"nail": (0.0, 0.64, 0.11)},
        {"handle": (0.9, 0.5, 0.15)},
    ],
)
def test_entities_stay_where_their_kind_can_be(off):
    assert broken(state(**off)) == ["off_workbench"]


@pytest.mark.parametrize(
    "hand", [(0.6, 0.6, 0.2, 1), (0, 0.2, 0.2, 1), (0, 0.6, -0.01, 1), (0, 0.6, 0.2, 1.1)]
)
def test_the_gripper_stays_in_its_space(hand):
    assert broken(state(hand=hand)) == ["impossible_gripper"]


def test_a_state_that_is_not_a_number_is_a_violation():
    nothing = np.full((1, 91), np.nan)
    assert broken(nothing) == list(NAMES)
    turned = state(**BLOCK)
    turned[0, ENTITY["target_object"]][3:] = np.nan
    assert broken(turned) == ["off_workbench"]


def test_only_entities_that_are_there_count():
    assert not motion(state(), np.zeros((1, 4)), state())["moving_entities"][0]
    after = state(target_object=(0.052, 0.65, 0.02), soccer=(0, 0.8, 0.03))
    found = motion(state(**BLOCK, soccer=(0, 0.8, 0.03)), np.zeros((1, 4)), after)
    assert found["moving_entities"][0] == 1 and found[TOO_LARGE][0] == 0
    assert found[TOO_LARGE].dtype == np.float32


@pytest.mark.parametrize(
    ("after", "too_large"),
    [
        (state(**BLOCK), 0),
        (state(hand=(0.01, 0.61, 0.19, 0.9), **BLOCK), 0),
        (state(hand=(0.1, 0.6, 0.2, 1.0), **BLOCK), 1),
        (state(target_object=(0.15, 0.65, 0.02)), 1),
        (state(), 1),  # the block is gone
        (state(**BLOCK, wall=(0.1, 0.75, 0.06)), 1),  # a wall has come
        (state(target=(0.0, 0.86, 0.02), **BLOCK), 1),
        (state(**BLOCK) * np.nan, 1),
    ],
)
def test_steps_that_no_action_can_make(after, too_large):
    assert motion(state(**BLOCK), np.zeros((1, 4)), after)[TOO_LARGE][0] == too_large


def test_the_target_location_moves_on_in_composed_tasks():
    both = {"coffee": (0, 0.72, 0.0), "coffee_button": (0, 0.7, 0.3)}
    before, after = state(target=(0, 0.72, 0), **both), state(target=(0, 0.73, 0.3), **both)
    assert motion(before, np.zeros((1, 4)), after)[TOO_LARGE][0] == 0
    alone = {"coffee": (0, 0.72, 0.0)}
    before, after = state(target=(0, 0.72, 0), **alone), state(target=(0, 0.73, 0.3), **alone)
    assert motion(before, np.zeros((1, 4)), after)[TOO_LARGE][0] == 1


def test_many_rows_are_judged_alone():
    rows = np.concatenate([state(**BLOCK), state(target_object=(0.0, 0.9, 0.2)), state(hand=(1, 1, 1, 1))])
    assert violations(rows)["floating"].tolist() == [False, True, False]
    assert violations(rows)["impossible_gripper"].tolist() == [False, False, True]
    assert violations(rows[:0])["floating"].shape == (0,)
    with pytest.raises(AssertionError):
        violations(np.zeros((1, 10)))
