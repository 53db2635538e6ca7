"""What Meta-World's world does beyond the battery of `test_worlds.py`."""

import mujoco
import numpy as np
import pytest

from kalm.data.collect import run_expert
from kalm.data.settings import CollectConfig
from kalm.envs.metaworld import scenes
from kalm.envs.metaworld.distractors import BOXES
from kalm.envs.metaworld.expert import observation
from kalm.envs.metaworld.spec import ENTITIES, ENTITY, GRIPPER, TARGET, TASKS
from kalm.envs.registry import make
from kalm.envs.rollout import initial_states
from kalm.errors import KalmError
from kalm.types import Goal

# One whose entity is loose, one that keeps swinging as it is reset, one with two entities.
SOME = ("push", "door-lock", "hammer")


@pytest.fixture(scope="module")
def world():
    return make("metaworld")


def plain(task, seed):
    """The package's own environment, begun with its parts as in the file while the arm settles."""
    env = scenes.build(task)
    del env.sawyer_observation_space  # made before the target was to be seen
    file, settle = (env.model.body_pos.copy(), env.model.site_pos.copy()), env._reset_hand

    def settle_in_file():
        env.model.body_pos[:], env.model.site_pos[:] = file
        settle()

    env._reset_hand = settle_in_file
    env.seed(seed)
    env.reset()
    return env


def seen_now(env):
    """What the package reads once every place is computed anew; the environment stays as it was."""
    full = np.empty(mujoco.mj_stateSize(env.model, scenes.ALL))
    mujoco.mj_getState(env.model, env.data, full, scenes.ALL)
    mujoco.mj_forward(env.model, env.data)
    seen = env._get_curr_obs_combined_no_goal()
    mujoco.mj_setState(env.model, env.data, full, scenes.ALL)
    return seen


def actions_of(steps):
    """Random ones, then straight down and forward, into things."""
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 4)).astype(np.float32)
    actions[steps // 3 :, 1:3] = 0.7, -1.0
    return actions


@pytest.mark.parametrize("task", SOME)
def test_an_episode_is_the_packages_own_to_the_bit(world, task):
    env, simulator = plain(task, 7), world.simulator(1)
    states = simulator.reset([Goal.of(task)], [7])
    np.testing.assert_array_equal(observation(task, states[0])[:18], seen_now(env))
    for action in actions_of(60):
        seen = env.step(action)[0]
        state = simulator.step(action[None])[0]
        np.testing.assert_array_equal(observation(task, state)[:18], seen[:18])
        np.testing.assert_array_equal(state[TARGET], seen[36:])


def test_the_restored_arm_is_the_settled_arm(world):
    env, lane = plain("door-lock", 3), scenes.scene("door-lock").begin(3)
    full = np.empty_like(lane.full)
    mujoco.mj_getState(env.model, env.data, full, scenes.ALL)
    np.testing.assert_array_equal(lane.full, full)
    np.testing.assert_array_equal(lane.places, env.model.body_pos)


def test_absent_entities_are_zeros(world):
    for task in SOME:
        state = world.initial_states([Goal.of(task)], [0])[0]
        for name in ENTITIES:
            assert state[ENTITY[name]].any() == (name in TASKS[task].entities)
        assert 0 <= state[GRIPPER][3] <= 1


def test_walls_are_read_from_the_scene(world):
    state = world.initial_states([Goal.of("push-wall")], [0])[0]
    np.testing.assert_allclose(state[ENTITY["wall"]], [0.1, 0.75, 0.06, 1, 0, 0, 0])
    assert not observation("push-wall", state)[11:18].any()  # the package's policies never saw it


def shown(states, task):
    """Names of the entities that are there but not of the task."""
    return [
        {name for name in ENTITIES if state[ENTITY[name]].any()} - set(TASKS[task].entities)
        for state in states
    ]


def test_a_distractor_stays_for_the_episode_and_leaves_the_physics_alone(world):
    goals, seeds, n = [Goal.of("push")] * 8, range(8), 8
    usual, tested = world.simulator(n), world.simulator(n, conditions="tested")
    before, after = usual.reset(goals, seeds), tested.reset(goals, seeds)
    names = shown(after, "push")
    assert all(len(name) == 1 for name in names) and len(set.union(*names)) > 3
    for _ in range(2):
        extra = after - before
        actions = np.zeros((n, 4), dtype=np.float32)
        before, after = usual.step(actions), tested.step(actions)
        np.testing.assert_array_equal(after - before, extra)
    assert not any(shown(before, "push"))


def test_data_may_be_collected_as_policies_are_tested(world):
    rows = [item for item in world.suite("seen") if item.goal.kind == "coffee-button"][:3]
    for conditions, others in (("tested", 1), ("plain", 0)):
        config = CollectConfig(conditions=conditions)
        found = run_expert(world, rows, config, np.random.default_rng(0))[0].first_states
        there = [sum(state[ENTITY[name]].any() for name in ENTITIES) for state in found]
        assert there == [1 + others] * 3
    starts = initial_states(world, rows, [1, 2, 3], conditions="tested")
    goals = [row.goal for row in rows]
    np.testing.assert_array_equal(starts, world.simulator(3, conditions="tested").reset(goals, [1, 2, 3]))


def test_varied_episodes_have_none_one_or_two_distractors(world):
    states = world.initial_states([Goal.of("push")] * 60, range(60), "varied")
    counts = np.bincount([len(names) for names in shown(states, "push")])
    assert len(counts) == 3 and (counts > 10).all()


def test_distractor_options():
    goals, step = [Goal.of("push")] * 4, np.zeros((4, 4))
    anew = make("metaworld", distractor="step", distractors=("faucet",)).simulator(4, conditions="tested")
    first, second = anew.reset(goals, range(4)), anew.step(step)
    assert shown(first, "push") == shown(second, "push") == [{"faucet"}] * 4
    assert (first[:, ENTITY["faucet"]] != second[:, ENTITY["faucet"]]).any(axis=1).all()
    none = make("metaworld", distractor="none").simulator(4, conditions="tested")
    assert not any(shown(none.reset(goals, range(4)), "push"))
    own = make("metaworld", distractors=("target_object",)).simulator(4, conditions="tested")
    assert not any(shown(own.reset(goals, range(4)), "push"))
    for options in ({"distractor": "often"}, {"distractors": ("teapot",)}, {"distractors": ()}):
        with pytest.raises(KalmError, match="distractor"):
            make("metaworld", **options)


@pytest.mark.parametrize("task", SOME)
def test_boxes_of_distractors_hold_what_resets_show(world, task):
    if task == "door-lock":
        task = "door-unlock"  # the first task that has a lock
    states = world.initial_states([Goal.of(task)] * 40, range(40))
    for name in TASKS[task].entities:
        low, high, turn = BOXES[name]
        places = states[:, ENTITY[name]][:, :3]
        assert (places >= np.array(low) - 0.002).all() and (places <= np.array(high) + 0.002).all()
        assert (np.ptp(places, axis=0) >= 0.7 * (np.array(high) - low)).all()
        np.testing.assert_allclose(states[:, ENTITY[name]][:, 3:], [turn] * 40, atol=1e-3)


@pytest.mark.parametrize("task", ["make-coffee", "locked-door-open"])
def test_composed_tasks_go_through_two_stages_and_begin_anew(world, task):
    goals, simulator = [Goal.of(task)] * 2, world.simulator(2)
    judge, expert, rng = world.judge(goals), world.expert(0.0), np.random.default_rng(0)
    states = begun = simulator.reset(goals, [0, 1])
    stages, done = [judge.stage(states)], np.zeros(2, dtype=bool)
    for _ in range(world.spec.horizon):
        actions = expert.act(states, judge, rng)
        after = simulator.step(actions)
        reached = judge.success(states, actions, after)
        assert not (reached & (judge.stage(after) == 0)).any()
        done |= reached
        states = after
        stages.append(judge.stage(states))
    assert done.all()
    changes = np.diff(stages, axis=0)
    assert (stages[0] == 0).all() and (changes.sum(axis=0) == 1).all() and (changes >= 0).all()
    np.testing.assert_array_equal(simulator.reset(goals, [0, 1]), begun)


def test_the_bolt_holds_the_door_until_it_is_unlocked(world):
    lane, physics = scenes.scene("locked-door-open").begin(0), scenes.physics("locked-door-open", 0)
    hinge = physics.model.joint("doorjoint")
    turned = []
    for unlocked in (False, True):
        if unlocked:
            lane.go_on(lane.target)
        mujoco.mj_setState(physics.model, physics.data, lane.full, scenes.ALL)
        physics.data.qfrc_applied[hinge.dofadr] = -5.0  # Nm, the way it opens
        mujoco.mj_step(physics.model, physics.data, 200)
        turned.append(float(physics.data.qpos[hinge.qposadr][0]))
        physics.data.qfrc_applied[:] = 0.0
    assert abs(turned[0]) < 0.02 and turned[1] < -0.5, turned


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda s: s.step(np.full((1, 4), 1.1)), "from -1 to 1"),
        (lambda s: s.step(np.full((1, 4), np.nan)), "from -1 to 1"),
        (lambda s: s.step(np.zeros(4)), "shape"),
        (lambda s: s.reset([Goal.of("assembly")], [0]), "assembly"),
        (lambda s: s.reset([Goal.of("push")], [-1]), "seeds"),
        (lambda s: s.reset([Goal.of("push")], [0.5]), "seeds"),
        (lambda s: s.reset([Goal.of("push")], [0, 1]), "a seed each"),
        (lambda s: s.set_states(np.zeros((1, 91))), "goal and a seed"),
        (lambda s: make("metaworld").simulator(1).step(np.zeros((1, 4))), "reset"),
        (lambda s: make("metaworld").simulator(0), "at least 1"),
        (lambda s: make("metaworld").expert(1.5), "probability"),
        (lambda s: make("metaworld").render(np.zeros(10)), "picture"),
        (lambda s: make("metaworld").render(np.zeros(91), 4), "picture"),
    ],
)
def test_bad_input_is_named(world, call, says):
    simulator = world.simulator(1)
    simulator.reset([Goal.of("push")], [0])
    with pytest.raises(KalmError, match=says):
        call(simulator)


def test_pictures_show_things_where_they_are(world):
    state = np.zeros(91)
    state[GRIPPER], state[TARGET] = [0.0, 0.6, 0.2, 1.0], [0.0, 0.7, 0.1]
    bare = world.render(state, 128).astype(int)
    middles = []
    for x in (-0.3, 0.3):
        state[ENTITY["coffee"]] = [x, 0.6, 0.0, 0.0, 0.0, 0.0, 1.0]
        changed = np.abs(world.render(state, 128).astype(int) - bare).sum(axis=2) > 30
        assert changed.sum() > 10
        middles.append(np.argwhere(changed).mean(axis=0))
    assert middles[1][0] > middles[0][0] + 10  # what is nearer to the camera is further down
