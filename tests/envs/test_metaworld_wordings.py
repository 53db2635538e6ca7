"""Meta-World's wordings: counts, disjointness, walls and locks that are named, goal files, keywords."""

import json
import re
from collections import Counter
from itertools import combinations

import pytest

from kalm.data.goal_files import read_goals, write_goals
from kalm.envs.clevr import goals
from kalm.envs.metaworld.goals import parse_goal
from kalm.envs.metaworld.keywords import explains
from kalm.envs.metaworld.sentences import suite
from kalm.envs.metaworld.spec import TASKS
from kalm.envs.metaworld.world import MetaWorld
from kalm.envs.sentences import read_bank
from kalm.errors import KalmError
from kalm.types import LEVELS, NOVEL_LEVELS, Goal

SUITES = {level: suite(level) for level in LEVELS}
TWO_STAGES = ("make-coffee", "locked-door-open")
INTERNALS = r"simulat|mujoco|sawyer|quaternion|coordinate|vector|meta-?world|reward|state|\d"


def words(text):
    return re.findall(r"[a-z']+", text.lower())


def runs(level, length):
    """Every run of that many words in a level's sentences."""
    said = (words(instruction.text) for instruction in SUITES[level])
    return {tuple(some[i : i + length]) for some in said for i in range(len(some) - length + 1)}


@pytest.mark.parametrize(("level", "tasks"), [("seen", 10), ("rephrase", 10), ("easy", 8), ("hard", 4)])
def test_counts(level, tasks):
    names = [name for name, task in TASKS.items() if level in task.levels]
    assert len(names) == tasks and set(read_bank("metaworld", level)["wordings"]) == set(names)
    assert [i.wording for i in SUITES[level]] == [
        f"{level}/{name}/{index:02d}" for name in names for index in range(20)
    ]
    assert [i.goal for i in SUITES[level]] == [Goal.of(name) for name in names for _ in range(20)]
    assert {i.level for i in SUITES[level]} == {level}


def test_no_sentence_is_there_twice():
    sentences = [" ".join(words(i.text)) for level in LEVELS for i in SUITES[level]]
    assert len(set(sentences)) == len(sentences) == 640


@pytest.mark.parametrize("level", ["seen", "easy", "hard"])
def test_rephrasings_share_no_five_words_in_a_row_with_another_level(level):
    assert len(runs(level, 5)) > 100
    assert not runs("rephrase", 5) & runs(level, 5)


def test_levels_of_novel_tasks_have_sentences_of_their_own():
    for one, other in combinations(LEVELS, 2):
        shared = {" ".join(words(i.text)) for i in SUITES[one]} & {
            " ".join(words(i.text)) for i in SUITES[other]
        }
        assert not shared


def test_rephrasings_never_have_the_words_of_the_offline_data_for_both_slots():
    both = [i.text for i in SUITES["rephrase"] if all(explains(i.text, i.goal).values())]
    assert not both


@pytest.mark.parametrize("level", LEVELS)
def test_sentences_are_sentences(level):
    for instruction in SUITES[level]:
        text = instruction.text
        assert isinstance(text, str) and not re.search(r"[{}]|  | [,.?!;]", text), text
        assert text[0].isupper() and text[-1] in ".?!", text
        assert not re.search(INTERNALS, text.lower()), text


def test_what_stands_in_the_way_is_named():
    for instruction in SUITES["easy"]:
        named = bool({"wall", "barrier"} & set(words(instruction.text)))
        assert named == instruction.goal.kind.endswith("-wall"), instruction.text
    for instruction in SUITES["hard"]:
        if instruction.goal.kind == "locked-door-open":
            assert "lock" in instruction.text.lower() and "door" in instruction.text.lower()


def test_every_fifth_wording_of_a_novel_task_is_held_back():
    assert not any(instruction.held_back for instruction in SUITES["seen"])
    for level in NOVEL_LEVELS:
        held = Counter(i.goal.kind for i in SUITES[level] if i.held_back)
        assert held == {name: 4 for name, task in TASKS.items() if level in task.levels}
        assert all(i.held_back == (int(i.wording[-2:]) % 5 == 4) for i in SUITES[level])


def test_suites_are_found_by_name_and_are_constants():
    assert all(MetaWorld().suite(level) == SUITES[level] for level in LEVELS)
    assert suite("hard") is suite("hard")


def test_unknown_level():
    with pytest.raises(KalmError, match="unknown level 'medium'. Known: easy, hard, rephrase, seen"):
        suite("medium")


@pytest.mark.parametrize("level", LEVELS)
def test_a_written_suite_is_read_back(tmp_path, level):
    path = tmp_path / "goals.jsonl"
    write_goals(path, SUITES[level])
    assert read_goals(path, parse_goal, 91) == SUITES[level]
    first = json.loads(path.read_text().splitlines()[0])
    assert first["goal"] == {"kind": SUITES[level][0].goal.kind}


def test_every_seen_sentence_tells_its_own_task_and_no_other():
    for instruction in SUITES["seen"]:
        for name in set(TASKS) - set(TWO_STAGES):
            found = explains(instruction.text, Goal.of(name))
            assert all(found.values()) == (name == instruction.goal.kind), (instruction.text, name, found)


def test_a_slot_is_right_where_tasks_share_it():
    for instruction in SUITES["seen"]:
        kind = instruction.goal.kind
        if kind.endswith("-open"):
            closed = explains(instruction.text, Goal.of(kind.replace("open", "close")))
            assert closed == {"action": False, "object": True}, instruction.text
    assert explains("Open the door.", Goal.of("window-open")) == {"action": True, "object": False}
    assert explains("Unlock the door.", Goal.of("door-lock")) == {"action": False, "object": True}


@pytest.mark.parametrize(
    ("text", "task", "action", "object_"),
    [
        ("LOCK THE DOOR", "door-lock", True, True),
        ("turn the lock so that the door is unlocked", "door-unlock", True, True),
        ("turn the lock so that the door is unlocked", "door-lock", False, True),
        ("close the door", "door-close", True, True),
        ("open and close the door", "door-close", False, True),  # both is neither
        ("open the door and the window", "door-open", True, False),
        ("turn off the faucet", "faucet-close", True, True),
        ("turn on the faucet", "faucet-close", False, True),
        ("press the button", "coffee-button", True, False),  # of what?
        ("press the button of the coffee machine", "button-press", True, False),
        ("press the button behind the wall", "button-press-wall", True, True),
        ("press the button", "button-press-wall", True, False),
        ("push the mug under the coffee machine", "coffee-push", True, True),
        ("push the puck to the target", "reach", False, False),
        ("hit the nail with the hammer", "hammer", True, True),
        ("kick the ball into the goal", "soccer", True, True),
        ("reopened doors", "door-open", False, False),  # whole words only
        ("", "push", False, False),
    ],
)
def test_what_is_said_decides(text, task, action, object_):
    assert explains(text, Goal.of(task)) == {"action": action, "object": object_}


def test_keywords_mean_one_thing_each_and_every_task_of_one_stage_has_some():
    bank = read_bank("metaworld", "seen")
    for table in ("actions", "things"):
        phrases = [phrase for phrases in bank[table].values() for phrase in phrases]
        assert len(set(phrases)) == len(phrases)
    assert set(bank["tasks"]) == set(TASKS) - set(TWO_STAGES)
    assert all(explains("Make coffee.", Goal.of(name)) == {} for name in TWO_STAGES)
    for task in bank["tasks"].values():
        assert task["action"] in bank["actions"]
        assert set(task["things"]) | set(task.get("beside", ())) <= set(bank["things"])


def test_no_kind_of_goal_is_in_both_worlds():
    assert not set(TASKS) & set(goals.KINDS)
