"""The wordings: counts, balance, disjointness, and that every composition can be built."""

import re
from collections import Counter
from hashlib import sha256
from itertools import permutations, product
from string import Formatter

import numpy as np
import pytest

from kalm.envs.clevr.goals import ClevrJudge
from kalm.envs.clevr.sentences import PLACES, suite
from kalm.envs.clevr.spec import BALLS, DIRECTIONS
from kalm.envs.sentences import read_bank
from kalm.errors import KalmError
from kalm.types import LEVELS, NOVEL_LEVELS

SUITES = {level: suite(level) for level in LEVELS}
OPPOSITE = {"behind": "front", "front": "behind", "left": "right", "right": "left"}


def normal(text):
    """The sentence without case, punctuation and colours: what is left of its pattern."""
    words = re.sub(r"[^a-z ]", " ", text.lower()).split()
    return " ".join("ball" if word in BALLS else word for word in words)


@pytest.mark.parametrize(
    ("level", "count", "wordings"),
    [("seen", 1440, 18), ("rephrase", 800, 40), ("easy", 400, 80), ("hard", 200, 80)],
)
def test_counts(level, count, wordings):
    suite = SUITES[level]
    assert len(suite) == count
    names = {instruction.wording for instruction in suite}
    assert names == {f"{level}/{index:02d}" for index in range(wordings)}
    assert {instruction.level for instruction in suite} == {level}


def test_hard_has_the_four_kinds_in_the_papers_mix():
    sizes = Counter(len(i.goal["goals"]) if i.goal.kind == "all" else i.goal.kind for i in SUITES["hard"])
    assert sizes == {"line": 20, "gather": 20, 2: 80, 3: 80}


def test_seen_covers_every_target_configuration_alike():
    targets = Counter(instruction.goal for instruction in SUITES["seen"])
    assert len(targets) == 80 and set(targets.values()) == {18}


@pytest.mark.parametrize(("level", "each"), [("rephrase", 200), ("easy", 100)])
def test_directions_are_balanced(level, each):
    directions = Counter(instruction.goal["direction"] for instruction in SUITES[level])
    assert directions == dict.fromkeys(DIRECTIONS, each)


def test_every_rephrasing_says_all_directions_alike_and_every_pair_too():
    by_wording = Counter((i.wording, i.goal["direction"]) for i in SUITES["rephrase"])
    assert len(by_wording) == 160 and set(by_wording.values()) == {5}
    by_goal = Counter(i.goal for i in SUITES["rephrase"])
    assert len(by_goal) == 80 and set(by_goal.values()) == {10}


def test_no_sentence_stands_for_two_goals():
    sentences = [normal_case(i.text) for level in LEVELS for i in SUITES[level]]
    assert len(set(sentences)) == len(sentences) == 2840


def normal_case(text):
    return re.sub(r"\W+", " ", text.lower()).strip()


def test_novel_sentences_and_patterns_are_new():
    seen = {normal(instruction.text) for instruction in SUITES["seen"]}
    assert len(seen) == 18 * 4
    for level in NOVEL_LEVELS:
        assert not seen & {normal(instruction.text) for instruction in SUITES[level]}


def test_levels_share_no_pattern():
    shapes = [{normal(instruction.text) for instruction in SUITES[level]} for level in LEVELS]
    assert len(set().union(*shapes)) == sum(map(len, shapes))


@pytest.mark.parametrize("level", LEVELS)
def test_sentences_are_sentences(level):
    for instruction in SUITES[level]:
        text = instruction.text
        assert not re.search(r"[{}]|  | [,.?!;]", text), text
        assert text[0].isupper() and text[-1] in ".?!", text


def slots(pattern):
    return {name for _, name, _, _ in Formatter().parse(pattern) if name}


@pytest.mark.parametrize("level", ["seen", "rephrase", "easy"])
def test_patterns_of_one_target_use_each_of_its_slots_and_one_table(level):
    bank, own = read_bank("clevr", level), {"ball"} if level == "easy" else {"ball", "reference"}
    used = set()
    for pattern in bank["patterns"]:
        assert own < slots(pattern) and len(slots(pattern) - own) == 1, pattern
        used |= slots(pattern) - own
    assert used == set(bank["tables"])
    assert len(set(bank["patterns"])) == len(bank["patterns"])


def test_hard_patterns_use_each_of_their_slots():
    bank, used = read_bank("clevr", "hard"), set()
    assert all(slots(pattern) == set(PLACES) for pattern in bank["line"])
    assert all(slots(pattern) == {"center"} for pattern in bank["gather"])
    for kind, numbers in (("two", "12"), ("three", "123")):
        for pattern in bank[kind]:
            assert {f"{name}{n}" for name in ("ball", "reference") for n in numbers} < slots(pattern), pattern
            tables = [slot for slot in slots(pattern) if not slot.startswith(("ball", "reference"))]
            assert sorted(table[-1] for table in tables) == list(numbers), pattern
            used |= {table[:-1] for table in tables}
    assert used == set(bank["tables"])


@pytest.mark.parametrize("level", LEVELS)
def test_tables_have_other_words_for_each_direction(level):
    for name, words in read_bank("clevr", level)["tables"].items():
        assert set(words) == set(DIRECTIONS), name
        assert len(set(words.values())) == 4, name


@pytest.mark.parametrize("level", LEVELS)
def test_the_family_of_a_wording_is_the_table_of_its_words(level):
    tables = read_bank("clevr", level)["tables"]
    for instruction in SUITES[level]:
        if instruction.goal.kind in ("line", "gather"):
            assert instruction.family == ""
        else:
            parts = instruction.goal["goals"] if instruction.goal.kind == "all" else [instruction.goal]
            words = tables[instruction.family]
            assert all(words[part["direction"]] in instruction.text for part in parts), instruction


def test_complaints_are_about_the_opposite_arrangement():
    tables = read_bank("clevr", "rephrase")["tables"]
    for wrong, right in (("wrong", "plain"), ("wrong_hand", "hand")):
        for direction in DIRECTIONS:
            assert tables[wrong][direction] == tables[right][OPPOSITE[direction]]


def test_held_back_wordings_are_a_fifth_of_every_part():
    assert not any(instruction.held_back for instruction in SUITES["seen"])
    parts = Counter()
    for instruction in {i.wording: i for level in NOVEL_LEVELS for i in SUITES[level]}.values():
        goal = instruction.goal
        part = goal["direction"] if instruction.level == "easy" else goal.kind
        part = len(goal["goals"]) if goal.kind == "all" else part
        parts[instruction.level, part, instruction.held_back] += 1
    for level, part, held_back in list(parts):
        if held_back:
            assert parts[level, part, True] * 4 == parts[level, part, False], (level, part)
    assert sum(count for (_, _, held_back), count in parts.items() if held_back) == 8 + 16 + 16


def test_a_wording_is_held_back_in_all_its_sentences_or_none():
    pairs = {(i.wording, i.held_back) for level in LEVELS for i in SUITES[level]}
    assert len(pairs) == 18 + 40 + 80 + 80


def test_every_composition_can_stand_on_the_table():
    # all ways to put five balls on a 3 x 3 grid of 0.3 m inside the table, where no two balls overlap
    grid = np.array(list(product((-0.3, 0.0, 0.3), (-0.1, 0.2, 0.5))))
    states = grid[np.array(list(permutations(range(9), 5)))].reshape(-1, 10)  # (15120, 10)
    met, row_zero = {}, np.zeros(len(states), dtype=np.int64)
    for instruction in SUITES["hard"]:
        if instruction.goal.kind == "all":
            parts = instruction.goal["goals"]
            for part in parts:
                if part not in met:
                    met[part] = ClevrJudge([part]).take(row_zero).reached(states, states)
            assert np.logical_and.reduce([met[part] for part in parts]).any(), instruction.text


def test_compositions_differ_and_speak_of_another_ball_in_each_part():
    goals = [i.goal for i in SUITES["hard"] if i.goal.kind == "all"]
    assert len({frozenset(goal["goals"]) for goal in goals}) == len(goals) == 160
    for goal in goals:
        assert len({part["ball"] for part in goal["goals"]}) == len(goal["goals"])
        pairs = {frozenset((part["ball"], part["reference"])) for part in goal["goals"]}
        assert len(pairs) == len(goal["goals"])
    directions = Counter(part["direction"] for goal in goals for part in goal["goals"])
    assert min(directions.values()) >= 80  # of 400


def test_suites_are_constants():
    assert suite("hard") == SUITES["hard"]
    drawn = "\n".join(i.text for i in SUITES["hard"] if i.goal.kind == "all")
    assert sha256(drawn.encode()).hexdigest()[:16] == "a03ddc0e58c48d1f"


def test_sentences_say_their_goal():
    by_text = {i.text: i.goal.to_json() for level in LEVELS for i in SUITES[level]}
    behind = {"kind": "relation", "ball": "red", "reference": "blue", "direction": "behind"}
    assert by_text["Push the red ball to the back of the blue ball."] == behind
    assert by_text["Bring the red globe to the spot just beyond the blue globe."] == behind
    text = "Why is the red ball still to the left of the blue ball? Swap the two around."
    assert by_text[text] == {**behind, "direction": "right"}
    text = "The cyan ball is too far from me, so push it the other way."
    assert by_text[text] == {"kind": "move", "ball": "cyan", "direction": "front"}
    text = "From right to left, the row of balls should go cyan, purple, green, blue, red."
    assert by_text[text] == {"kind": "line", "order": list(BALLS)}


def test_unknown_level():
    with pytest.raises(KalmError, match="unknown level 'sen'. Known: easy, hard, rephrase, seen"):
        suite("sen")
