"""Lessons in reading: a scene, requests about it, and what each asks for. All from a seed.

A lesson is one scene with several requests, because requests about one scene share the reading of its prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kalm.reader import places
from kalm.reader.phrasing import Draw, Part, sentence
from kalm.reader.scenes import TextScene, place_scene
from kalm.reader.skills import skill_request, skill_scene

VERSION = 3
PLACES = {"relation": 0.44, "chain": 0.21, "row": 0.12, "gathering": 0.09, "nothing": 0.14}
SKILLS = 0.5  # share of lessons
WRITERS: dict[str, places.Writer] = {
    "relation": places.relation,
    "chain": places.chain,
    "row": places.row,
    "gathering": places.gathering,
    "nothing": places.nothing,
}


@dataclass(frozen=True)
class Taught:
    """One request and what it asks for.

    Attributes:
        text: the request.
        steps: numbers of the scene's plain sentences, in order; empty: it stays in its own words.
        kind: what kind of request it is.
    """

    text: str
    steps: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class ReadingLesson:
    """A scene and requests about it."""

    scene: TextScene
    requests: tuple[Taught, ...]


def lesson(rng: np.random.Generator, requests: int, part: Part = "taught") -> ReadingLesson:
    """Draw a scene and this many different requests about it."""
    draw = Draw(rng, part)
    if draw.chance(SKILLS):
        return _skill_lesson(draw, requests)
    scene, found = place_scene(draw), {}
    while len(found) < requests:
        kind = draw.weighted(PLACES)
        asked = WRITERS[kind](scene, draw)
        if asked is not None:
            text = sentence(asked[0], draw)
            found[text] = Taught(text, tuple(scene.relations[step] for step in asked[1]), kind)
    return ReadingLesson(scene, tuple(found.values()))


def _skill_lesson(draw: Draw, requests: int) -> ReadingLesson:
    listed, found = skill_scene(draw), {}
    for _ in range(20 * requests):  # a short list has few things to ask for
        asked = skill_request(listed, draw)
        if asked is not None:
            text = sentence(asked[0], draw)
            found[text] = Taught(text, asked[1], f"skills, {min(len(asked[1]), 2)}")
        if len(found) == requests:
            break
    return ReadingLesson(listed.scene, tuple(found.values()))
