"""The one episode loop on a walk along a line, where every number can be seen."""

from types import SimpleNamespace

import numpy as np
import pytest

from kalm.data.rollouts import RolloutSet
from kalm.envs.rollout import EpisodeRecorder, judged, simulated, step_until_done
from kalm.envs.simple import RowJudge
from kalm.errors import KalmError
from kalm.types import Goal, Instruction, WorldSpec

SPEC = WorldSpec("line", ("x",), "discrete", 2, 4)


class Reach(RowJudge):
    """Row i wants x to be at least its mark; the reward is the mark minus x."""

    rows = ("one_step", "marks")

    def __init__(self, marks):
        super().__init__([Goal.of("reach", mark=str(mark)) for mark in marks])
        self.marks = np.array(marks, np.float32)

    def reached(self, states, next_states):
        return next_states[:, 0] >= self.marks

    def reward(self, states, actions, next_states):
        return (self.marks - next_states[:, 0]).astype(np.float32)


def walk(rows, states, actions):
    return states + actions[:, None].astype(np.float32)


def forward(rows, states, rewards):
    return np.ones(len(rows), np.int64)


def rest(rows, states, rewards):
    return np.zeros(len(rows), np.int64)


def play(marks, act=forward, transition=walk, horizon=4, one_step=(), retry=None):
    judge, record = Reach(marks), EpisodeRecorder(SPEC, len(marks), horizon)
    judge.one_step[list(one_step)] = True
    return step_until_done(act, transition, judge, np.zeros((len(marks), 1), np.float32), record, retry)


def test_rows_end_at_their_goal_after_one_step_or_at_the_horizon():
    asked = []

    def act(rows, states, rewards):
        asked.append((rows.tolist(), states[:, 0].tolist(), rewards.tolist()))
        return forward(rows, states, rewards)

    record = play([2, 9, 1, 9], act, one_step=[3])
    assert record.lengths.tolist() == [2, 4, 1, 1] and record.success.tolist() == [True, False, True, False]
    assert asked == [
        ([0, 1, 2, 3], [0, 0, 0, 0], [0, 0, 0, 0]),
        ([0, 1], [1, 1], [1, 8]),
        ([1], [2], [7]),
        ([1], [3], [6]),
    ]
    np.testing.assert_array_equal(record.states[1, :, 0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(record.rewards[:2], [[1, 0, 0, 0], [8, 7, 6, 5]])


def test_the_initial_state_is_never_judged():
    there = play([0], rest, horizon=2)
    assert there.lengths.tolist() == [1] and there.success.tolist() == [True]
    short = play([0.5], rest, horizon=2)
    assert short.lengths.tolist() == [2] and not short.success.any()


def test_a_set_holds_what_was_played_and_nothing_else():
    record = play([2, 9, 1])
    texts = [Instruction(str(row), "seen", Goal.of("reach", mark=str(row))) for row in range(3)]
    rollouts = RolloutSet.from_recorder(texts, record, "imagined")
    np.testing.assert_array_equal(rollouts.states[:, 0], [0, 1, 2, 0, 1, 2, 3, 4, 0, 1])
    np.testing.assert_array_equal(rollouts.rewards, [1, 0, 8, 7, 6, 5, 0])
    assert rollouts.lengths.tolist() == [2, 4, 1] and rollouts.success.tolist() == [True, False, True]
    assert [one.source for one in rollouts] == ["imagined"] * 3


def test_actions_step_by_step():
    row, step = play([2, 9, 1]).by_step()
    assert row.tolist() == [0, 1, 2, 0, 1, 1, 1]
    assert step.tolist() == [0, 0, 0, 1, 1, 2, 3]


def test_a_row_that_failed_begins_again_where_it_stood():
    begun = []

    def retry(rows):
        begun.append(rows.tolist())
        return np.full((len(rows), 1), 3, np.float32)

    record = play([5, 2], retry=retry)
    assert begun == [[0]]  # the other reached its goal
    assert record.lengths.tolist() == [2, 2] and record.success.all()
    np.testing.assert_array_equal(record.states[0, :3, 0], [3, 4, 5])
    np.testing.assert_array_equal(record.rewards[0, :2], [1, 0])


def test_a_state_that_is_not_finite_ends_its_row_alone():
    def breaks(rows, states, actions):
        after = walk(rows, states, actions)
        after[(rows == 0) & (states[:, 0] == 1)] = np.nan
        return after

    record = play([2, 3], transition=breaks)
    assert record.finite.tolist() == [False, True] and record.success.tolist() == [False, True]
    assert record.lengths.tolist() == [2, 3]
    np.testing.assert_array_equal(record.states[0, :3, 0], [0, 1, 1])  # the state before stands in its place


def test_one_step_by_hand():
    after = np.array([[1.0], [np.inf]])
    found = judged(Reach([1, 5]), np.zeros((2, 1)), np.ones(2, np.int64), after)
    assert found.success.tolist() == [True, False] and found.terminated.tolist() == [True, True]
    assert found.states.tolist() == [[1], [0]] and found.rewards.tolist() == [0, 5]


def test_a_simulator_that_runs_away_is_named():
    away = SimpleNamespace(step=lambda actions, rows: np.full((len(rows), 1), np.inf))
    with pytest.raises(KalmError, match="simulator of 'line' gives states that are not finite"):
        play([1], transition=simulated(SimpleNamespace(spec=SPEC), away))
