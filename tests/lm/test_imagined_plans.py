"""Imagining from plans: plain sentences of the data one after another, until the whole goal is reached."""

from __future__ import annotations

import numpy as np
import pytest

from kalm.data.scoring import score
from kalm.envs.clevr.world import ClevrWorld
from kalm.envs.follow import PlanFollower
from kalm.envs.sentences import plain_steps
from kalm.lm.generate import imagine_rollouts
from kalm.lm.imagine import Ask, asked_rows, imagine_dataset, origins, ways
from kalm.lm.settings import ImagineConfig


def plans_of(world, rows):
    steps = plain_steps(world)
    return [tuple(steps[goal] for goal in world.plan_of(row.goal)) for row in rows]


@pytest.fixture
def compositions(world):
    hard = [row for row in world.suite("hard") if row.goal.kind in ("all", "gather")]
    return [hard[0], hard[7], hard[40], hard[90], hard[-1]]


def test_each_step_is_decoded_as_if_its_sentence_had_been_alone(model, world, compositions):
    plans = plans_of(world, compositions)
    seeds = range(len(plans))
    done = imagine_rollouts(model, world, compositions, seeds, plans=plans, horizon=3 * world.patience)
    assert [done.rollouts.instructions[i] for i in done.rollouts.which] == compositions
    for rollout, plan in zip(done.rollouts, plans, strict=True):
        follower = PlanFollower(world, [[step.goal for step in plan]])
        states = rollout.states.astype(np.float64)
        now = [int(follower.now(np.array([0]), state[None])[0]) for state in states[:-1]]
        assert len(set(now)) > 1
        changes = [0, *(np.flatnonzero(np.diff(now)) + 1), len(now)]
        for first, last in zip(changes, changes[1:], strict=False):
            alone = imagine_rollouts(
                model, world, [rollout.instruction], [0], words=[plan[now[first]].text],
                starts=states[first][None], horizon=last - first,
            ).rollouts  # fmt: skip
            length = len(alone.actions)
            assert np.array_equal(alone.actions, rollout.actions[first : first + length])
            assert np.allclose(alone.states, rollout.states[first : first + length + 1], atol=1e-5)


def test_a_plan_of_the_own_words_changes_nothing(model, world, rows):
    steps = plain_steps(world)
    plain = [steps[row.goal] for row in rows if row.goal in steps]
    assert plain
    seeds = range(len(plain))
    own = imagine_rollouts(model, world, plain, seeds, horizon=6).rollouts
    read = imagine_rollouts(model, world, plain, seeds, plans=[(row,) for row in plain], horizon=6).rollouts
    assert np.array_equal(own.actions, read.actions)


def test_what_the_environment_shows_next_is_imagined_too(model, rows):
    class HidesTheLastBall(ClevrWorld):
        def next_stage(self, judge, states):
            assert [goal.kind for goal in judge.goals] == ["relation"] * len(states)
            return np.concatenate([states[:, :8], np.full((len(states), 2), 0.125, states.dtype)], axis=1)

    relations = [row for row in rows if row.goal.kind == "relation"]
    done = imagine_rollouts(model, HidesTheLastBall(), relations, range(len(relations)), horizon=4)
    assert len(done.rollouts) == len(relations)
    for rollout in done.rollouts:
        assert (rollout.states[1:, 8:] == 0.125).all() and (rollout.states[0, 8:] != 0.125).all()


def test_batches_change_nothing(model, world, compositions):
    plans, seeds = plans_of(world, compositions), range(len(compositions))
    whole = imagine_rollouts(model, world, compositions, seeds, plans=plans, horizon=12)
    single = imagine_rollouts(model, world, compositions, seeds, plans=plans, horizon=12, batch=1)
    assert np.array_equal(whole.rollouts.actions, single.rollouts.actions)
    assert np.allclose(whole.rollouts.states, single.rollouts.states, atol=1e-6)


def test_tries_take_plans_and_own_words_in_turn(model, world, compositions, tmp_path):
    model = model.float()
    rows = [*compositions, world.suite("easy")[0]]
    plans = {row: [plan] for row, plan in zip(rows, plans_of(world, rows), strict=True) if plan}
    config = ImagineConfig(samples=3, temperature=1.0, horizon=4)
    found = imagine_dataset(model, world, rows, config, 0, tmp_path / "a", {}, plans=plans)
    row, sample = origins(tmp_path / "a")
    way = ways(tmp_path / "a")
    for index in range(len(found)):
        expected = ("plan", "own words", "plan")[sample[index]] if row[index] < 5 else "own words"
        assert way[index] == expected
        assert found[index].instruction == rows[row[index]]
    assert found.lengths[way == "plan"].max() > 4
    assert found.lengths[way == "own words"].max() <= 4
    scored = score(found, world)
    assert np.array_equal(scored.success, found.success)
    assert np.allclose(scored.rewards, found.rewards, atol=1e-4)


def test_own_words_are_one_of_the_tries(world):
    config = ImagineConfig()
    first, second = [(step,) for step in list(plain_steps(world).values())[:2]]

    def asked(*plans):
        return [Ask.of(sample, config, plans).plan for sample in range(6)]

    assert asked(first, second) == asked(first, (), second) == [first, (), second, first, second, first]
    assert asked((), first, second) == [(), first, (), second, (), first]
    assert asked(first) == [first, (), first, first, first, first]
    assert asked(()) == [()] * 6
    config = ImagineConfig(analogies=2, samples=5, temperature=1)
    tries = [Ask.of(sample, config, [first, second], ("A", "B")) for sample in range(5)]
    assert [ask.plan for ask in tries] == [first, (), (), (), second]
    assert [ask.words for ask in tries] == ["", "A", "B", "", ""]


def test_a_plan_about_what_is_not_there_is_not_tried(model, compositions, tmp_path):
    class HasNoBlueBall(ClevrWorld):
        def in_scene(self, goals, states):
            assert len(goals) == len(states)
            return np.array(["blue" not in dict(goal.slots).values() for goal in goals], bool)

    world, model = HasNoBlueBall(), model.float()
    steps = list(plain_steps(world).values())
    fits = world.in_scene([step.goal for step in steps], np.zeros((len(steps), 10)))
    there, missing = [[step for step, fit in zip(steps, fits, strict=True) if fit == kind] for kind in (1, 0)]
    plans = {compositions[0]: [(missing[0], there[0]), (there[1],)], compositions[1]: [(missing[1],)]}
    config = ImagineConfig(samples=1, horizon=2)
    imagine_dataset(model, world, compositions[:2], config, 0, tmp_path, {}, plans=plans)
    row, way = origins(tmp_path)[0], ways(tmp_path)
    assert dict(zip(row.tolist(), way.tolist(), strict=True)) == {0: "plan", 1: "own words"}


def test_a_control_follows_the_plans_of_the_sentences_that_it_reads(model, world, compositions, tmp_path):
    model = model.float()
    plans = dict(zip(compositions, ([plan] for plan in plans_of(world, compositions)), strict=True))
    config = ImagineConfig(horizon=2)
    control = config.changed(control="shuffled")
    shuffled = imagine_dataset(model, world, compositions, control, 0, tmp_path / "a", {}, plans=plans)
    others = asked_rows(compositions, control, 0, 0)
    assert others != compositions
    swapped = {row: plans[other] for row, other in zip(compositions, others, strict=True)}
    plain = imagine_dataset(model, world, compositions, config, 0, tmp_path / "b", {}, plans=swapped)
    both = [
        {rollout.instruction: rollout.actions.tolist() for rollout in rollouts}
        for rollouts in (shuffled, plain)
    ]
    assert both[0] == both[1]
