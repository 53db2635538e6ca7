from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from kalm import envs
from kalm.data.scoring import first_true
from kalm.errors import KalmError
from kalm.evaluation.episodes import evaluate_policy, play, sample_episodes
from kalm.evaluation.imagined import direction_of
from kalm.evaluation.results import Label
from kalm.types import LEVELS, Goal, Instruction


@pytest.fixture(scope="module")
def world():
    return envs.make("clevr")


class ByText:
    """The world's expert, told goals by their sentences; remembers for how many episodes it was asked."""

    def __init__(self, world, instructions):
        self.world, self.goals = world, {one.text: one.goal for one in instructions}
        self.asked = []

    def act(self, states, texts):
        self.asked.append(len(texts))
        return np.concatenate([self.one(*row) for row in zip(states, texts, strict=True)])

    def one(self, state, text):
        """What the expert draws must not depend on the other episodes."""
        judge = self.world.judge([self.goals[text]])
        return self.world.expert(0.0).act(state[None], judge, np.random.default_rng(0))


class Always:
    def __init__(self, *actions):
        self.actions = actions

    def act(self, states, texts):
        return np.resize(self.actions, len(texts))


def slowly(policy, world, instruction, seed):
    """One episode at a time, one transition at a time."""
    simulator = world.simulator(1)
    state = simulator.reset([instruction.goal], [seed])
    judge = world.judge([instruction.goal])
    states, earned = [state[0]], 0.0
    for _ in range(world.spec.horizon):
        action = policy.act(state, [instruction.text])
        after = simulator.step(action)
        earned += float(judge.reward(state, action, after)[0])
        success = bool(judge.success(state, action, after)[0])
        states.append(after[0])
        if success or judge.one_step[0]:
            break
        state = after
    simulator.close()
    return success, len(states) - 1, earned, states


def test_agrees_with_a_plain_loop(world):
    suites = [instruction for level in LEVELS for instruction in world.suite(level)]
    instructions, seeds = sample_episodes(suites, 6, seed=3)
    policy = ByText(world, instructions)
    rows = evaluate_policy(
        policy, world, instructions, seeds, threads=2, label=Label("expert", "none", "plain", 4)
    )
    assert policy.asked[0] == 24 and policy.asked[-1] < 24  # finished episodes are not asked again
    played = play(policy, world, instructions, seeds)
    for row, rollout, instruction, seed in zip(rows, played, instructions, seeds, strict=True):
        success, steps, earned, states = slowly(policy, world, instruction, seed)
        assert (row.success, row.length) == (success, steps) == (rollout.success, len(rollout.actions))
        assert row.reward == pytest.approx(earned, rel=1e-5, abs=1e-4)
        np.testing.assert_allclose(rollout.states, states, atol=1e-6)
        assert (row.policy, row.seed, row.text, row.level) == (
            "expert",
            4,
            instruction.text,
            instruction.level,
        )
        assert (row.wording, row.held_back) == (instruction.wording, instruction.held_back)
        assert (row.family, row.direction) == (instruction.family, direction_of(instruction))
        assert row.episode_seed == seed and rollout.source == "real"
    assert [row.first for row in rows] == first_true(played, world).tolist()
    assert {row.first for row in rows if row.level == "easy"} == {"goal"}
    won = {level: [row.success for row in rows if row.level == level] for level in ("seen", "easy")}
    assert sum(won["seen"]) >= 4 and all(won["easy"])


def test_initial_state_is_never_judged(world):
    # Red starts right of blue, as asked; that counts only after an action, here a push of the purple ball.
    state = (0.2, 0.0, -0.1, 0.0, -0.4, 0.4, 0.3, 0.45, 0.0, 0.4)
    goal = Goal.of("relation", ball="red", reference="blue", direction="right")
    instruction = Instruction("red right of blue", "seen", goal, state=state)
    judge = world.judge([goal])
    assert judge.reached(np.array([state]), np.array([state]))[0]
    row = evaluate_policy(Always(8 * 3), world, [instruction], [0])[0]
    assert row.success and row.length == 1
    assert row.first == ""  # nobody brought it about


def test_one_step_goals_end_after_one_action(world):
    goal = Goal.of("move", ball="green", direction="left")
    instruction = Instruction("green left", "easy", goal)
    rows = evaluate_policy(Always(8 * 2 + 2, 8 * 2 + 0), world, [instruction] * 2, [0, 1])
    assert [row.success for row in rows] == [True, False]
    assert [row.length for row in rows] == [1, 1] and [row.reward for row in rows] == [1.0, 0.0]


def test_horizon(world):
    goal = Goal.of("line", order=["red", "blue", "green", "purple", "cyan"])
    instruction = Instruction("a line", "hard", goal)
    assert evaluate_policy(Always(0), world, [instruction], [5])[0].length == world.spec.horizon
    assert evaluate_policy(Always(0), world, [instruction], [5], horizon=3)[0].length == 3
    with pytest.raises(KalmError, match="horizon must be at least 1"):
        evaluate_policy(Always(0), world, [instruction], [5], horizon=0)


def test_an_instruction_may_bring_its_state(world):
    plain = world.suite("seen")[:2]
    drawn = play(Always(9), world, plain, [1, 2], horizon=2)
    given = replace(plain[1], state=tuple(drawn.first_states[1].tolist()))
    again = play(Always(9), world, [plain[0], given], [1, 7], horizon=2)
    np.testing.assert_array_equal(again[0].states, drawn[0].states)
    np.testing.assert_allclose(again[1].states, drawn[1].states, atol=1e-4)
    with pytest.raises(KalmError, match="its state has 2 numbers"):
        play(Always(9), world, [replace(plain[0], state=(0.0, 1.0))], [0])


def test_no_episodes(world):
    assert evaluate_policy(Always(0), world, [], []) == []


@pytest.mark.parametrize(
    ("action", "message"),
    [(40, "outside 0..39"), (-1, "outside 0..39"), ((0, 1), r"shape \(2,\)"), (np.nan, "outside 0..39")],
)
def test_wrong_actions_of_a_policy(world, action, message):
    class Wrong:
        def act(self, states, texts):
            return np.atleast_1d(action)

    with pytest.raises(KalmError, match=message):
        evaluate_policy(Wrong(), world, world.suite("seen")[:1], [0])


def test_one_seed_per_instruction(world):
    with pytest.raises(KalmError, match="2 instructions"):
        evaluate_policy(Always(0), world, world.suite("seen")[:2], [0])


def instructions_of(level, count):
    return [Instruction(f"{level} {i}", level, Goal.of("gather", center="green")) for i in range(count)]


def test_sample_is_balanced_and_without_replacement():
    chosen, seeds = sample_episodes(instructions_of("seen", 50) + instructions_of("hard", 3), 7, seed=0)
    assert [one.level for one in chosen] == ["seen"] * 7 + ["hard"] * 7
    assert max(Counter(one.text for one in chosen[:7]).values()) == 1
    assert sorted(Counter(one.text for one in chosen[7:]).values()) == [2, 2, 3]
    assert seeds.shape == (14,) and len(set(seeds.tolist())) == 14


def test_sample_depends_on_seed_and_level_only():
    seen, hard = instructions_of("seen", 50), instructions_of("hard", 30)
    both, seeds = sample_episodes(seen + hard, 8, seed=1)
    alone, seeds_alone = sample_episodes(hard, 5, seed=1)
    assert both[8:13] == alone and seeds[8:13].tolist() == seeds_alone.tolist()
    other, other_seeds = sample_episodes(seen + hard, 8, seed=2)
    assert other != both and not set(other_seeds) & set(seeds)
    with pytest.raises(KalmError, match="at least 1"):
        sample_episodes(seen, 0, seed=1)


class Counting:
    """Acts by what it remembers, and writes down what it is told."""

    def __init__(self, side_by_side):
        self.side_by_side, self.told = side_by_side, []

    def begin(self, texts, states):
        self.told.append((list(texts), states, []))
        return CountingEpisodes(len(texts), self.told[-1][-1])


class CountingEpisodes:
    def __init__(self, count, told):
        self.steps, self.told = np.zeros(count, int), told

    def act(self, rows, states, rewards):
        self.told.append((rows.copy(), states.copy(), rewards.copy()))
        actions = self.steps[rows] % 40
        self.steps[rows] += 1
        return actions


def test_an_actor_with_memory_is_told_rows_states_and_rewards(world):
    instructions = [world.suite(level)[i] for level in LEVELS for i in range(2)]
    actor = Counting(side_by_side=8)
    played = play(actor, world, instructions, range(8), horizon=5)
    texts, first, steps = actor.told[0]
    assert texts == [one.text for one in instructions] and len(steps) == played.lengths.max() == 5
    np.testing.assert_allclose(first, played.first_states, atol=1e-6)
    for step, (rows, states, rewards) in enumerate(steps):
        assert rows.tolist() == np.flatnonzero(played.lengths > step).tolist()
        np.testing.assert_allclose(states, played.states[played.state_starts[rows] + step], atol=1e-6)
        earned = played.rewards[played.action_starts[rows] + step - 1] if step else np.zeros(len(rows))
        np.testing.assert_array_equal(rewards, earned)
        assert (played.actions[played.action_starts[rows] + step] == step).all()


def test_an_actor_with_memory_plays_no_more_than_it_can_hold(world):
    instructions = [world.suite(level)[i] for level in LEVELS for i in range(2)]
    whole = play(Counting(100), world, instructions, range(8), horizon=4)
    few = Counting(3)
    parts = play(few, world, instructions, range(8), horizon=4)
    assert [len(texts) for texts, *_ in few.told] == [3, 3, 2]
    np.testing.assert_array_equal(parts.states, whole.states)
    assert [one.instruction for one in parts] == instructions


def test_a_policy_of_another_world_is_refused(world):
    actor = Always(0)
    actor.spec = replace(world.spec, name="elsewhere")
    with pytest.raises(KalmError, match="'elsewhere', which is not this one, 'clevr'"):
        play(actor, world, world.suite("seen")[:1], [0])
