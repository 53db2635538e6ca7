"""Verdicts and rewards of CLEVR-Robot goals against hand-computed numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kalm.envs.clevr.goals import ClevrJudge, parse_goal, quarter
from kalm.envs.clevr.spec import ACTIONS, ARROWS, BALLS, DIRECTIONS, HELPS, PUSHES
from kalm.errors import KalmError
from kalm.types import Goal

FAR = dict(zip(BALLS, [(-9, -9), (-9, 9), (9, 9), (9, -9), (0, 20)], strict=True))
NO_ACTION = np.zeros(1, dtype=np.int64)


def relation(ball="red", reference="blue", direction="behind"):
    return Goal.of("relation", ball=ball, reference=reference, direction=direction)


def state(**where):
    """One state with the named balls at (x, y) and the others far from everything: (1, 10)."""
    return np.array([[number for ball in BALLS for number in where.get(ball, FAR[ball])]], dtype=np.float64)


def holds(goal, **where):
    return bool(ClevrJudge([goal]).reached(state(), state(**where))[0])


def direction_of(*offset):
    return DIRECTIONS[int(quarter(np.array(offset, dtype=np.float64)))]


@pytest.mark.parametrize(
    ("offset", "expected"),
    [
        ((0.0, 0.3), "behind"),
        ((-0.3, 0.0), "left"),
        ((0.0, -0.3), "front"),
        ((0.3, 0.0), "right"),
        ((0.2, 0.21), "behind"),
        ((0.21, 0.2), "right"),
        ((0.21, -0.2), "right"),
        ((0.2, -0.21), "front"),
        ((-0.2, -0.21), "front"),
        ((-0.21, -0.2), "left"),
        ((-0.21, 0.2), "left"),
        ((-0.2, 0.21), "behind"),
        # exact diagonals: the 1e-6 under the cosine pulls the angle toward 90 and 270 degrees
        ((0.2, 0.2), "behind"),
        ((-0.2, 0.2), "behind"),
        ((0.2, -0.2), "front"),
        ((-0.2, -0.2), "front"),
        # coincident, and so near that both components are flat
        ((0.0, 0.0), "behind"),
        ((0.0009, -0.0009), "behind"),
        # one flat component: without the flattening the first would be front, the second left
        ((0.0011, -0.0009), "right"),
        ((-0.0009, 0.001), "behind"),
        # a component of exactly 1e-3 is not flat
        ((-0.001, 0.0), "left"),
    ],
)
def test_direction_of_an_offset(offset, expected):
    assert direction_of(*offset) == expected


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_every_offset_has_one_direction_and_it_agrees_with_the_larger_component(dx, dy):
    found = direction_of(dx, dy)
    if abs(abs(dx) - abs(dy)) > 1e-4 and max(abs(dx), abs(dy)) > 2e-3:
        along = np.argmax(ARROWS @ np.array([dx, dy]))
        assert found == DIRECTIONS[along]


@given(arrays(np.float64, (10,), elements=st.floats(-0.5, 0.5)))
def test_near_balls_satisfy_exactly_one_relation_and_far_balls_none(numbers):
    states = np.repeat(numbers[None], 4, axis=0)
    met = ClevrJudge([relation(direction=direction) for direction in DIRECTIONS]).reached(states, states)
    distance = np.hypot(*(numbers[:2] - numbers[2:4]))
    assert met.sum() == (1 if distance < 0.391 else 0)


def test_a_relation_needs_the_balls_near_by_their_unflattened_distance():
    assert holds(relation(), red=(0.0, 0.3909), blue=(0.0, 0.0))
    assert not holds(relation(), red=(0.0, 0.3911), blue=(0.0, 0.0))
    assert not holds(relation(), red=(0.0, 0.391), blue=(0.0, 0.0))
    # 0.0009 to the side is flat for the angle, but sqrt(0.390999**2 + 0.0009**2) = 0.3910000358
    assert holds(relation(), red=(0.0, 0.390999), blue=(0.0, 0.0))
    assert not holds(relation(), red=(0.0009, 0.390999), blue=(0.0, 0.0))


def test_a_relation_is_of_the_ball_to_the_reference():
    assert holds(relation("green", "cyan", "left"), green=(-0.3, 0.1), cyan=(0.0, 0.1))
    assert not holds(relation("cyan", "green", "left"), green=(-0.3, 0.1), cyan=(0.0, 0.1))


def test_a_relation_looks_at_the_next_state_alone():
    near, away = state(red=(0, 0.3), blue=(0, 0)), state()
    judge = ClevrJudge([relation()])
    assert judge.success(away, NO_ACTION, near) and not judge.success(near, NO_ACTION, away)


# direction -> the pushes that have its component, as the specification lists them
HELPFUL = {"behind": (1, 4, 5), "left": (2, 5, 7), "front": (3, 6, 7), "right": (0, 4, 6)}


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_move_is_judged_on_the_action(direction):
    goal = Goal.of("move", ball="green", direction=direction)
    judge, states = ClevrJudge([goal] * ACTIONS), np.repeat(state(), ACTIONS, axis=0)
    assert judge.one_step.all()
    reached = np.flatnonzero(judge.success(states, np.arange(ACTIONS), states))
    assert reached.tolist() == [16 + push for push in HELPFUL[direction]]
    rewards = judge.reward(states, np.arange(ACTIONS), states)
    assert rewards.sum() == 3 and set(rewards.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ((-0.16, 0.0), True),
        ((-0.14, 0.0), False),
        ((0.16, 0.0), False),
        ((-0.2, 0.9), True),
        ((0, -0.3), False),
    ],
)
def test_a_move_is_reached_when_the_ball_went_far_enough(change, expected):
    judge = ClevrJudge([Goal.of("move", ball="red", direction="left")])
    after = np.array([0.1, 0.2]) + change
    assert judge.reached(state(red=(0.1, 0.2)), state(red=after))[0] == expected
    # another ball that moves does not count
    assert not judge.reached(state(red=(0, 0), blue=(0.3, 0)), state(red=(0, 0), blue=(-0.3, 0)))[0]


def test_all_needs_every_relation():
    both = Goal.of("all", goals=[relation("red", "blue", "behind"), relation("green", "red", "right")])
    assert holds(both, blue=(0, 0), red=(0, 0.3), green=(0.3, 0.3))
    assert not holds(both, blue=(0, 0), red=(0, 0.3), green=(-0.3, 0.3))
    assert not holds(both, blue=(0, 0), red=(0, 0.5), green=(0.3, 0.5))


ROW = {"red": (0, 0), "blue": (1, 0), "green": (2, 0), "purple": (3, 0), "cyan": (4, 0)}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"cyan": (4, 0.57)}, True),  # step (1, 0.57): 29.68 degrees
        ({"cyan": (4, -0.57)}, True),
        ({"cyan": (4, 0.58)}, False),  # 30.11 degrees
        ({"cyan": (3, 0)}, False),  # no step at all
        ({"cyan": (2.5, 0)}, False),  # backward
        ({"blue": (2, 0), "green": (1, 0)}, False),
    ],
)
def test_line(changes, expected):
    assert holds(Goal.of("line", order=BALLS), **{**ROW, **changes}) is expected


def test_a_line_has_the_order_it_was_given():
    order = ("cyan", "purple", "green", "blue", "red")
    assert not holds(Goal.of("line", order=order), **ROW)
    assert holds(Goal.of("line", order=order), **{ball: (-x, 0) for ball, (x, _) in ROW.items()})


def test_gather_is_strict():
    ring = {"red": (0.3, 0), "blue": (-0.3, 0), "purple": (0, 0.3), "cyan": (0, -0.3), "green": (0, 0)}
    goal = Goal.of("gather", center="green")
    assert holds(goal, **ring)
    assert holds(goal, **{**ring, "red": (0.3249, 0)})
    assert not holds(goal, **{**ring, "red": (0.325, 0)})
    assert not holds(Goal.of("gather", center="red"), **ring)


def test_single_precision_states_are_judged_in_double():
    # the single nearest to 0.325 is 0.32499998..., which is within reach
    ring = state(red=(0.325, 0), blue=(-0.3, 0), purple=(0, 0.3), cyan=(0, -0.3), green=(0, 0))
    judge = ClevrJudge([Goal.of("gather", center="green")])
    assert not judge.reached(ring, ring)[0]
    assert judge.reached(ring.astype(np.float32), ring.astype(np.float32))[0]


def test_rewards_of_a_relation():
    start, end = state(red=(0.4, 0.3), blue=(0, 0)), state(red=(0.3, 0.0), blue=(0, 0))
    goals = [relation()]
    # balls: 0.5 m, then 0.3 m apart
    assert ClevrJudge(goals, "distance").reward(start, NO_ACTION, end)[0] == pytest.approx(2.0)
    # to the point (0, 0.195): sqrt(0.16 + 0.011025) = 0.41355, then sqrt(0.09 + 0.038025) = 0.35781
    assert ClevrJudge(goals).reward(start, NO_ACTION, end)[0] == pytest.approx(0.5574, abs=1e-3)
    assert ClevrJudge(goals).reward(end, NO_ACTION, start)[0] == pytest.approx(-0.5574, abs=1e-3)
    near = state(red=(0.0, 0.3), blue=(0, 0))
    assert ClevrJudge(goals).reward(start, NO_ACTION, near) == 100
    assert ClevrJudge(goals, "distance").reward(near, NO_ACTION, near) == 100


def test_the_rewarded_point_lies_in_the_goals_direction():
    for direction, point in {
        "behind": (0, 0.195),
        "left": (-0.195, 0),
        "front": (0, -0.195),
        "right": (0.195, 0),
    }.items():
        # from 1 m off (not a success: too far) to 0.6 m off the point, along a line through it
        far, close = ((point[0] + s, point[1] + s) for s in (1 / np.sqrt(2), 0.6 / np.sqrt(2)))
        judge = ClevrJudge([relation(direction=direction)])
        reward = judge.reward(state(red=far, blue=(0, 0)), NO_ACTION, state(red=close, blue=(0, 0)))
        assert reward == pytest.approx(4.0, abs=1e-5)


def test_rewards_count_parts():
    three = Goal.of(
        "all", goals=[relation(), relation("green", "blue", "left"), relation("cyan", "blue", "front")]
    )
    none, two = state(blue=(0, 0)), state(blue=(0, 0), red=(0, 0.3), green=(-0.3, 0))
    full = state(blue=(0, 0), red=(0, 0.3), green=(-0.3, 0), cyan=(0, -0.3))
    judge = ClevrJudge([three])
    assert judge.reward(none, NO_ACTION, two) == 20
    assert judge.reward(two, NO_ACTION, none) == -20
    assert judge.reward(two, NO_ACTION, full) == 100
    assert judge.reward(full, NO_ACTION, two) == -10

    line = ClevrJudge([Goal.of("line", order=BALLS)])
    bent = state(**{**ROW, "cyan": (3, 1)})  # three of four steps
    back = state(**{ball: (-x, 0) for ball, (x, _) in ROW.items()})  # none
    assert line.reward(back, NO_ACTION, bent) == 30
    assert line.reward(bent, NO_ACTION, state(**ROW)) == 100

    gather = ClevrJudge([Goal.of("gather", center="blue")])
    assert gather.reward(none, NO_ACTION, two) == 20
    assert gather.reward(two, NO_ACTION, two) == 0


def mixed(count, rng):
    """Goals of all kinds in random order."""
    goals = []
    for _ in range(count):
        balls, directions = rng.permutation(BALLS).tolist(), rng.choice(DIRECTIONS, 2).tolist()
        first = relation(balls[0], balls[1], directions[0])
        goals.append(
            [
                first,
                Goal.of("move", ball=balls[0], direction=directions[0]),
                Goal.of("all", goals=[first, relation(balls[2], balls[1], directions[1])]),
                Goal.of("line", order=balls),
                Goal.of("gather", center=balls[0]),
            ][rng.integers(5)]
        )
    return goals


@pytest.mark.parametrize("form", ["point", "distance"])
def test_judging_many_rows_equals_judging_each_alone_and_take_commutes(form):
    rng = np.random.default_rng(5)
    goals, actions = mixed(200, rng), rng.integers(0, ACTIONS, 200)
    states = rng.uniform(-0.3, 0.3, (200, 10)).astype(np.float32)
    after = states + rng.normal(0, 0.1, states.shape).astype(np.float32)
    judge, rows = ClevrJudge(goals, form), rng.integers(0, 200, 300)
    picked = judge.take(rows)
    assert picked.goals == tuple(goals[row] for row in rows)
    for name in ("success", "reward"):
        whole = getattr(judge, name)(states, actions, after)
        alone = [
            getattr(ClevrJudge([goal], form), name)(states[i : i + 1], actions[i : i + 1], after[i : i + 1])[
                0
            ]
            for i, goal in enumerate(goals)
        ]
        assert whole.tolist() == alone
        assert np.array_equal(getattr(picked, name)(states[rows], actions[rows], after[rows]), whole[rows])
    reached = judge.reached(states, after)
    assert np.array_equal(picked.reached(states[rows], after[rows]), reached[rows])
    assert 0 < reached.mean() < 1
    assert judge.reward(states, actions, after).dtype == np.float32


def test_take_accepts_a_mask_and_no_rows():
    judge = ClevrJudge(mixed(6, np.random.default_rng(1)))
    mask = np.array([True, False, False, True, True, False])
    assert judge.take(mask).goals == tuple(judge.goals[i] for i in (0, 3, 4))
    empty = judge.take(np.array([], dtype=np.int64))
    assert empty.success(np.zeros((0, 10)), np.zeros(0, dtype=int), np.zeros((0, 10))).shape == (0,)
    assert ClevrJudge([]).reward(np.zeros((0, 10)), np.zeros(0, dtype=int), np.zeros((0, 10))).shape == (0,)


def test_compiled_slots():
    judge = ClevrJudge([relation("cyan", "green", "front"), Goal.of("move", ball="blue", direction="right")])
    assert judge.ball.tolist() == [4, 1]
    assert judge.reference.tolist() == [2, -1]
    assert judge.direction.tolist() == [2, 3]
    assert judge.one_step.tolist() == [False, True]


def test_states_that_are_not_numbers_reach_nothing():
    broken = np.full((4, 10), np.nan)
    goals = [relation(), Goal.of("line", order=BALLS), Goal.of("gather", center="red")]
    goals.append(Goal.of("move", ball="red", direction="left"))
    assert not ClevrJudge(goals).reached(broken, broken).any()


def test_states_of_another_world_are_refused():
    with pytest.raises(AssertionError, match="15"):
        ClevrJudge([relation()]).reached(np.zeros((1, 15)), np.zeros((1, 15)))


def test_pushes_are_numbered_as_the_specification_says():
    assert PUSHES.tolist()[:4] == [[1, 0], [0, 1], [-1, 0], [0, -1]]
    assert PUSHES.tolist()[4:] == [[0.8, 0.8], [-0.8, 0.8], [0.8, -0.8], [-0.8, -0.8]]
    assert ACTIONS == 40 and HELPS.sum() == 12


GOOD = [
    {"kind": "relation", "ball": "red", "reference": "blue", "direction": "behind"},
    {"kind": "move", "ball": "red", "direction": "left"},
    {"kind": "line", "order": ["blue", "red", "green", "purple", "cyan"]},
    {"kind": "gather", "center": "green"},
    {
        "kind": "all",
        "goals": [
            {"kind": "relation", "ball": "red", "reference": "blue", "direction": "behind"},
            {"kind": "relation", "ball": "green", "reference": "cyan", "direction": "left"},
        ],
    },
]


@pytest.mark.parametrize("data", GOOD, ids=lambda data: data["kind"])
def test_parsed_goals_come_back_as_they_were(data):
    goal = parse_goal(data)
    assert goal.to_json() == data
    assert parse_goal(dict(reversed(data.items()))) == goal
    ClevrJudge([goal])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({**GOOD[0], "kind": "stack"}, "goal kind 'stack'.*gather, line, move, relation"),
        ({"ball": "red"}, "goal kind 'None'"),
        ({**GOOD[0], "ball": "pink"}, "'ball'.*'pink'.*red, blue, green, purple, cyan"),
        ({**GOOD[0], "reference": "red"}, "'reference' is 'red'"),
        ({**GOOD[0], "direction": "up"}, "'direction'.*'up'.*behind, left, front, right"),
        ({**GOOD[0], "direction": ["left"]}, "'direction'"),
        (
            {**GOOD[1], "reference": "blue"},
            "'move' has the slots ball, direction; got ball, direction, reference",
        ),
        ({"kind": "move", "ball": "red"}, "slots ball, direction; got ball"),
        ({"kind": "gather"}, "slots center; got none"),
        ({"kind": "line", "order": ["red", "blue"]}, "'order' must list each"),
        ({"kind": "line", "order": ["red", "red", "green", "purple", "cyan"]}, "'order' must list each"),
        ({"kind": "line", "order": "red"}, "'order' must list each"),
        ({"kind": "all", "goals": [GOOD[0]]}, "two or three"),
        ({"kind": "all", "goals": [GOOD[0], GOOD[1]]}, "relations only, got kind 'move'"),
        ({"kind": "all", "goals": [GOOD[0], {**GOOD[0], "ball": "pink"}]}, "'pink'"),
        ({"kind": "all", "goals": [GOOD[0], "red"]}, "a goal is an object"),
        ("red", "a goal is an object"),
    ],
)
def test_wrong_goals_are_refused_with_the_slot_and_what_it_allows(data, reason):
    with pytest.raises(KalmError, match=reason):
        parse_goal(data)


def test_unknown_reward_form():
    with pytest.raises(KalmError, match="'sparse'.*distance, point"):
        ClevrJudge([], "sparse")  # type: ignore[arg-type]
