"""Policies that follow plans: asked for one step after another, and what they remember begins anew."""

from __future__ import annotations

import numpy as np
import pytest

from kalm import envs
from kalm.envs.follow import PlanFollower
from kalm.envs.rollout import initial_states
from kalm.envs.sentences import plain_steps
from kalm.evaluation.episodes import play
from kalm.evaluation.guided import GuidedPolicy


@pytest.fixture(scope="module")
def world():
    return envs.make("clevr")


class KnowsPlainWords:
    """Does what a plain sentence asks, as the expert would; anything else is beyond it."""

    def __init__(self, world):
        self.world, self.expert = world, world.expert(0.0)
        self.goals = {step.text: goal for goal, step in plain_steps(world).items()}
        self.asked = []

    def act(self, states, texts):
        self.asked.append(list(texts))
        known = np.array([text in self.goals for text in texts])
        actions = np.zeros(len(texts), dtype=np.int64)
        if known.any():
            judge = self.world.judge([self.goals[text] for text in texts if text in self.goals])
            actions[known] = self.expert.act(states[known], judge, np.random.default_rng(0))
        return actions


class Remembers(KnowsPlainWords):
    """The same, and it counts what it has seen of each episode."""

    side_by_side = 64

    def begin(self, texts, states):
        return _Memory(self, texts)


class _Memory:
    def __init__(self, owner, texts):
        self.owner, self.texts, self.seen = owner, texts, np.zeros(len(texts), int)

    def act(self, rows, states, rewards):
        assert (rewards[self.seen[rows] == 0] == 0).all()
        self.seen[rows] += 1
        return self.owner.act(states, [self.texts[row] for row in rows])


def compositions(world):
    return [row for row in world.suite("hard") if row.goal.label == "all of 2"][:12]


def plans(world, rows):
    steps = plain_steps(world)
    return {row.text: tuple(steps[goal] for goal in world.plan_of(row.goal)) for row in rows}


def guided(policy, world, plans):
    return GuidedPolicy(policy, world, lambda texts, states: [plans.get(text, ()) for text in texts])


@pytest.mark.parametrize("kind", [KnowsPlainWords, Remembers])
def test_a_policy_of_plain_words_does_compositions_behind_plans(world, kind):
    rows, seeds = compositions(world), range(12)
    policy = kind(world)
    alone = play(policy, world, rows, seeds)
    behind = play(guided(policy, world, plans(world, rows)), world, rows, seeds)
    assert behind.success.mean() > alone.success.mean() + 0.5


def test_both_kinds_of_policies_act_alike(world):
    rows, seeds = compositions(world), range(12)
    one, two = (
        play(guided(kind(world), world, plans(world, rows)), world, rows, seeds)
        for kind in (KnowsPlainWords, Remembers)
    )
    assert np.array_equal(one.actions, two.actions)


def test_it_is_asked_for_the_step_that_the_follower_says(world):
    row = compositions(world)[3]
    policy = KnowsPlainWords(world)
    plan = plans(world, [row])
    played = play(guided(policy, world, plan), world, [row], [5])
    follower = PlanFollower(world, [[step.goal for step in plan[row.text]]])
    for asked, state in zip(policy.asked, played.states[:-1], strict=True):
        step = int(follower.now(np.array([0]), state[None].astype(np.float64))[0])
        assert asked == [plan[row.text][step].text]


def test_what_has_no_plan_is_asked_as_it_is(world):
    row = world.suite("easy")[0]
    assert row.goal.kind == "move"
    policy = KnowsPlainWords(world)
    play(guided(policy, world, {}), world, [row], [0])
    assert policy.asked == [[row.text]]


def test_a_plan_is_chosen_for_the_scene_that_the_episode_begins_in(world):
    first, second = list(plain_steps(world).values())[:2]
    policy, seeds = KnowsPlainWords(world), range(4)

    def by_place(texts, states):
        assert states.shape == (4, world.spec.state_size)
        return [(first,) if state[0] > states[:, 0].mean() else (second,) for state in states]

    row = world.suite("easy")[0]
    play(GuidedPolicy(policy, world, by_place), world, [row] * 4, seeds)
    states = initial_states(world, [row] * 4, seeds)
    assert policy.asked[0] == [plan[0].text for plan in by_place([], states)]
    assert set(policy.asked[0]) == {first.text, second.text}


def test_a_policy_of_another_environment_is_refused(world):
    from kalm.errors import KalmError

    policy = KnowsPlainWords(world)
    policy.spec = envs.make("metaworld").spec
    with pytest.raises(KalmError, match="metaworld"):
        play(guided(policy, world, {}), world, [world.suite("seen")[0]], [0])
