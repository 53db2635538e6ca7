"""Requests for skills out of a list: in other words, by needs and complaints, in turn, past obstacles.

Skills come from two sources. Most are written out (``texts/skills.yaml``). Others hang together in
*families* (``texts/courses.yaml``), whose things are drawn anew each time: to get to a place, to slide
something there, to carry it there; to fill something at a device that has to be started; to open what is
fastened.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from kalm.reader.phrasing import Draw, fill, texts
from kalm.reader.places import command
from kalm.reader.scenes import TextScene

SHARES = {"one": 0.48, "sequence": 0.13, "both": 0.1, "obstacle": 0.09, "unlisted": 0.15, "other": 0.05}
LISTED = (4, 12)  # numbers of skills in a list
RESPELT = 0.25  # share of skills whose plain sentence is one of their other wordings
FAMILIES = 0.75  # share of lists with a family of skills
RENAMED = 0.5  # share of nouns that a request calls otherwise than the plain sentence
Asked = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Skill:
    """One skill.

    Attributes:
        thing: what it is done to.
        plain: its plain sentence.
        say: commands that ask for it.
        want: needs, complaints and questions that ask for it.
    """

    thing: str
    plain: str
    say: tuple[str, ...]
    want: tuple[str, ...]


@dataclass(frozen=True)
class Course:
    """Two skills one after another, and what asks for both at once."""

    steps: tuple[Skill, Skill]
    say: tuple[str, ...]
    want: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Skills that hang together, with things drawn.

    Attributes:
        skills: its skills.
        courses: two of them together, or none.
        never: what is asked of its things and none of its skills.
    """

    skills: tuple[Skill, ...]
    courses: tuple[Course, ...]
    never: tuple[str, ...]


@dataclass(frozen=True)
class SkillScene:
    """A list of skills.

    Attributes:
        scene: their plain sentences.
        listed: the skills, in that order; a plain sentence may be another than the skill's own.
        courses: two of them together.
        never: what none of them does, about their things.
    """

    scene: TextScene
    listed: tuple[Skill, ...]
    courses: tuple[Course, ...]
    never: tuple[str, ...]

    def number(self, wanted: Skill) -> int | None:
        """Find a skill by what asks for it."""
        return next((n for n, skill in enumerate(self.listed) if skill.want == wanted.want), None)


@cache
def all_skills() -> tuple[Skill, ...]:
    """Read every skill that is written out."""
    return tuple(
        Skill(thing, skill["step"], tuple(skill["say"]), tuple(skill["want"]))
        for thing, skills in texts("skills").items()
        for skill in skills
    )


@cache
def all_courses() -> tuple[Course, ...]:
    """Read every course that is written out."""
    known = {skill.plain: skill for skill in all_skills()}
    return tuple(
        Course((known[both["steps"][0]], known[both["steps"][1]]), tuple(both["say"]), tuple(both["want"]))
        for both in texts("courses")["both"]
    )


def draw_family(draw: Draw, name: str) -> Family:
    """Draw the things of a family, and how its plain sentences are worded."""
    about: dict[str, Any] = texts("courses")["families"][name]
    bare = {}
    for names, values in about["slots"].items():
        bare |= dict(zip(names.split("/"), draw.one(values).split("/"), strict=True))
    bare |= {slot.upper(): value.capitalize() for slot, value in bare.items() if slot in ("t", "u")}
    # In requests a thing comes with its article; a capital letter stands for the bare name.
    said = {slot: value if slot in "tkudfTU" else f"the {value}" for slot, value in bare.items()}
    said |= {"C": bare.get("c", "")}

    def filled(patterns: Sequence[str]) -> tuple[str, ...]:
        return tuple(fill(pattern, said) for pattern in patterns)

    skills = tuple(
        Skill(name, fill(draw.one(one["step"]), bare), filled(one["say"]), filled(one["want"]))
        for one in about["skills"]
    )
    courses: tuple[Course, ...] = ()
    if "both" in about:
        first, second = about["both"]["steps"]
        both = Course(
            (skills[first], skills[second]), filled(about["both"]["say"]), filled(about["both"]["want"])
        )
        courses = (both,)
    return Family(skills, courses, filled(about["never"]))


def skill_scene(draw: Draw) -> SkillScene:
    """Draw a list of skills: of some things all, of others a part."""
    size = int(draw.rng.integers(LISTED[0], LISTED[1] + 1))
    listed: list[Skill] = []
    courses, never = list(all_courses()), []
    taken: set[str] = set()
    families = list(texts("courses")["families"])
    for name in draw.some(families, int(draw.rng.integers(1, 4))) if draw.chance(FAMILIES) else ():
        family = draw_family(draw, name)
        listed += family.skills if draw.chance(0.8) else draw.some(family.skills, 2)
        courses += family.courses
        never += family.never
        taken |= set(texts("courses")["apart"][name])
    course = draw.one(all_courses()).steps if draw.chance(0.4) else ()
    things = [skill.thing for skill in all_skills()]
    for thing in [
        *(skill.thing for skill in course),
        *draw.some(list(dict.fromkeys(things)), len(set(things))),
    ]:
        if len(listed) >= size:
            break
        if thing in taken or any(
            thing in group and taken & set(group) for group in texts("courses")["alike"]
        ):
            continue
        taken.add(thing)
        part = [skill for skill in all_skills() if skill.thing == thing]
        listed += [skill for skill in part if skill in course] or draw.some(part, draw.one([1, 1, len(part)]))
    listed = draw.some(listed, LISTED[1])
    spelt = tuple(_respelt(skill, draw) for skill in listed)
    return SkillScene(
        TextScene((), tuple(skill.plain for skill in spelt)), spelt, tuple(courses), tuple(never)
    )


def _respelt(skill: Skill, draw: Draw) -> Skill:
    """Now and then let another wording be the plain one."""
    if not draw.chance(RESPELT):
        return skill
    chosen = draw.one(skill.say)
    plain = " ".join(draw.settle(chosen, {}).split())
    rest = tuple(text for text in skill.say if text != chosen)
    return Skill(
        skill.thing, f"{plain[:1].upper()}{plain[1:]}.", (*rest, _as_command(skill.plain)), skill.want
    )


def skill_request(listed: SkillScene, draw: Draw) -> Asked | None:
    """Ask for skills: the text, and the numbers of the plain sentences; empty where none of them will do."""
    kind = draw.weighted(SHARES)
    if kind == "both":
        return _both(listed, draw)
    if kind == "unlisted":
        return _unlisted(listed, draw)
    if kind == "other":
        pattern = draw.pattern([p for p in texts("own_words")["others"] if "_" not in p])
        return draw.settle(pattern, {}), ()
    numbers = [int(i) for i in draw.rng.permutation(len(listed.listed))[:2]]
    first, second = (listed.listed[i] for i in numbers)
    if kind == "one":
        return _ask(first.say, first.want, draw, first.plain), (numbers[0],)
    words = texts("courses")
    if kind == "sequence":
        pattern = draw.settle(draw.pattern(words["sequences"]), {})
        slots = {"1": _command(first, draw), "2": _command(second, draw), "W": _want(first.want, draw)}
        return renamed(fill(pattern, slots), draw), tuple(numbers)
    pattern = draw.settle(draw.pattern(words["obstacles"]), {})
    text = fill(pattern, {"1": _command(first, draw), "b": draw.one(words["barriers"])})
    return renamed(text, draw), (numbers[0],)


def renamed(text: str, draw: Draw) -> str:
    """Call things otherwise than the plain sentences do, each of them by one name or its own."""
    others = texts("courses")["other_names"]
    names: dict[str, str] = {}

    def name(found: re.Match[str]) -> str:
        noun = found[0]
        if noun not in names:
            names[noun] = draw.one(others[noun]) if draw.chance(RENAMED) else noun
        return names[noun]

    return re.sub(rf"\b(?:{'|'.join(others)})\b", name, text)


def _ask(say: Sequence[str], want: Sequence[str], draw: Draw, plain: str = "") -> str:
    """Ask by a need or a command; a plain sentence is one of the commands."""
    if draw.chance(0.5):
        return renamed(_want(want, draw), draw)
    commands = [*say, _as_command(plain)] if plain else say
    return command(renamed(draw.settle(draw.one(commands), {}), draw), draw)


def _command(skill: Skill, draw: Draw) -> str:
    return draw.settle(draw.one([_as_command(skill.plain), *skill.say]), {})


def _as_command(plain: str) -> str:
    return plain[:1].lower() + plain[1:].rstrip(".")


def _want(want: Sequence[str], draw: Draw) -> str:
    """Draw a need or complaint; the last of each skill is held out."""
    kept = want[:-1] if draw.part == "taught" else want[-1:]
    return draw.settle(draw.one(kept or want), {})


def _both(listed: SkillScene, draw: Draw) -> Asked | None:
    """Ask for what takes two skills."""
    for course in draw.some(listed.courses, len(listed.courses)):
        numbers = [listed.number(skill) for skill in course.steps]
        if None not in numbers:
            return _ask(course.say, course.want, draw), tuple(n for n in numbers if n is not None)
    return None


def _unlisted(listed: SkillScene, draw: Draw) -> Asked:
    """Ask for a skill that is not in the list, most often one of its things, such as to close what opens."""
    if listed.never and draw.chance(0.4):
        return command(renamed(draw.settle(draw.one(listed.never), {}), draw), draw), ()
    things = {skill.thing for skill in listed.listed}
    missing = [skill for skill in all_skills() if listed.number(skill) is None]
    near = [skill for skill in missing if skill.thing in things]
    if near and draw.chance(0.8):
        skill = draw.one(near)
        return _ask(skill.say, skill.want, draw, skill.plain), ()
    alike = [set(group) for group in texts("courses")["alike"] if things & set(group)]
    apart = {thing for family in things for thing in texts("courses")["apart"].get(family, ())}
    far = [
        s for s in missing if s.thing not in things | apart and not any(s.thing in group for group in alike)
    ]
    skill = draw.one(far)
    return _ask(skill.say, skill.want, draw, skill.plain), ()
