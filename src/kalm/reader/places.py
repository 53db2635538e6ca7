"""Requests about places: what should stand where, in one relation or several, in rows, around one thing.

Each function returns the text of a request and the relations that it asks for, or None where the scene
lacks a direction that it needs. Conventions: `behind` is away from the viewer; who complains that one thing
is behind another wants it in front; a row is told neighbour by neighbour in the order of its words; around
a thing every other one has a side of its own, in the order of the scene and of its directions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from kalm.reader.phrasing import Draw, fill, texts
from kalm.reader.scenes import OPPOSITE, Namer, Relation, TextScene

Asked = tuple[str, tuple[Relation, ...]]
Writer = Callable[[TextScene, Draw], "Asked | None"]

SINGLE = {"commands": 0.26, "wishes": 0.28, "contrasts": 0.06, "having": 0.12, "complaints": 0.28}
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven"}
LISTS = [
    (", ", " and "),
    (", ", ", and "),
    (", ", ", "),
    (", then ", ", then "),
    (" then ", " then "),
    (", ", ", finally "),
    (" - ", " - "),
]
STANDS = ("is", "is", "stands", "lies", "sits", "comes", "is placed", "rests", "can be seen")
WANTED = ("should be", "goes", "belongs", "must be", "should stand", "has to be", "comes", "needs to be")


def where(direction: str, draw: Draw, table: str = "") -> str:
    """Draw words for a direction: with `_y` in them, or of table ``its``, about what was named before."""
    words = texts("relations")
    if direction in ("left", "right"):
        return draw.settle(draw.one(words[f"{table}side"]), {}).replace("_s", direction)
    return draw.settle(draw.one(words[f"{table}{direction}"]), {})


def command(text: str, draw: Draw) -> str:
    """Say a command more or less politely, now or later, with this or that beside it."""
    words = texts("relations")
    polite = draw.settle(draw.pattern(words["polite"]), {}) or "_"
    said = polite if polite.endswith("?") else polite + draw.settle(draw.pattern(words["after"]), {})
    if draw.chance(0.25):
        before = draw.settle(draw.pattern(words["before"]), {}) or "_"
        said = before.replace("_", said)
    return said.replace("_", text)


def relation(scene: TextScene, draw: Draw) -> Asked | None:
    """Ask for one relation."""
    x, y = draw.some(scene.things, 2)
    direction = draw.one(scene.directions)
    family = draw.weighted(SINGLE)
    if family == "complaints" and OPPOSITE[direction] not in scene.directions:
        return None
    slots = relation_slots(scene, draw, (x, direction, y))
    if family == "commands":
        text = command("_v _x _p", draw)
    else:
        text = draw.settle(draw.pattern(texts("relations")[family]), {})
    return fill(text, slots), ((x, direction, y),)


def relation_slots(
    scene: TextScene, draw: Draw, asked: Relation, name: Namer | None = None
) -> dict[str, str]:
    """Return what the slots of patterns about one relation stand for."""
    x, direction, y = asked
    name, words = name or Namer(scene, draw), texts("relations")
    verb, participle, gerund = draw.one(words["verbs"]).split("/")
    wrong = OPPOSITE[direction]
    return {
        "x": name.first(x),
        "y": name.second(y),
        "v": verb,
        "ved": participle,
        "ving": gerund,
        "p": where(direction, draw),
        "w": where(wrong, draw),
        "h": where(direction, draw, "its_"),
        "hp": where(direction, draw, "its_") if draw.chance(0.6) else where(direction, draw),
        "wp": where(wrong, draw, "its_") if draw.chance(0.5) else where(wrong, draw),
        "d": draw.one(words["word"][direction]),
    }


def chain(scene: TextScene, draw: Draw) -> Asked | None:
    """Ask for several relations in one request."""
    count = min(int(draw.weighted({"2": 0.5, "3": 0.38, "4": 0.12})), len(scene.things))
    asked = _different(scene, draw, count)
    kind = draw.weighted({"commands": 0.3, "bare": 0.35, "states": 0.2, "wishes": 0.15})
    shape = draw.settle(draw.pattern(texts("chains")[kind]), {})
    single, name = _clause(kind, draw), Namer(scene, draw)
    clauses = [fill(single(draw), relation_slots(scene, draw, part, name)) for part in asked]
    inner, last = draw.one(texts("chains")["joints"])
    joined = _join(clauses, inner, last)
    slots = {"c": joined, "b": joined, "i": joined, "s": joined, "n": NUMBERS[count]}
    slots |= {"1": _join(clauses[:-1], inner, " and "), "2": clauses[-1]}
    return fill(shape, slots), asked


def _clause(kind: str, draw: Draw) -> Callable[[Draw], str]:
    """Return how the clauses of a chain are built: all alike, or each in its own way."""
    mixed = draw.chance(0.3)
    stands, wanted, verb = (
        draw.one(STANDS),
        draw.one(WANTED),
        draw.one(texts("relations")["verbs"]).split("/")[0],
    )

    def build(again: Draw) -> str:
        if kind == "commands":
            return "_v _x _p" if mixed else f"{verb} _x _p"
        if kind == "states":
            return f"_x {again.one(STANDS) if mixed else stands} _p"
        if kind == "wishes":
            return f"_x {again.one(WANTED) if mixed else wanted} _p"
        return "_x _p"

    return build


def _different(scene: TextScene, draw: Draw, count: int) -> tuple[Relation, ...]:
    """Draw relations of different things, no pair twice."""
    movers = draw.some(scene.things, count)
    asked: list[Relation] = []
    for mover in movers:
        pairs = {frozenset((x, y)) for x, _, y in asked}
        free = [y for y in scene.things if y != mover and frozenset((mover, y)) not in pairs]
        if free:
            asked.append((mover, draw.one(scene.directions), draw.one(free)))
    return tuple(asked)


def row(scene: TextScene, draw: Draw) -> Asked | None:
    """Ask for a row."""
    way = draw.weighted({"left_first": 0.62, "right_first": 0.24, "near_first": 0.08, "far_first": 0.06})
    follows = {"left_first": "right", "right_first": "left", "near_first": "behind", "far_first": "front"}[
        way
    ]
    if follows not in scene.directions or len(scene.things) < 3:
        return None
    count = len(scene.things) if draw.chance(0.75) else int(draw.rng.integers(3, len(scene.things) + 1))
    order = draw.some(scene.things, count)
    name, style = Namer(scene, draw), draw.weighted({"bare": 0.6, "first": 0.25, "full": 0.15})
    called = [{"bare": name.bare, "first": name.first, "full": str}[style](thing) for thing in order]
    if style == "bare" and draw.chance(0.15):
        called = [f"the {text} one" if scene.alike else f"the {text}" for text in called]
    inner, last = draw.one(LISTS)
    slots = {
        "l": _join(called, inner, last),
        "1": called[0],
        "2": called[1],
        "z": called[-1],
        "m": _join(called[1:-1], inner, last),
        "r": _join(called[1:], inner, last),
        "q": _join(called[:-1], inner, last),
        "rest": _join(called[2:], inner, last),
    }
    text = fill(draw.settle(draw.pattern(texts("rows")[way]), {}), slots)
    return text, tuple((after, follows, before) for before, after in zip(order, order[1:], strict=False))


def gathering(scene: TextScene, draw: Draw) -> Asked | None:
    """Ask for everything else around one thing."""
    center = draw.one(scene.things)
    others = [thing for thing in scene.things if thing != center]
    if len(others) > len(scene.directions):
        return None
    name, words = Namer(scene, draw), texts("gatherings")
    general = fill(
        draw.one(words["others"]),
        {
            "N": name.plural,
            "1": name.plural.removesuffix("s") if scene.alike else "thing",
            "n": NUMBERS[len(others)],
        },
    )
    text = draw.settle(draw.pattern(words["patterns"]), {})
    asked = zip(others, scene.directions, strict=False)
    return fill(text, {"c": name.first(center), "o": general}), tuple((o, d, center) for o, d in asked)


def nothing(scene: TextScene, draw: Draw) -> Asked | None:
    """Ask for what no plan can say: a move without reference, other deeds, a thing that is not there."""
    words = texts("own_words")
    kind = draw.weighted({"moves": 0.4, "others": 0.25, "absent": 0.28, "foreign": 0.07})
    pattern = draw.pattern(words[kind])
    if kind == "foreign":
        return pattern, ()
    x, y, other = draw.some(scene.things, 3)
    slots = relation_slots(scene, draw, (x, draw.one(scene.directions), y))
    name = Namer(scene, draw)
    absent, second = _absent(scene, draw, name), _absent(scene, draw, name)
    slots |= {
        "x2": name.second(other),
        "a": absent,
        "a2": second,
        "pb": slots["p"],
        "wb": slots["w"],
        "pa": slots["p"].replace("_y", "_a"),
        "pa2": slots["p"].replace("_y", "_a2"),
        "wa": slots["w"].replace("_y", "_a"),
    }
    return fill(draw.settle(pattern, {"where": words["where"], "further": words["further"]}), slots), ()


def _absent(scene: TextScene, draw: Draw, name: Namer) -> str:
    """Name a thing that the scene does not hold, by what tells its things apart."""
    words = texts("things")
    adjectives = [a for a in (*words["colours"], *words["marks"]) if not any(a in t for t in scene.things)]
    known = {word for thing in scene.things for word in thing.split()}
    nouns = [noun for noun in words["nouns"] if noun not in known and not known & set(words["nouns"][noun])]
    if scene.alike:
        noun = draw.one([scene.things[0].rsplit(" ", 1)[-1], "one", draw.one(nouns)])
        return f"the {draw.one(adjectives)} {noun}"
    return f"the {draw.one([f'{draw.one(adjectives)} {draw.one(nouns)}', draw.one(nouns)])}"


def _join(parts: Sequence[str], inner: str, last: str) -> str:
    """Join texts; the last one is joined in its own way."""
    if len(parts) < 2:
        return "".join(parts)
    return f"{inner.join(parts[:-1])}{last}{parts[-1]}"
