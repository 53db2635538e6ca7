"""The world to inherit from: sentences, goals, and what it does where nothing is said."""

import numpy as np
import pytest

from kalm.envs.simple import RowJudge, SimpleWorld
from kalm.errors import KalmError
from kalm.types import LEVELS, Goal, WorldSpec

SENTENCES = """
seen:
  go: ['Go {way}.', 'Please go {way}.']
  rest: [Rest.]
rephrase:
  go: [A, B, C, D, 'Off to the {way} with you!', F]
"""


class Line(SimpleWorld):
    spec = WorldSpec("line", ("x",), "discrete", 2, 5)
    scene = "a line"
    kinds = {"go": {"way": ("left", "right")}, "rest": {}}

    def __init__(self, folder):
        self.sentences = folder / "sentences.yaml"

    def simulator(self, n, threads=1, conditions="plain"):
        return Points(n)


class Points:
    def __init__(self, n):
        self.x = np.zeros((n, 1))

    def reset(self, goals, seeds, rows=None):
        self.x[:] = np.reshape(seeds, (-1, 1))
        return self.x

    def close(self):
        self.x = None


@pytest.fixture
def line(tmp_path):
    (tmp_path / "sentences.yaml").write_text(SENTENCES)
    return Line(tmp_path)


def test_sentences_are_told_for_every_value(line):
    assert [one.text for one in line.suite("seen")] == [
        *("Go left.", "Go right.", "Please go left.", "Please go right.", "Rest."),
    ]
    assert line.suite("seen")[1].goal == Goal.of("go", way="right")
    held = [one.text for one in line.suite("rephrase") if one.held_back]
    assert held == ["Off to the left with you!", "Off to the right with you!"]
    assert line.suite("hard") == () and not any(one.held_back for one in line.suite("seen"))
    assert [one.wording for one in line.suite("rephrase")][-1] == "rephrase/go/5"
    tuned = [one.text for one in line.suite("seen") if one.split == "tune"]
    assert tuned == ["Please go left.", "Please go right."]
    with pytest.raises(KalmError, match="unknown level 'hrad'"):
        line.suite("hrad")


def test_sentences_of_an_unknown_kind_are_refused(tmp_path):
    (tmp_path / "sentences.yaml").write_text("seen: {jump: [Jump.]}")
    with pytest.raises(KalmError, match=r"sentences.yaml, seen 'jump'. Known: go, rest"):
        Line(tmp_path).suite("seen")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (["go"], "a goal is an object"),
        ({"kind": "fly"}, "unknown goal kind 'fly'. Known: go, rest"),
        ({"kind": ["go"]}, "unknown goal kind"),
        ({"kind": "go"}, "needs way; got none"),
        ({"kind": "rest", "way": "left"}, "needs no slots; got way"),
        ({"kind": "go", "way": "up"}, "unknown value of goal slot 'way' 'up'. Known: left, right"),
        ({"kind": "go", "way": ["left"]}, "unknown value"),
    ],
)
def test_goals_are_checked(line, data, says):
    with pytest.raises(KalmError, match=says):
        line.parse_goal(data)


def test_goals_come_back_as_they_went_out(line):
    for level in LEVELS:
        for one in line.suite(level):
            assert line.parse_goal(one.goal.to_json()) == one.goal


def test_what_a_world_does_not_say(line):
    goals = [Goal.of("rest")] * 3
    assert line.initial_states(goals, [4, 5, 6]).tolist() == [[4], [5], [6]]
    states = np.zeros((3, 1))
    assert line.violations(states) == {} == line.motion(states, np.zeros(3), states)
    assert line.explains("Rest.", goals[0]) == {}
    picture = line.render(np.array([0.25]), 64)
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8 and picture.std() > 0


def test_a_judge_takes_rows_of_what_it_names():
    class Far(RowJudge):
        rows = ("one_step", "limit")

        def __init__(self, goals, limit):
            super().__init__(goals)
            self.limit = np.array(limit)

        def reached(self, states, next_states):
            return next_states[:, 0] > self.limit

    judge = Far([Goal.of("go", way="left"), Goal.of("rest")], [1.0, 2.0])
    other = judge.take(np.array([1, 1, 0]))
    assert [goal.kind for goal in other.goals] == ["rest", "rest", "go"] and len(other.one_step) == 3
    states = np.full((3, 1), 1.5)
    assert other.success(states, np.zeros(3), states).tolist() == [False, False, True]
    assert judge.take(np.array([False, True])).limit.tolist() == [2.0]
    assert judge.violations(states, states) == {}
