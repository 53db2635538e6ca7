"""Verdicts and rewards of Meta-World goals against hand-computed numbers, and against the package's own."""

import numpy as np
import pytest

from kalm.envs.metaworld.goals import SINGLE, STAGES, VERDICTS, MetaWorldJudge, parse_goal
from kalm.envs.metaworld.reward_terms import both, fingertips, near
from kalm.envs.metaworld.rewards import FORMULAS, door_angle, own_reward
from kalm.envs.metaworld.spec import ENTITY, GRIPPER, SPEC, TARGET, TASKS
from kalm.errors import KalmError
from kalm.types import Goal

STILL = np.zeros((1, 4))
HAND = (0.0, 0.6, 0.2, 1.0)


def state(target, hand=HAND, **where):
    """One state with the named entities at these places, turned as a block stands: (1, 91)."""
    numbers = np.zeros((1, SPEC.state_size))
    numbers[0, GRIPPER], numbers[0, TARGET] = hand, target
    for name, place in where.items():
        numbers[0, ENTITY[name.replace("_button", "-button")]] = (*place, 0, 0, 0, 1)
    return numbers


def judge(task):
    return MetaWorldJudge([Goal.of(task)])


def reached(task, after):
    return bool(judge(task).reached(after, after)[0])


def own(task, after, effort=0.0):
    return judge(task).own_reward(np.array([[0, 0, 0, effort]]), after)[0]


# Per task the place of its entity that is just within, and just beyond, of a target location.
PLACES = {
    "push": ((0.1, 0.85, 0.02), (0.149, 0.85, 0.02), (0.151, 0.85, 0.02)),
    "pick-place": ((0, 0.85, 0.2), (0, 0.85, 0.131), (0, 0.85, 0.129)),
    "button-press": ((0, 0.78, 0.1), (0.5, 0.761, 0.3), (0, 0.759, 0.1)),
    "door-unlock": ((0.2, 0.67, 0.21), (0.181, 0.6, 0.15), (0.179, 0.67, 0.21)),
    "door-open": ((-0.25, 0.45, 0.15), (-0.171, 0.6, 0.15), (-0.169, 0.45, 0.15)),
    "window-open": ((0.1, 0.8, 0.16), (0.051, 0.7, 0.16), (0.049, 0.8, 0.16)),
    # 0.04 to the left and 0.03 above the handle's number
    "faucet-open": ((0.175, 0.8, 0.125), (0.146, 0.8, 0.095), (0.144, 0.8, 0.095)),
    "coffee-push": ((0, 0.72, 0), (0.069, 0.72, 0), (0.071, 0.72, 0)),
    "coffee-button": ((0, 0.7, 0.3), (0, 0.681, 0.3), (0, 0.679, 0.3)),
    "push-wall": ((0, 0.87, 0.02), (0, 0.801, 0.02), (0, 0.799, 0.02)),
    "pick-place-wall": ((0, 0.87, 0.2), (0, 0.87, 0.131), (0, 0.87, 0.129)),
    "button-press-wall": ((0, 0.78, 0.1), (0, 0.751, 0.1), (0, 0.749, 0.1)),
    "door-lock": ((0.1, 0.67, 0.11), (0.3, 0.67, 0.129), (0.1, 0.67, 0.131)),
    "door-close": ((0.25, 0.7, 0.15), (0.25, 0.779, 0.15), (0.25, 0.781, 0.15)),
    "window-close": ((0, 0.8, 0.2), (-0.049, 0.7, 0.2), (0.051, 0.8, 0.2)),
    "faucet-close": ((-0.1, 0.8, 0.1), (-0.031, 0.8, 0.1), (-0.029, 0.8, 0.1)),
    "soccer": ((0, 0.85, 0), (0.069, 0.85, 0), (0, 0.779, 0)),
}


@pytest.mark.parametrize("task", PLACES)
def test_verdict_by_where_the_entity_is(task):
    target, within, beyond = PLACES[task]
    entity = TASKS[task].entities[0].replace("-", "_")
    assert reached(task, state(target, **{entity: within}))
    assert not reached(task, state(target, **{entity: beyond}))


@pytest.mark.parametrize("task", ["reach", "reach-wall"])
def test_reaching_is_done_by_the_fingertips(task):
    # 4.5 cm below the hand, and nearly under it
    assert reached(task, state((0, 0.6, 0.155)))
    assert reached(task, state((0.049, 0.6, 0.155)))
    assert not reached(task, state((0.051, 0.6, 0.155)))
    assert not reached(task, state((0, 0.6, 0.21)))


def test_a_nail_is_driven_to_its_end():
    target, hammer = (0.24, 0.74, 0.11), (0, 0.5, 0.02)
    assert reached("hammer", state(target, hammer=hammer, nail=(0.24, 0.731, 0.11)))
    assert not reached("hammer", state(target, hammer=hammer, nail=(0.24, 0.729, 0.11)))


def test_every_task_has_a_verdict_and_a_reward():
    assert set(SINGLE) == set(FORMULAS) == set(TASKS) - set(STAGES)
    for task, verdict in VERDICTS.items():
        assert verdict.entity in ("", *TASKS[task].entities)


@pytest.mark.parametrize("task", TASKS)
def test_states_that_are_not_numbers_reach_nothing(task):
    broken = np.full((1, SPEC.state_size), np.nan)
    assert not judge(task).success(broken, STILL, broken)[0]


def test_soft_limits():
    x = np.array([0.0, 0.05, 0.15, 0.25])
    # the long tail is 1 / (1 + 9 d^2), d in margins outside
    assert near(x, 0.05, 0.1) == pytest.approx([1, 1, 0.1, 1 / 37])
    assert near(x, 0.05, 0.1, bell=True) == pytest.approx([1, 1, 0.1, 0.1**4])
    assert near(np.array([0.01, 0.02]), 0.05, 0.01, low=0.02) == pytest.approx([0.1, 1])
    assert near(x, 0.05, np.zeros(4)).tolist() == [1, 1, 0, 0]
    assert both(np.array([0.5, 0.0, 1.0]), np.array([0.5, 0.0, 1.0])) == pytest.approx([1 / 3, 0, 1])


def test_own_reward_of_reaching():
    after = state((0, 0.85, 0.2))
    tips = fingertips(after)[0]
    # margin: the hand begins at (0, 0.6, 0.2), 0.25 m off
    outside = (np.linalg.norm(tips - (0, 0.85, 0.2)) - 0.05) / 0.25
    assert own("reach", after) == pytest.approx(10 / (1 + 9 * outside**2))
    assert own("reach", state(fingertips(after)[0])) == 10


def test_own_reward_of_pressing():
    button = (0.0, 0.7, 0.15)
    # The fingertips at the button, open: 2 for the place, and 0.02 - 0.005 of 0.0935 m are missing.
    tips = fingertips(state((0, 0, 0), hand=(0, 0.7, 0.195, 1)))[0]
    after = state((0, 0.72, 0.15), hand=(0, 0.7, 0.195, 1.0), button=tips)
    missing = (0.72 - tips[1] - 0.005) / 0.0935
    assert own("button-press", after) == pytest.approx(2 + 8 / (1 + 9 * missing**2))
    far = state((0, 0.72, 0.15), hand=(0, 0.4, 0.2, 0.0), button=button)
    assert own("button-press", far) == 0


def test_own_reward_of_turning_the_lever():
    lever, target = (0.1, 0.67, 0.11), (0.2, 0.67, 0.2)
    # the hand's shoulder 0.055 behind and 0.07 above it is at the lever: 2; 0.095 of 0.1 m are missing
    after = state(target, hand=(0.1, 0.615, 0.04, 1.0), lock=lever)
    assert own("door-unlock", after) == pytest.approx(2 + 8 / (1 + 9 * 0.95**2))
    turned = state(target, hand=(0.1, 0.615, 0.04, 1.0), lock=(0.198, 0.67, 0.11))
    assert own("door-unlock", turned) > 8


def test_own_reward_of_pushing():
    target, block = (0.1, 0.85, 0.02), (0.0, 0.65, 0.02)
    after = state(target, hand=(0, 0.65, 0.066, 0.6), target_object=block)
    loose, closing = own("push", after), own("push", after, effort=1.0)
    # The block is caged (2 * 0.5), the fingers are at it (1 + 2 * 0.5), and it is where it began.
    in_place = 1 / (1 + 9 * ((np.hypot(0.1, 0.2) - 0.05) / np.hypot(0.1, 0.2)) ** 2)
    assert loose == pytest.approx(2 * 0.5 + 1 + 2 * 0.5 + 5 * in_place, abs=0.02)
    assert closing == pytest.approx(2 + 1 + 2 + 5 * in_place, abs=0.05)
    assert own("push", state(target, target_object=(0.1, 0.84, 0.02))) == 10


def test_a_thing_that_is_turned_began_elsewhere():
    target, block = (0.1, 0.85, 0.2), (0.1, 0.6, 0.02)
    stands = state(target, hand=(0.1, 0.6, 0.066, 0.6), target_object=block)
    turned = stands.copy()
    turned[0, ENTITY["target_object"]][3:] = (0, 0, np.sin(0.1), np.cos(0.1))
    # it began in the middle of its box, nearer to the target: the same place is worth less
    assert own("pick-place", turned) < own("pick-place", stands)


def test_the_angle_of_a_door():
    target = np.zeros((2, 3))
    hinge, arm = np.array([0.115, 0.35]), np.array([0.37572, -0.10714])
    open_door = np.array([arm[1], -arm[0]])  # a quarter turn
    handle = np.array([[*(hinge + arm), 0.0], [*(hinge + open_door), 0.0]])
    assert door_angle(handle, target) == pytest.approx([0, np.pi / 2], abs=1e-4)


def test_rewards_are_gains_and_ten_on_success():
    near_by, far = state((0, 0.85, 0.2), hand=(0, 0.7, 0.2, 1)), state((0, 0.85, 0.2))
    gain = own("reach", near_by) - own("reach", far)
    assert judge("reach").reward(far, STILL, near_by)[0] == pytest.approx(gain) and gain > 0.5
    assert judge("reach").reward(near_by, STILL, far)[0] == pytest.approx(-gain)
    there = state((0, 0.85, 0.2), hand=(0, 0.85, 0.24, 1))
    assert judge("reach").reward(far, STILL, there)[0] == 10
    assert judge("reach").reward(there, STILL, there)[0] == 10
    assert judge("reach").reward(far, STILL, there).dtype == np.float32


MUG, BUTTON = (0.0, 0.72, 0.0), (0.0, 0.75, 0.3)  # target locations of the two stages
AT_MUG, AT_BUTTON = {"coffee": (0, 0.7, 0)}, {"coffee_button": (0, 0.74, 0.3)}
AWAY = {"coffee": (0, 0.6, 0), "coffee_button": (0, 0.72, 0.3)}


def test_stages_of_making_coffee():
    coffee = judge("make-coffee")
    begun, placed = state(MUG, **AWAY), state(MUG, **{**AWAY, **AT_MUG})
    second, pressed = state(BUTTON, **{**AWAY, **AT_MUG}), state(BUTTON, **AT_MUG, **AT_BUTTON)
    expected = {"begun": (0, False, False), "placed": (0, True, False)}
    expected |= {"second": (1, False, False), "pressed": (1, False, True)}
    for name, after in {"begun": begun, "placed": placed, "second": second, "pressed": pressed}.items():
        done = coffee.first_stage_done(after)[0]
        assert (coffee.stage(after)[0], done, coffee.reached(after, after)[0]) == expected[name], name
        shown = second if name == "placed" else after
        np.testing.assert_allclose(coffee.next_stage(after), shown, atol=1e-12)
    # a pressed button is no success as long as the mug is asked for; later the mug need not stay
    assert not coffee.reached(begun, state(MUG, **AWAY | AT_BUTTON))[0]
    assert coffee.reached(begun, state(BUTTON, **AWAY | AT_BUTTON))[0]


def test_stages_of_opening_a_locked_door():
    door, turned, opened = judge("locked-door-open"), (0.15, 0.66, 0.2), (-0.25, 0.4, 0.15)
    shut = {"lock": (0.05, 0.66, 0.12), "handle": (0.2, 0.64, 0.1)}
    unlocked = shut | {"lock": (0.14, 0.66, 0.2)}
    assert not door.first_stage_done(state(turned, **shut))[0]
    assert door.first_stage_done(state(turned, **unlocked))[0]
    assert not door.reached(STILL, state(turned, **unlocked))[0]
    second = state(opened, **unlocked)
    assert door.stage(second)[0] == 1 and not door.first_stage_done(second)[0]
    assert not door.reached(second, second)[0]
    assert door.stage(door.next_stage(state(turned, **unlocked)))[0] == 1
    single, done = judge("push"), state(MUG, target_object=(0, 0.72, 0))
    assert single.reached(done, done)[0] and np.array_equal(single.next_stage(done), done)
    assert door.reached(second, state(opened, **unlocked | {"handle": (-0.2, 0.5, 0.1)}))[0]


@pytest.mark.parametrize(
    ("task", "first", "second"),
    [
        ("make-coffee", state(MUG, **AWAY), state(BUTTON, **AWAY)),
        (
            "locked-door-open",
            state((0.15, 0.66, 0.2), lock=(0.05, 0.66, 0.12), handle=(0.2, 0.64, 0.1)),
            state((-0.25, 0.4, 0.15), lock=(0.05, 0.66, 0.12), handle=(0.2, 0.64, 0.1)),
        ),
    ],
)
def test_the_second_stage_is_worth_more_than_the_first(task, first, second):
    one, two = STAGES[task].tasks
    assert own(task, first) == pytest.approx(own_reward(one, STILL, first)[0] / 2)
    assert own(task, second) == pytest.approx(5 + own_reward(two, STILL, second)[0] / 2)
    assert judge(task).reward(first, STILL, second)[0] > 0


def mixed(count, rng):
    """Goals of all tasks and states around their scenes, some of the second stages."""
    goals = [Goal.of(task) for task in rng.choice(list(TASKS), count)]
    states = np.zeros((count, SPEC.state_size))
    for goal, numbers in zip(goals, states, strict=True):
        numbers[GRIPPER] = (*rng.uniform((-0.1, 0.6, 0.1), (0.1, 0.8, 0.3)), rng.uniform(0.3, 1))
        numbers[TARGET] = rng.uniform((-0.1, 0.4, 0.0), (0.1, 0.9, 0.3))
        for entity in TASKS[goal.kind].entities:
            numbers[ENTITY[entity]][:3] = numbers[TARGET] + rng.normal(0, 0.06, 3)
            numbers[ENTITY[entity]][3:] = rng.normal(size=4)
    return goals, states


def test_judging_many_rows_equals_judging_each_alone_and_take_commutes():
    rng = np.random.default_rng(5)
    goals, before = mixed(200, rng)
    after, actions = before + rng.normal(0, 0.01, before.shape), rng.uniform(-1, 1, (200, 4))
    whole, rows = MetaWorldJudge(goals), rng.integers(0, 200, 300)
    picked = whole.take(rows)
    assert picked.goals == tuple(goals[row] for row in rows) and not whole.one_step.any()
    for name in ("success", "reward"):
        found = getattr(whole, name)(before, actions, after)
        alone = [
            getattr(MetaWorldJudge([goal]), name)(before[i : i + 1], actions[i : i + 1], after[i : i + 1])[0]
            for i, goal in enumerate(goals)
        ]
        assert found.tolist() == pytest.approx(alone)
        assert np.array_equal(getattr(picked, name)(before[rows], actions[rows], after[rows]), found[rows])
    verdicts = whole.reached(before, after)
    assert np.array_equal(verdicts, whole.success(before, actions, after)) and 0 < verdicts.mean() < 1
    rewards = whole.own_reward(actions, after)
    assert ((rewards >= 0) & (rewards <= 10)).all()


def test_take_accepts_a_mask_and_no_rows():
    judge = MetaWorldJudge([Goal.of("reach"), Goal.of("make-coffee"), Goal.of("soccer")])
    assert judge.take(np.array([False, True, True])).goals == judge.goals[1:]
    empty = judge.take(np.array([], dtype=np.int64))
    none = np.zeros((0, SPEC.state_size))
    assert empty.reward(none, np.zeros((0, 4)), none).shape == MetaWorldJudge([]).stage(none).shape == (0,)


def test_states_of_another_world_are_refused():
    with pytest.raises(AssertionError, match="10"):
        judge("reach").reached(np.zeros((1, 10)), np.zeros((1, 10)))


@pytest.mark.parametrize("task", TASKS)
def test_parsed_goals_come_back_as_they_were(task):
    assert parse_goal({"kind": task}) == Goal.of(task) and parse_goal({"kind": task}).to_json() == {
        "kind": task
    }


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"kind": "open-door"}, "goal kind 'open-door'.*button-press, .*window-open"),
        ({}, "goal kind 'None'"),
        ({"kind": ["reach"]}, "goal kind"),
        ({"kind": "reach", "ball": "red"}, "'reach' has no slots; got ball"),
        ("reach", "a goal is an object"),
    ],
)
def test_wrong_goals_are_named(data, reason):
    with pytest.raises(KalmError, match=reason):
        parse_goal(data)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["push", "hammer"])
def test_the_packages_own_verdicts_and_rewards_are_the_same(task):
    """A whole episode of the package's scripted policy, past success."""
    pytest.importorskip("metaworld")
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    from metaworld.policies import ENV_POLICY_MAP

    env, policy = ALL_V3_ENVIRONMENTS[f"{task}-v3"](), ENV_POLICY_MAP[f"{task}-v3"]()
    env._partially_observable, env._set_task_called, env.seeded_rand_vec = False, True, True
    env._freeze_rand_vec = False
    del env.sawyer_observation_space
    env.seed(3)
    seen, _ = env.reset()
    steps, single = [], judge(task)
    for _ in range(100):
        action = np.clip(policy.get_action(seen), -1, 1)
        seen, reward, _, _, info = env.step(action)
        after = np.zeros((1, SPEC.state_size))
        after[0, GRIPPER], after[0, TARGET] = seen[:4], seen[36:]
        for i, entity in enumerate(TASKS[task].entities):
            after[0, ENTITY[entity]] = seen[4 + 7 * i : 11 + 7 * i]
        verdict, value = single.reached(after, after)[0], single.own_reward(action[None], after)[0]
        steps.append((verdict, info["success"] > 0, value, reward))
    judged, real, value, reward = np.array(steps).T
    assert np.array_equal(judged, real) and 0 < real.mean() < 1
    assert np.corrcoef(value, reward)[0, 1] > 0.98
