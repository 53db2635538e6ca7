"""The tree of plans: what may come next, and nothing else."""

import pytest

from kalm.errors import KalmError
from kalm.reader.tree import PlanTree

SENTENCES = [(1, 2, 3), (1, 2, 4), (5,), (5, 6)]
OWN, SEPARATOR, END = (9,), 7, 8


def tree(longest=4):
    return PlanTree(SENTENCES, OWN, SEPARATOR, END, longest)


def walk(found, tokens):
    place = found.start()
    for token in tokens:
        assert token in found.allowed(place), (tokens, token)
        place = found.after(place, token)
    return place


def test_a_plan_begins_with_a_sentence_or_own_words():
    assert sorted(tree().allowed(tree().start())) == [1, 5, 9]


def test_forced_tokens_are_the_only_ones_allowed():
    assert tree().allowed(walk(tree(), [1])) == [2]
    assert sorted(tree().allowed(walk(tree(), [1, 2]))) == [3, 4]


def test_a_sentence_that_begins_another_may_end_or_go_on():
    assert sorted(tree().allowed(walk(tree(), [5]))) == [6, SEPARATOR, END]


def test_after_a_separator_neither_own_words_nor_what_was_said_may_come():
    found = tree()
    assert sorted(found.allowed(walk(found, [5, SEPARATOR]))) == [1, 5]
    assert found.allowed(walk(found, [5, SEPARATOR, 5])) == [6]
    assert found.allowed(walk(found, [1, 2, 3, SEPARATOR, 1, 2])) == [4]


def test_own_words_end_the_plan():
    found = tree()
    place = walk(found, [9, END])
    assert place.done and place.steps == () and found.allowed(place) == []


def test_no_plan_is_longer_than_asked_for():
    found = tree(longest=2)
    assert found.allowed(walk(found, [1, 2, 3, SEPARATOR, 1, 2, 4])) == [END]


@pytest.mark.parametrize("steps", [(), (0,), (2,), (3, 2), (1, 0, 3)])
def test_every_plan_can_be_spelt_and_is_found_again(steps):
    found = tree()
    tokens = found.spell(steps)
    place = walk(found, tokens)
    assert place.done and place.steps == steps
    for token, may in zip(tokens, found.choices(steps), strict=True):
        assert token in may


def test_probabilities_of_all_plans_add_up_to_one():
    """With equal chances at each choice: every way through the tree, weighed, gives 1."""
    found = PlanTree([(1, 2), (1, 3)], OWN, SEPARATOR, END, 8)

    def total(place, chance):
        may = found.allowed(place)
        return chance if not may else sum(total(found.after(place, t), chance / len(may)) for t in may)

    assert total(found.start(), 1.0) == pytest.approx(1.0)


def test_sentences_that_cannot_be_told_apart_are_refused():
    with pytest.raises(KalmError, match="same to the model's tokenizer"):
        PlanTree([(1, 2), (1, 2)], OWN, SEPARATOR, END, 4)
    with pytest.raises(KalmError, match="semicolons"):
        PlanTree([(1, SEPARATOR, 2)], OWN, SEPARATOR, END, 4)
