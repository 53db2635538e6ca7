"""What the reader is shown: patterns in place of many sentences, and plans in few words."""

import pytest

from kalm.envs import make
from kalm.envs.sentences import plain_steps
from kalm.errors import KalmError
from kalm.reader.prompts import make_menu, shortened


def menu_of(name):
    world = make(name)
    steps = [step.text for step in plain_steps(world).values()]
    return make_menu(steps, [entity.name for entity in world.spec.entities])


def test_eighty_sentences_of_clevr_are_four_patterns():
    menu = menu_of("clevr")
    assert len(menu.sentences) == 80
    assert menu.patterns == (
        "Push the _ behind the _.",
        "Push the _ to the left of the _.",
        "Push the _ in front of the _.",
        "Push the _ to the right of the _.",
    )
    assert menu.things == ("red ball", "blue ball", "green ball", "purple ball", "cyan ball")
    assert menu.short[:3] == ("red behind blue", "red left blue", "red front blue")


def test_sentences_without_gaps_are_shown_whole():
    menu = menu_of("metaworld")
    assert menu.patterns == menu.sentences and not menu.things
    assert {"open door", "press button coffee machine", "pick up puck place target"} <= set(menu.short)


def test_a_gap_that_not_every_thing_fits_is_no_gap():
    menu = make_menu(["Open the chest.", "Open the jar.", "Ring the bell."], ["chest", "jar", "bell"])
    assert menu.patterns == menu.sentences


def test_two_things_are_written_whole():
    """All sentences name both, so nothing would be left to tell them apart."""
    sentences = ["Put the jar behind the bell.", "Put the bell behind the jar."]
    assert shortened(sentences) == ("put the jar behind the bell", "put the bell behind the jar")


def test_small_words_stay_where_they_tell_sentences_apart():
    assert shortened(["Put it in the box.", "Put it on the box."]) == ("in", "on")
    assert shortened(["Go to the left of it.", "Go in front of it."]) == ("left", "front")


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(KalmError, match="stands for two goals"):
        make_menu(["Open it.", "Open it."], [])
    with pytest.raises(KalmError, match="no plain sentences"):
        make_menu([], [])
    with pytest.raises(KalmError, match="more than the 64"):
        make_menu([f"Do number {n}." for n in range(65)], [])
