"""Scenes to talk about while reading is taught: things, and the plain sentences that may be said of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from kalm.reader.phrasing import Draw, texts

DIRECTIONS = ("behind", "left", "front", "right")
OPPOSITE = {"behind": "front", "front": "behind", "left": "right", "right": "left"}
SIZES = {"3": 0.15, "4": 0.25, "5": 0.4, "6": 0.12, "7": 0.08}  # shares of scenes by number of things
USUAL = 0.6  # share of scenes whose plain sentences have the usual words for directions
Relation = tuple[str, str, str]  # (thing, direction, reference)


@dataclass(frozen=True)
class TextScene:
    """Things, and what may be said.

    Attributes:
        things: their names.
        sentences: the plain sentences.
        relations: number of the sentence of each relation; empty where none are about places.
        directions: those that the sentences know, in their order.
        alike: all things have one noun.
    """

    things: tuple[str, ...]
    sentences: tuple[str, ...]
    relations: dict[Relation, int] = field(default_factory=dict)
    directions: tuple[str, ...] = ()
    alike: bool = False


def place_scene(draw: Draw) -> TextScene:
    """Draw things whose places can be told, with the wording in which they are."""
    words = texts("things")
    count = int(draw.weighted(SIZES))
    things, alike = draw_things(draw, count)
    order = draw.some(DIRECTIONS, len(DIRECTIONS))
    if draw.chance(0.06):
        order = order[: int(draw.rng.integers(2, 4))]
    verb, end = draw.one(words["plain_verbs"]), draw.one([".", ".", ""])
    shape = draw.one(["{verb} the {x} {p} the {y}", "{verb} the {x} {p} the {y}", "The {x} goes {p} the {y}"])
    # Most data say it as most people do: the first way of each list.
    usual = draw.chance(USUAL)
    phrases = {d: words["plain"][d][0] if usual else draw.one(words["plain"][d]) for d in order}
    relations, sentences = {}, []
    for x in things:
        for y in things:
            if x != y:
                for direction in order:
                    relations[x, direction, y] = len(sentences)
                    sentences.append(shape.format(verb=verb, x=x, p=phrases[direction], y=y) + end)
    return TextScene(tuple(things), tuple(sentences), relations, tuple(order), alike)


def draw_things(draw: Draw, count: int) -> tuple[list[str], bool]:
    """Draw different things: of one noun and told apart by an adjective, or of several."""
    words = texts("things")
    nouns = draw.some(list(words["nouns"]), count)
    kind = draw.weighted({"colours": 0.5, "marks": 0.2, "both": 0.3})
    pool = {"colours": words["colours"], "marks": words["marks"], "both": words["colours"] + words["marks"]}
    adjectives = draw.some(pool[kind], count)
    shape = draw.weighted({"alike": 0.55, "told apart": 0.3, "bare": 0.15})
    if shape == "alike":
        return [f"{adjective} {nouns[0]}" for adjective in adjectives], True
    if shape == "bare":
        return nouns, False
    return [f"{adjective} {noun}" for adjective, noun in zip(adjectives, nouns, strict=True)], False


class Namer:
    """How one request calls the things of a scene.

    Args:
        scene: the scene.
        draw: chance.
    """

    def __init__(self, scene: TextScene, draw: Draw) -> None:
        self.scene = scene
        self.draw = draw
        self.style: str = draw.weighted({"own": 0.45, "other": 0.35, "short": 0.2})
        self.article: str = draw.weighted({"the ": 0.88, "that ": 0.03, "my ": 0.03, "": 0.06})
        self._nouns = {noun: self._noun(noun) for noun in dict.fromkeys(map(noun_of, scene.things))}

    def _noun(self, noun: str) -> str:
        """Choose what a kind of thing is called in this request; different kinds keep different names."""
        if self.style == "own":
            return noun
        words = texts("things")
        general = [word for word in words["general"] if word != "one"]
        others = words["nouns"].get(noun, [])
        taken = {other for thing in self.scene.things for other in (noun_of(thing),) if other != noun}
        options = [word for word in [*others, *others, *general] if word not in taken]
        return self.draw.one(options) if self.scene.alike or self.style == "other" else noun

    def first(self, thing: str) -> str:
        """Name a thing, with its article."""
        adjective, noun = adjective_of(thing), noun_of(thing)
        if not adjective:
            return f"{self.article}{noun}"
        if self.style == "short":
            if self.scene.alike or self.draw.chance(0.3):
                return f"{self.article or 'the '}{adjective} one"
            if self.draw.chance(0.5):
                return f"{self.article}{noun}"
        return f"{self.article}{adjective} {self._nouns[noun]}"

    def second(self, thing: str) -> str:
        """Name a thing after another one was named."""
        adjective = adjective_of(thing)
        unique = sum(adjective_of(other) == adjective for other in self.scene.things) == 1
        if adjective and unique and self.draw.chance(0.4 if self.scene.alike else 0.12):
            return f"{self.article or 'the '}{adjective} one"
        return self.first(thing)

    def bare(self, thing: str) -> str:
        """Name a thing by as little as tells it from the others."""
        return adjective_of(thing) if self.scene.alike else thing

    @property
    def plural(self) -> str:
        """All things in a word."""
        if not self.scene.alike:
            return self.draw.one(["things", "items", "things"])
        return plural(self._nouns[noun_of(self.scene.things[0])])


def noun_of(thing: str) -> str:
    """Return the last word of a name."""
    return thing.rsplit(" ", 1)[-1]


def adjective_of(thing: str) -> str:
    """Return what stands before the noun, or nothing."""
    return thing.rsplit(" ", 1)[0] if " " in thing else ""


def plural(noun: str) -> str:
    """Return the plural of a noun."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return {"leaf": "leaves", "loaf": "loaves", "chessman": "chessmen", "man": "men"}.get(noun, f"{noun}s")
