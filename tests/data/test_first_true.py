"""Which comes true first, a goal or a counterfactual: by hand, and for actors who understand or do not."""

from __future__ import annotations

import numpy as np
import pytest

from kalm import envs
from kalm.data.rollouts import RolloutSet
from kalm.data.scoring import first_true
from kalm.envs.clevr.plans import OPPOSITE
from kalm.envs.clevr.spec import PUSHES
from kalm.envs.rollout import EpisodeRecorder, begin, simulated, step_until_done
from kalm.types import Goal, Instruction, Rollout

FAR = np.array([-0.45, -0.45, 0.0, 0.0, 0.45, -0.45, -0.45, 0.45, 0.45, 0.45])  # nothing near anything
LEFT = Instruction(
    "red left of blue", "seen", Goal.of("relation", ball="red", reference="blue", direction="left")
)
MOVE = Instruction("red to the left", "easy", Goal.of("move", ball="red", direction="left"))
GREEN = Instruction("around green", "hard", Goal.of("gather", center="green"))


@pytest.fixture(scope="module")
def world():
    return envs.make("clevr")


def red_at(*places):
    """The red ball here and there, blue in the middle, all others far off."""
    states = np.tile(FAR, (len(places), 1))
    states[:, :2] = places
    return states


def first(world, instruction, states, actions=None):
    actions = np.zeros(len(states) - 1, int) if actions is None else np.array(actions)
    one = Rollout(instruction, states, actions, np.zeros(len(actions)), False, "imagined")
    return first_true(RolloutSet.from_rollouts(world.spec, [one]), world).tolist()


LEFT_OF, RIGHT_OF, BEHIND, AWAY = (-0.3, 0.0), (0.3, 0.0), (0.0, 0.3), (-0.45, -0.45)


@pytest.mark.parametrize(
    ("places", "found"),
    [
        ((AWAY, LEFT_OF), "goal"),
        ((AWAY, RIGHT_OF), "counterfactual"),
        ((AWAY, RIGHT_OF, LEFT_OF), "counterfactual"),
        ((AWAY, BEHIND, LEFT_OF, RIGHT_OF), "goal"),
        ((AWAY, BEHIND), ""),
        ((AWAY, AWAY), ""),
        ((RIGHT_OF, LEFT_OF), ""),  # began with the counterfactual
        ((LEFT_OF, RIGHT_OF), ""),  # began with the goal
    ],
)
def test_relations_by_hand(world, places, found):
    assert first(world, LEFT, red_at(*places)) == [found]


def test_one_step_goals_go_by_the_action(world):
    still = red_at(AWAY, AWAY)
    found = [first(world, MOVE, still, [push])[0] for push in range(len(PUSHES))]
    judges = [world.judge([Goal.of("move", ball="red", direction=way)]) for way in ("left", "right")]
    for push, came in enumerate(found):
        left, right = (bool(judge.success(still[:1], np.array([push]), still[1:])[0]) for judge in judges)
        assert came == {(True, False): "goal", (False, True): "counterfactual"}.get((left, right), "")
    assert found.count("goal") == found.count("counterfactual") == 3
    of_another_ball = len(PUSHES) + found.index("goal")
    assert first(world, MOVE, still, [of_another_ball]) == [""]


def test_what_comes_true_together_is_nobodys(world):
    heap = np.tile([0.0, 0.0, 0.1, 0.0, 0.0, 0.1, 0.1, 0.1, 0.2, 0.0], (2, 1))
    heap[0] = FAR
    assert first(world, GREEN, heap) == [""]


def test_goals_without_counterfactuals_have_no_first():
    world = envs.make("metaworld")
    goal = world.suite("seen")[0]
    one = Rollout(goal, np.zeros((2, 91)), np.zeros((1, 4)), np.zeros(1), True, "imagined")
    assert first_true(RolloutSet.from_rollouts(world.spec, [one]), world).tolist() == [""]


def test_no_rollouts(world):
    assert first_true(RolloutSet.from_rollouts(world.spec, []), world).shape == (0,)


def test_many_at_once_are_judged_as_one_by_one(world):
    rng = np.random.default_rng(0)
    suite = [one for level in ("seen", "easy", "hard") for one in world.suite(level)]
    rollouts = []
    for length in (1, 5, 3, 8) * 20:
        states = rng.uniform(-0.3, 0.3, (length + 1, 10))
        actions = rng.integers(40, size=length)
        rollouts.append(
            Rollout(suite[rng.integers(len(suite))], states, actions, np.zeros(length), False, "real")
        )
    many = first_true(RolloutSet.from_rollouts(world.spec, rollouts), world)
    single = [first_true(RolloutSet.from_rollouts(world.spec, [one]), world)[0] for one in rollouts]
    assert many.tolist() == single
    assert {"goal", "counterfactual", ""} == set(single)


def turned(goal: Goal) -> Goal:
    return Goal.of(goal.kind, **{**dict(goal.slots), "direction": OPPOSITE[goal["direction"]]})


def share(world, instructions, asked, noise):
    """Let the expert do what is `asked` where others judge by the instructions; return goal first."""
    goals = world.judge([instruction.goal for instruction in instructions])
    wanted, expert, rng = world.judge(asked), world.expert(noise), np.random.default_rng(0)
    simulator = world.simulator(len(asked))
    record = EpisodeRecorder(world.spec, len(asked), 12)
    states = begin(simulator, world, instructions, range(len(asked)))
    step_until_done(
        lambda rows, states, _: expert.act(states, wanted.take(rows), rng),
        simulated(world, simulator),
        goals,
        states,
        record,
    )
    simulator.close()
    found = first_true(RolloutSet.from_recorder(instructions, record, "real"), world)
    return (found == "goal").sum() / (found != "").sum()


def test_who_swaps_directions_is_near_zero_and_who_acts_at_random_at_half(world):
    suite = world.suite("seen")
    some = [suite[at] for at in np.random.default_rng(1).permutation(len(suite))[:80]]
    goals = [instruction.goal for instruction in some]
    assert share(world, some, goals, 0.0) > 0.8  # on its way a ball may pass the other side
    assert share(world, some, [turned(goal) for goal in goals], 0.0) < 0.2
    moves = [one for one in world.suite("easy") if one.wording == "easy/00"]
    moves = [moves[at % len(moves)] for at in range(400)]
    asked = [instruction.goal for instruction in moves]
    assert share(world, moves, asked, 0.0) == 1.0
    assert share(world, moves, [turned(goal) for goal in asked], 0.0) == 0.0
    assert share(world, moves * 4, asked * 4, 1.0) == pytest.approx(0.5, abs=0.1)
