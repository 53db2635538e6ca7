"""Requests for skills out of a list: in other words, by needs and complaints, in turn, past obstacles."""

from __future__ import annotations

from typing import NamedTuple

from kalm.reader.phrasing import Draw, fill, texts
from kalm.reader.places import command
from kalm.reader.scenes import TextScene

SHARES = {"one": 0.46, "sequence": 0.15, "both": 0.07, "obstacle": 0.09, "unlisted": 0.18, "other": 0.05}
LISTED = (4, 12)  # numbers of skills in a list
FAMILY = 0.5  # share of lists with a family of skills about one thing and one place
RESPELT = 0.25  # share of skills whose plain sentence is one of their other wordings


class Skill(NamedTuple):
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


class SkillScene(NamedTuple):
    """A list of skills.

    Attributes:
        scene: their plain sentences.
        listed: the skills, in that order.
    """

    scene: TextScene
    listed: tuple[Skill, ...]


def all_skills() -> list[Skill]:
    """Read every skill."""
    return [
        Skill(thing, skill["step"], tuple(skill["say"]), tuple(skill["want"]))
        for thing, skills in texts("skills").items()
        for skill in skills
    ]


def draw_family(draw: Draw) -> list[Skill]:
    """Draw the skills of reaching a place, sliding a thing there and carrying it there."""
    words = texts("courses")
    thing, place = draw.one(list(words["objects"])), draw.one(list(words["places"]))
    found = []
    for family in words["families"]:
        slots = {"o": f"the {thing}", "p": f"the {place}"}
        plain = draw.one(family["step"])
        say = [fill(text, {**slots, **_renamed(draw, thing, place)}) for text in family["say"]]
        want = [fill(text, {**slots, **_renamed(draw, thing, place)}) for text in family["want"]]
        found.append(Skill(f"{thing} {place}", fill(plain, slots), tuple(say), tuple(want)))
    return found


def _renamed(draw: Draw, thing: str, place: str) -> dict[str, str]:
    """Call a thing and a place, now and then, by another name."""
    words = texts("courses")
    other = draw.one([thing, thing, *words["objects"][thing]])
    return {"o": f"the {other}", "p": f"the {draw.one([place, place, *words['places'][place]])}"}


def skill_scene(draw: Draw) -> SkillScene:
    """Draw a list of skills: of some things all, of others a part."""
    by_thing: dict[str, list[Skill]] = {}
    for skill in all_skills():
        by_thing.setdefault(skill.thing, []).append(skill)
    courses = texts("courses")
    size, listed = int(draw.rng.integers(LISTED[0], LISTED[1] + 1)), []
    together = draw.one(courses["both"])["steps"] if draw.chance(0.5) else ()
    taken: set[str] = set()
    if draw.chance(FAMILY):
        family = draw_family(draw)
        listed += family if draw.chance(0.7) else draw.some(family, 2)
        taken |= {"flag", "brick rug", "lamp", "gift"}  # what a family may speak of
    for thing in [
        *(s.thing for s in all_skills() if s.plain in together),
        *draw.some(list(by_thing), len(by_thing)),
    ]:
        if thing in taken or any(thing in group and taken & set(group) for group in courses["alike"]):
            continue
        taken.add(thing)
        part = by_thing[thing]
        needed = [skill for skill in part if skill.plain in together]
        listed += needed or draw.some(part, int(draw.rng.integers(1, len(part) + 1)))
        if len(listed) >= size:
            break
    listed = draw.some(listed[: LISTED[1]], LISTED[1])
    spelt = [_respelt(skill, draw) for skill in listed]
    return SkillScene(TextScene((), tuple(skill.plain for skill in spelt)), tuple(spelt))


def _respelt(skill: Skill, draw: Draw) -> Skill:
    """Now and then let another wording be the plain one."""
    if not draw.chance(RESPELT):
        return skill
    plain = draw.settle(draw.one(skill.say), {})
    rest = tuple(text for text in skill.say if text != plain)
    own = skill.plain[:1].lower() + skill.plain[1:].rstrip(".")
    return skill._replace(plain=f"{plain[:1].upper()}{plain[1:]}.", say=(*rest, own))


def skill_request(listed: SkillScene, draw: Draw) -> tuple[str, tuple[int, ...]] | None:
    """Ask for skills: the text, and the numbers of the plain sentences; empty where none of them will do."""
    skills, words = listed.listed, texts("courses")
    kind = draw.weighted(SHARES)
    numbers = [int(i) for i in draw.rng.permutation(len(skills))[:2]]
    first, second = (skills[i] for i in numbers)
    if kind == "both":
        return _both(listed, draw)
    if kind == "unlisted":
        return _unlisted(listed, draw)
    if kind == "other":
        pattern = draw.pattern([p for p in texts("own_words")["others"] if "_" not in p])
        return draw.settle(pattern, {}), ()
    if kind == "one":
        return _ask(first, draw), (numbers[0],)
    if kind == "sequence":
        pattern = draw.settle(draw.pattern(words["sequences"]), {})
        slots = {"1": _command(first, draw), "2": _command(second, draw), "W": _want(first, draw)}
        return fill(pattern, slots), tuple(numbers)
    pattern = draw.settle(draw.pattern(words["obstacles"]), {})
    return fill(pattern, {"1": _command(first, draw), "b": draw.one(words["barriers"])}), (numbers[0],)


def _ask(skill: Skill, draw: Draw) -> str:
    """Ask for one skill."""
    if draw.chance(0.5):
        return _want(skill, draw)
    return command(_command(skill, draw), draw)


def _command(skill: Skill, draw: Draw) -> str:
    """Draw a command; the plain sentence is one of them."""
    plain = skill.plain[:1].lower() + skill.plain[1:].rstrip(".")
    return draw.settle(draw.one([plain, *skill.say]), {})


def _want(skill: Skill, draw: Draw) -> str:
    """Draw a need or complaint; the last of each skill is held out."""
    kept = skill.want[:-1] if draw.part == "taught" else skill.want[-1:]
    return draw.settle(draw.one(kept or skill.want), {})


def _both(listed: SkillScene, draw: Draw) -> tuple[str, tuple[int, ...]] | None:
    """Ask for what takes two skills."""
    canonical = {skill.plain: skill for skill in all_skills()}
    for course in draw.some(texts("courses")["both"], len(texts("courses")["both"])):
        wanted = [canonical[step] for step in course["steps"]]
        numbers = [_number(listed, skill) for skill in wanted]
        if None not in numbers:
            text = draw.one(course["want"]) if draw.chance(0.5) else command(draw.one(course["say"]), draw)
            return text, tuple(n for n in numbers if n is not None)
    return None


def _number(listed: SkillScene, wanted: Skill) -> int | None:
    """Find a skill in a list by what asks for it: its plain sentence may be another one."""
    return next((n for n, skill in enumerate(listed.listed) if skill.want == wanted.want), None)


def _unlisted(listed: SkillScene, draw: Draw) -> tuple[str, tuple[int, ...]] | None:
    """Ask for a skill that is not in the list, most often one of its things, such as to close what opens."""
    things = {skill.thing for skill in listed.listed}
    missing = [skill for skill in all_skills() if _number(listed, skill) is None]
    near = [skill for skill in missing if skill.thing in things]
    if near and draw.chance(0.8):
        return _ask(draw.one(near), draw), ()
    alike = [set(group) for group in texts("courses")["alike"] if things & set(group)]
    far = [s for s in missing if s.thing not in things and not any(s.thing in group for group in alike)]
    return _ask(draw.one(far), draw), ()
