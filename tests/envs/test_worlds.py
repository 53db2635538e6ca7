"""One battery for every installed world: what the other rooms rely on."""

import pickle
from importlib.metadata import EntryPoint, EntryPoints
from typing import get_args

import numpy as np
import pytest

from kalm import envs
from kalm.envs import registry
from kalm.envs.sentences import of_split
from kalm.errors import KalmError
from kalm.evaluation.episodes import sample_episodes
from kalm.types import LEVELS, Conditions


@pytest.fixture(scope="module", params=envs.names())
def world(request):
    return envs.make(request.param)


def actions_of(world, n, seed=0):
    rng, spec = np.random.default_rng(seed), world.spec
    if spec.action_kind == "discrete":
        return rng.integers(spec.action_size, size=n)
    return rng.uniform(-1, 1, (n, spec.action_size)).astype(np.float32)


def goals_of(world, n, level="seen", kinds=3):
    """Goals for n rows, of a few kinds: building a scene for every kind would take a minute."""
    suite = world.suite(level)
    some = [suite[i * len(suite) // kinds].goal for i in range(kinds)]
    return [some[row % kinds] for row in range(n)]


def path(world, n, steps=3):
    """States of the first n seeds over a few steps: (steps + 1, n, S)."""
    simulator = world.simulator(n)
    states = [simulator.reset(goals_of(world, n), np.arange(n))]
    states += [simulator.step(actions_of(world, n, seed=1000 + step)) for step in range(steps)]
    simulator.close()
    return np.stack(states)


def test_name_and_spec(world):
    spec = world.spec
    assert spec.name in envs.names() and spec.action_kind in ("discrete", "continuous")
    assert len(set(spec.state_names)) == spec.state_size > 0 and spec.horizon > 0


def test_unknown_name_is_named():
    with pytest.raises(KalmError, match="clevr"):
        envs.make("nowhere")


def test_a_bare_source_tree_is_told_apart(monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda **fields: EntryPoints())
    with pytest.raises(KalmError, match="entry points of installed packages, .* install the package"):
        envs.make("clevr")


def test_gymnasium_ids_need_no_world_to_be_loaded(monkeypatch):
    mine = "kalm_taxi.world:TaxiWorld"
    found = EntryPoints(
        [
            EntryPoint("taxi", mine, registry.GROUP),
            EntryPoint("grid", "nowhere:Grid", registry.GROUP),
            EntryPoint("TaxiGrid", mine, registry.IDS),
        ]
    )
    monkeypatch.setattr(registry, "entry_points", lambda **fields: found.select(**fields))
    assert registry.gymnasium_ids() == {"taxi": "kalm/TaxiGrid-v0", "grid": "kalm/grid-v0"}


def test_built_in_environments_keep_their_ids():
    ids = envs.gymnasium_ids()
    assert (ids["clevr"], ids["metaworld"]) == ("kalm/ClevrRobot-v0", "kalm/MetaWorld-v0")


def test_published_numbers_come_from_the_environment():
    assert envs.published("clevr").match == {"rephrase": 0.775}
    assert envs.published("metaworld") is None


def test_shapes(world):
    states = path(world, 4)
    assert states.shape == (4, 4, world.spec.state_size) and states.dtype == np.float64
    assert np.isfinite(states).all()
    np.testing.assert_array_equal(world.initial_states(goals_of(world, 4), np.arange(4)), states[0])


def test_same_seeds_and_actions_give_the_same_states(world):
    np.testing.assert_array_equal(path(world, 4), path(world, 4))


def test_survives_pickling(world):
    copy, goals = pickle.loads(pickle.dumps(world)), goals_of(world, 2)
    np.testing.assert_array_equal(copy.initial_states(goals, [3, 4]), world.initial_states(goals, [3, 4]))


@pytest.mark.parametrize("conditions", get_args(Conditions))
def test_rows_do_not_depend_on_batch_threads_or_order(world, conditions):
    n = 6
    goals, actions = goals_of(world, n), [actions_of(world, n, seed) for seed in range(3)]
    together = world.simulator(n, 2, conditions)
    start = together.reset(goals, np.arange(n))
    expected = np.stack([together.step(action) for action in actions])  # (3, n, S)
    for row in (0, n - 1):
        alone = world.simulator(1, conditions=conditions)
        np.testing.assert_array_equal(alone.reset([goals[row]], [row])[0], start[row])
        for step, action in enumerate(actions):
            np.testing.assert_array_equal(alone.step(action[[row]])[0], expected[step, row])
        alone.close()
    # In two halves, out of order.
    halves = world.simulator(n, conditions=conditions)
    for rows in (np.array([5, 1, 3]), np.array([0, 4, 2])):
        halves.reset([goals[row] for row in rows], rows, rows)
    for step, action in enumerate(actions):
        for rows in (np.array([5, 1, 3]), np.array([0, 4, 2])):
            np.testing.assert_array_equal(halves.step(action[rows], rows), expected[step, rows])
    together.close()
    halves.close()


def test_a_row_that_does_not_step_stays(world):
    still, moving = world.simulator(2), world.simulator(2)
    for simulator in (still, moving):
        simulator.reset(goals_of(world, 2), [0, 1])
    actions = actions_of(world, 2)
    for _ in range(3):
        moving.step(actions[[0]], np.array([0]))
    np.testing.assert_array_equal(
        moving.step(actions[[1]], np.array([1])), still.step(actions[[1]], np.array([1]))
    )


def test_set_states_leaves_nothing_of_before(world):
    goals, fresh, used = goals_of(world, 2), world.simulator(2), world.simulator(2)
    states, actions = world.initial_states(goals, [7, 8]), actions_of(world, 2, 5)
    if not world.restorable:
        with pytest.raises(KalmError, match="state"):
            fresh.set_states(states)
        return
    used.reset(goals, [0, 1])
    for seed in range(4):
        used.step(actions_of(world, 2, seed))
    for simulator in (fresh, used):
        simulator.set_states(states)
    np.testing.assert_array_equal(used.step(actions), fresh.step(actions))


def test_reset_leaves_nothing_of_before(world):
    goals, actions = goals_of(world, 2), actions_of(world, 1, 5)
    fresh, used = world.simulator(1), world.simulator(1)
    used.reset(goals[:1], [3])
    for seed in range(4):
        used.step(actions_of(world, 1, seed))
    np.testing.assert_array_equal(used.reset(goals[1:], [9]), fresh.reset(goals[1:], [9]))
    np.testing.assert_array_equal(used.step(actions), fresh.step(actions))


@pytest.mark.parametrize("level", LEVELS)
def test_suites_parse_and_are_judged(world, level):
    suite = world.suite(level)
    assert suite == world.suite(level) and all(one.level == level for one in suite)
    some = suite[:: max(len(suite) // 20, 1)]
    if not some:
        pytest.skip(f"{world.spec.name} has no {level} instructions")
    assert all(world.parse_goal(one.goal.to_json()) == one.goal for one in some)
    some = some[:: max(len(some) // 4, 1)]
    goals = [one.goal for one in some]
    simulator, judge = world.simulator(len(some)), world.judge(goals)
    before, actions = simulator.reset(goals, np.arange(len(some))), actions_of(world, len(some))
    after = simulator.step(actions)
    verdicts = judge.success(before, actions, after)
    rewards = judge.reward(before, actions, after)
    assert verdicts.shape == rewards.shape == judge.reached(before, after).shape == (len(some),)
    assert verdicts.dtype == bool and rewards.dtype == np.float32 and np.isfinite(rewards).all()
    rows = np.array([len(some) - 1, 0])
    np.testing.assert_array_equal(
        judge.take(rows).success(before[rows], actions[rows], after[rows]), verdicts[rows]
    )


def kinds_of(instructions):
    return {one.goal.label for one in instructions}


@pytest.mark.parametrize("level", LEVELS)
def test_wordings_and_initial_states_are_of_tune_or_of_test(world, level):
    suite = world.suite(level)
    if not suite:
        pytest.skip(f"{world.spec.name} has no {level} instructions")
    tune, test = of_split(suite, "tune"), of_split(suite, "test")
    assert len(tune) + len(test) == len(suite) and 0.2 < len(tune) / len(suite) < 0.5
    assert not {one.wording for one in tune} & {one.wording for one in test}
    assert not {one.text for one in tune} & {one.text for one in test}
    assert kinds_of(tune) == kinds_of(test) == kinds_of(suite)
    for held_back in (False, True) if level != "seen" else ():
        parts = [[one for one in side if one.held_back == held_back] for side in (suite, tune, test)]
        assert kinds_of(parts[0]) == kinds_of(parts[1]) == kinds_of(parts[2]) == kinds_of(suite)
    episodes = [sample_episodes(side, 50, seed=3) for side in (tune, test, suite)]
    assert not set(episodes[0][1]) & set(episodes[1][1]), "no initial state is of both"
    for one, seed in zip(*episodes[2], strict=True):
        place = list(episodes[2][1]).index(seed)
        assert seed == episodes[one.split == "test"][1][place], "in an evaluation of all, a side has its own"


def test_unknown_level_is_named(world):
    with pytest.raises(KalmError, match="nowhere"):
        world.suite("nowhere")


def test_expert_acts_in_the_action_space(world):
    goals = goals_of(world, 8)
    states, judge = world.initial_states(goals, np.arange(len(goals))), world.judge(goals)
    for noise in (0.0, 1.0):
        actions = world.expert(noise).act(states, judge, np.random.default_rng(0))
        again = world.expert(noise).act(states, judge, np.random.default_rng(0))
        np.testing.assert_array_equal(actions, again)
        if world.spec.action_kind == "discrete":
            assert actions.shape == (len(goals),) and actions.dtype == np.int64
            assert actions.min() >= 0 and actions.max() < world.spec.action_size
        else:
            assert actions.shape == (len(goals), world.spec.action_size)
            assert actions.dtype == np.float32 and np.abs(actions).max() <= 1


def test_expert_succeeds_far_more_often_than_chance(world):
    goals = goals_of(world, 12, kinds=12) if world.restorable else goals_of(world, 6)
    rates = []
    for noise in (0.0, 1.0):
        simulator, judge, rng = world.simulator(len(goals)), world.judge(goals), np.random.default_rng(0)
        states, done = simulator.reset(goals, np.arange(len(goals))), np.zeros(len(goals), dtype=bool)
        for _ in range(12 if world.spec.action_kind == "discrete" else world.spec.horizon):
            actions = world.expert(noise).act(states, judge, rng)
            after = simulator.step(actions)
            done |= judge.success(states, actions, after)
            states = after
        rates.append(done.mean())
    assert rates[0] > rates[1], rates


def test_measures(world):
    states, actions = path(world, 5), actions_of(world, 5)
    violations, motion = world.violations(states[1]), world.motion(states[0], actions, states[1])
    assert all(flags.shape == (5,) and flags.dtype == bool for flags in violations.values())
    assert all(values.shape == (5,) and values.dtype == np.float32 for values in motion.values())


def test_render(world):
    picture = world.render(world.initial_states(goals_of(world, 1), [0])[0], 48)
    assert picture.shape == (48, 48, 3) and picture.dtype == np.uint8
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10  # not blank
