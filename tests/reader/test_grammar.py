"""Lessons in reading: what they say and mean, and that they tell nothing of any environment's goals."""

import re
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import yaml

from kalm.envs.clevr.spec import BALLS
from kalm.envs.sentences import read_bank
from kalm.reader import places
from kalm.reader.grammar import lesson
from kalm.reader.phrasing import CHOICE, Draw, fill, sentence, texts
from kalm.reader.scenes import Namer, TextScene, place_scene
from kalm.reader.skills import all_courses, all_skills, draw_family, renamed, skill_scene
from kalm.types import LEVELS

FILES = ("relations", "chains", "rows", "gatherings", "own_words", "skills", "courses", "things")
TAXI = Path(__file__).parents[2] / "examples/taxi/kalm_taxi/sentences.yaml"
WORD = re.compile(r"[a-z]+(?:[-'][a-z]+)*")
SHARED = 4  # words in a row that are a wording
# Directions are words of the language, as colours are: whoever says "on the far side of" copies nobody. A run
# of words that are all of these is no wording; with any other word in it, it is.
DIRECTION_WORDS = frozenset((
    "to", "the", "left", "right", "of", "on", "at", "in", "front", "back", "far", "near", "side", "other",
    "it", "from", "left-hand", "right-hand",
))  # fmt: skip
# What the environments' sentences are about; not "position" and "spot", which are places, nor "switch", a
# verb here.
ENTITY_WORDS = frozenset((
    "ball", "sphere", "orb", "globe", "marble", "target", "goal", "puck", "object", "disc", "cylinder",
    "button", "knob", "door", "lock", "latch", "bolt", "handle", "window", "pane", "sash", "faucet", "tap",
    "valve", "spigot", "wall", "barrier", "machine", "coffee", "espresso", "brewer", "mug", "cup", "beaker",
    "tumbler", "hammer", "nail", "soccer", "gripper", "claw", "taxi", "cab", "passenger", "customer",
))  # fmt: skip


def strings(data):
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for value in data.values():
            yield from strings(value)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from strings(value)


def expansions(pattern):
    """All texts that the choices of a pattern allow; slots stay."""
    found = CHOICE.search(pattern)
    if not found:
        yield pattern
        return
    for option in found[1].split("|"):
        yield from expansions(pattern[: found.start()] + option + pattern[found.end() :])


def taught_texts():
    for name in FILES:
        for pattern in strings(texts(name)):
            # Sides are said with a slot for the side.
            yield from expansions(pattern.replace("_s-", "left-").replace("_sward", "leftward"))


def suite_texts():
    """Patterns of every goal suite, with the words that fill their tables."""
    banks = [read_bank(env, level) for env in ("clevr", "metaworld") for level in LEVELS]
    return list(strings([*banks, yaml.safe_load(TAXI.read_text("utf-8"))]))


def runs(text, slot):
    """Every `SHARED` words in a row between two slots."""
    found = set()
    for piece in re.split(slot, text.lower()):
        words = WORD.findall(piece)
        found |= {tuple(words[i : i + SHARED]) for i in range(len(words) - SHARED + 1)}
    return found


def test_no_wording_is_that_of_a_goal():
    suites = set().union(*(runs(text, r"\{[a-z0-9]+\}") for text in suite_texts()))
    assert len(suites) > 1000
    shared = {run for text in taught_texts() for run in runs(text, r"_[a-zA-Z0-9]*|\$[a-z]+")} & suites
    assert {run for run in shared if not set(run) <= DIRECTION_WORDS} == set()


def test_no_thing_is_in_any_environment():
    words = texts("things")
    names = {
        word for noun, others in words["nouns"].items() for text in (noun, *others) for word in text.split()
    }
    said = set(WORD.findall(" ".join(suite_texts()).lower()))
    assert names & said == set()
    everything = {word for text in taught_texts() for word in WORD.findall(text.lower())}
    everything |= {word for text in texts("skills") for word in WORD.findall(text.lower())}
    assert everything & (ENTITY_WORDS | {f"{word}s" for word in ENTITY_WORDS}) == set()


def test_no_colour_is_that_of_a_ball():
    words = texts("things")
    assert not {*words["colours"], *words["marks"]} & set(BALLS)


def test_a_seed_gives_the_same_lesson():
    first, again, other = (lesson(np.random.default_rng(seed), 8) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("part", ["taught", "held out"])
def test_every_answer_is_a_plan_of_its_scene(part):
    kinds = Counter()
    for seed in range(40):
        found = lesson(np.random.default_rng(seed), 8, part)
        assert len(set(found.scene.sentences)) == len(found.scene.sentences)
        for request in found.requests:
            assert not re.search(r"_[a-z]|\$|[(|)]|  ", request.text), request.text
            assert all(0 <= step < len(found.scene.sentences) for step in request.steps)
            assert len(set(request.steps)) == len(request.steps), request
            kinds[request.kind] += 1
    assert {"relation", "chain", "row", "gathering", "nothing", "skills, 0", "skills, 1", "skills, 2"} <= set(
        kinds
    )


def test_requests_hardly_repeat():
    found = [
        request.text for seed in range(60) for request in lesson(np.random.default_rng(seed), 8).requests
    ]
    assert len(set(found)) > 0.97 * len(found)


def test_held_out_patterns_are_never_taught():
    options = list(range(20))
    seen = {part: {Draw(np.random.default_rng(s), part).pattern(options) for s in range(300)}
            for part in ("taught", "held out")}  # fmt: skip
    assert seen == {"taught": set(options) - {7, 15}, "held out": {7, 15}}


SCENE = place_scene(Draw(np.random.default_rng(0)))


def said(pattern, direction, seed=0):
    """A pattern about the first two things of a scene, with words for a direction."""
    draw = Draw(np.random.default_rng(seed))
    x, y = SCENE.things[:2]
    return sentence(
        fill(draw.settle(pattern, {}), places.relation_slots(SCENE, draw, (x, direction, y))), draw
    )


def test_a_complaint_speaks_of_the_opposite():
    """The direction that is wanted is never among the words of a complaint."""
    for seed in range(40):
        assert "left" in said("_x is _w", "right", seed).lower()
        assert not re.search(r"\bright\b", said("_x is _w", "right", seed).lower())


def test_behind_is_away_from_the_viewer():
    words = texts("relations")
    assert {"beyond _y", "farther away than _y"} <= set(words["behind"])
    assert {"this side of _y", "closer to me than _y", "between me and _y"} <= set(words["front"])
    assert not set(words["behind"]) & set(words["front"])


def rows_of(way):
    """Requests for rows that name the things in full, with their relations."""
    for seed in range(200):
        draw = Draw(np.random.default_rng(seed))
        asked = places.row(SCENE, draw)
        if asked is not None and way in asked[0]:
            yield asked


def test_rows_are_told_neighbour_by_neighbour():
    found = 0
    for _, relations in rows_of("left to right"):
        assert {direction for _, direction, _ in relations} == {"right"}
        assert all(one[0] == other[2] for one, other in zip(relations, relations[1:], strict=False))
        found += 1
    for _, relations in rows_of("right to left"):
        assert {direction for _, direction, _ in relations} == {"left"}
        found += 1
    assert found > 5


def test_around_a_thing_every_other_one_has_its_side():
    scene = next(s for n in range(99) if len((s := place_scene(Draw(np.random.default_rng(n)))).things) == 5
                 and len(s.directions) == 4)  # fmt: skip
    _, relations = places.gathering(scene, Draw(np.random.default_rng(1)))
    center = relations[0][2]
    assert [x for x, _, _ in relations] == [thing for thing in scene.things if thing != center]
    assert tuple(direction for _, direction, _ in relations) == scene.directions


def test_names_tell_things_apart():
    scene = TextScene(("white vase", "old vase", "tall vase"), (), {}, (), alike=True)
    for seed in range(60):
        name = Namer(scene, Draw(np.random.default_rng(seed)))
        called = [name.first(thing) for thing in scene.things]
        assert len(set(called)) == 3
        assert all(thing.split()[0] in text for thing, text in zip(scene.things, called, strict=True))
        assert [name.bare(thing) for thing in scene.things] == ["white", "old", "tall"]


def test_skills_of_a_list_cannot_be_mistaken():
    words = texts("courses")
    known = set(texts("skills"))
    assert all(thing in known for group in [*words["alike"], *words["apart"].values()] for thing in group)
    assert set(words["apart"]) == set(words["families"])
    for seed in range(40):
        listed = skill_scene(Draw(np.random.default_rng(seed))).listed
        assert 2 <= len(listed) <= 12 and len({skill.plain for skill in listed}) == len(listed)
        things = {skill.thing for skill in listed}
        assert all(len(things & set(group)) < 2 for group in words["alike"])
        assert all(not things & set(words["apart"].get(thing, ())) for thing in things)


def test_courses_are_made_of_known_skills():
    assert all(set(course.steps) <= set(all_skills()) for course in all_courses())


@pytest.mark.parametrize("name", ["carrying", "filling", "fastened", "flowing"])
def test_things_of_a_family_are_the_same_in_sentences_and_requests(name):
    family = draw_family(Draw(np.random.default_rng(1)), name)
    for skill in family.skills:
        thing = skill.plain.rstrip(".").rsplit(" ", 1)[-1]
        assert any(thing in text for text in skill.say)
    for course in family.courses:
        assert course.steps == family.skills[:2]


def test_things_are_called_by_other_names():
    found = {renamed("open the drawer", Draw(np.random.default_rng(seed))) for seed in range(40)}
    assert found == {"open the drawer", "open the compartment", "open the sliding tray"}


def test_files_ship_with_the_package():
    folder = resources.files("kalm.reader").joinpath("texts")
    taught = {f"{name}.yaml" for name in FILES}
    assert taught | {"proposals.yaml"} == {file.name for file in folder.iterdir()}
