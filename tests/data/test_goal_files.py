"""Suites by name, and goal files: what is written is read back, what is wrong is refused with its line."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kalm.data.goal_files import read_goals, write_goals
from kalm.envs.clevr.goals import parse_goal
from kalm.envs.clevr.sentences import suite
from kalm.errors import KalmError
from kalm.types import LEVELS, Goal, Instruction

LINE = {"text": "Go.", "level": "easy", "goal": {"kind": "move", "ball": "red", "direction": "left"}}


def has_letter(text):
    return any(map(str.isalpha, text))


def read(tmp_path, *lines):
    path = tmp_path / "goals.jsonl"
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return read_goals(path, parse_goal, 10)


def test_suite_is_computed_once():
    assert suite("seen") is suite("seen")


def test_unknown_levels():
    with pytest.raises(KalmError, match="unknown level 'medium'. Known: easy, hard, rephrase, seen"):
        suite("medium")


@pytest.mark.parametrize("level", LEVELS)
def test_a_written_suite_is_read_back(tmp_path, level):
    path = tmp_path / "deep" / "goals.jsonl"
    write_goals(path, suite(level))
    assert read_goals(path, parse_goal, 10) == suite(level)
    assert [item.name for item in path.parent.iterdir()] == ["goals.jsonl"]


@given(
    text=st.text(min_size=1).filter(lambda text: any(map(str.isalpha, text))),
    state=st.lists(st.floats(-1, 1), min_size=10, max_size=10),
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])  # one path is enough
def test_any_sentence_and_state_are_read_back(tmp_path, text, state):
    path = tmp_path / "one.jsonl"
    instruction = Instruction(text, "rephrase", Goal.of("gather", center="green"), state=tuple(state))
    write_goals(path, [instruction])
    assert read_goals(path, parse_goal, 10) == (instruction,)


def test_a_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "goals.jsonl"
    write_goals(path, suite("hard"))
    before = path.read_bytes()
    bad = Instruction("\ud800", "easy", Goal.of("gather", center="green"))
    with pytest.raises(UnicodeEncodeError):
        write_goals(path, [bad])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_example_of_the_specification(tmp_path):
    text = (
        '{"text": "Red behind blue.", "level": "rephrase", "goal": '
        '{"kind": "relation", "ball": "red", "reference": "blue", "direction": "behind"}}'
    )
    (instruction,) = read(tmp_path, text, "", "   ")
    assert instruction.goal == Goal.of("relation", ball="red", reference="blue", direction="behind")
    assert (instruction.wording, instruction.held_back, instruction.state) == ("", False, None)
    assert instruction.split == ""


def test_whole_numbers_and_an_absent_state_are_fine(tmp_path):
    found = read(tmp_path, {**LINE, "state": list(range(10))}, {**LINE, "state": None})
    assert [item.state for item in found] == [tuple(range(10)), None]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "Go."', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[1, 2]", "expected a JSON object with text, level, goal"),
        ({"level": "easy", "goal": LINE["goal"]}, "'text' missing"),
        ({"text": "Go."}, "'level', 'goal' missing"),
        ({**LINE, "text": "  "}, "'text' must be a sentence"),
        ({**LINE, "text": 5}, "'text' must be a sentence"),
        ({**LINE, "text": "a\ud800"}, "'text' must be a sentence"),
        ({**LINE, "level": "esay"}, "unknown level 'esay'. Known: easy, hard, rephrase, seen"),
        ({**LINE, "level": ["easy"]}, "unknown level"),
        ({**LINE, "sate": [0]}, "unknown name in a goal line 'sate'"),
        ({**LINE, "goal": "left"}, "a goal is an object"),
        ({**LINE, "goal": {**LINE["goal"], "ball": "pink"}}, "'ball'.*'pink'"),
        ({**LINE, "goal": {**LINE["goal"], "speed": 2}}, "slots ball, direction; got ball, direction, speed"),
        ({**LINE, "wording": 3}, "'wording' must be a name"),
        ({**LINE, "family": ["hand"]}, "'family' must be a name"),
        ({**LINE, "held_back": 1}, "'held_back' must be true or false"),
        ({**LINE, "split": "train"}, "unknown split 'train'. Known: test, tune"),
        ({**LINE, "split": ["tune"]}, "unknown split"),
        ({**LINE, "state": [0.0] * 9}, "list of 10 numbers, got 9 values"),
        ({**LINE, "state": "0 0"}, "list of 10 numbers, got '0 0'"),
        ({**LINE, "state": [0.0] * 9 + ["x"]}, r"'state'\[9\] must be a finite number, got 'x'"),
        ({**LINE, "state": [True] + [0.0] * 9}, r"'state'\[0\] must be a finite number, got True"),
        ({**LINE, "state": [float("nan")] * 10}, r"'state'\[0\] must be a finite number, got nan"),
        ({**LINE, "state": [0.0] * 4 + [float("inf")] * 6}, r"'state'\[4\].*inf"),
        ({**LINE, "state": [10**400] * 10}, r"'state'\[0\].*inf"),
    ],
)
def test_malformed_lines_are_refused_with_file_line_and_reason(tmp_path, line, reason):
    with pytest.raises(KalmError, match=rf"goals\.jsonl, line 3: .*{reason}"):
        read(tmp_path, LINE, "", line)


def test_files_without_goals(tmp_path):
    with pytest.raises(KalmError, match="empty"):
        read(tmp_path, "", "  ")
    with pytest.raises(KalmError, match="cannot be read"):
        read_goals(tmp_path / "absent.jsonl", parse_goal, 10)
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(KalmError, match="cannot be read"):
        read_goals(binary, parse_goal, 10)


@pytest.mark.parametrize("text", [".", "...", "12", "\u2192", "", "  "])
def test_a_text_without_a_letter_is_no_sentence(tmp_path, text):
    with pytest.raises(KalmError, match="line 2: 'text' must be a sentence, with letters in it"):
        read(tmp_path, LINE, {**LINE, "text": text})


@pytest.mark.parametrize("text", ["Go", "\u53bb", "\u05dc\u05da!", "a" * 100_000])
def test_a_sentence_of_any_script_is_one(tmp_path, text):
    assert read(tmp_path, {**LINE, "text": text})[0].text == text
