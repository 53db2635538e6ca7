"""Keywords: every seen sentence tells its own goal and no other."""

import re
from itertools import product

import pytest

from kalm.envs.clevr.keywords import explains
from kalm.envs.clevr.sentences import suite
from kalm.envs.clevr.spec import BALLS, DIRECTIONS
from kalm.envs.sentences import read_bank
from kalm.types import Goal

SLOTS = {"object": "ball", "direction": "direction", "reference": "reference"}
SEEN = suite("seen")


def relation(ball, direction, reference):
    return Goal.of("relation", ball=ball, reference=reference, direction=direction)


def test_every_seen_sentence_is_right_for_its_goal_and_wrong_in_each_slot_that_differs():
    goals = [relation(b, d, r) for b, d, r in product(BALLS, DIRECTIONS, BALLS) if b != r]
    for instruction in SEEN:
        for goal in goals:
            found = explains(instruction.text, goal)
            assert found == {name: goal[slot] == instruction.goal[slot] for name, slot in SLOTS.items()}


def test_each_phrase_of_a_direction_holds_a_keyword_of_that_direction_alone():
    bank = read_bank("clevr", "seen")
    for table, direction in product(bank["tables"].values(), DIRECTIONS):
        words = set(re.findall(r"[a-z]+", table[direction]))
        found = {other for other, keywords in bank["keywords"].items() if words & set(keywords)}
        assert found == {direction}


@pytest.mark.parametrize(
    ("text", "object_", "direction", "reference"),
    [
        ("push the red ball behind the blue ball.", True, True, True),
        ("PUSH THE RED BALL TO THE BACK OF THE BLUE BALL", True, True, True),
        ("the red one, behind blue", True, True, True),
        ("push the blue ball behind the red ball", False, True, False),  # the other way around
        ("the redder ball is behind the blueish ball", False, True, False),  # whole words only
        ("push the red ball behind or left of the blue ball", True, False, True),
        ("push the red ball behind the blue and the green ball", True, True, False),
        ("push the red ball behind", True, True, False),
        ("", False, False, False),
    ],
)
def test_what_is_said_decides(text, object_, direction, reference):
    found = explains(text, relation("red", "behind", "blue"))
    assert found == {"object": object_, "direction": direction, "reference": reference}


def test_a_move_has_no_reference_and_arrangements_no_slots():
    move = Goal.of("move", ball="green", direction="left")
    assert explains("move the green ball to the left", move) == {"object": True, "direction": True}
    assert explains("green in the middle", Goal.of("gather", center="green")) == {}
