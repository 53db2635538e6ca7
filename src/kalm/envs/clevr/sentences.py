"""CLEVR-Robot's goals in sentences: patterns (``sentences/*.yaml``) filled for the goals of each level.

A slot such as ``{ball}`` takes the goal's own value; any other slot names a table of the bank and takes its
words for the goal's direction, so that one pattern serves all four. The table is the family of the wording:
complaints take theirs from ``wrong``, and so on.

Unusual: the compositions of level `hard` are read off balls on a small grid, so that they can always hold
together. Their seed is fixed: a suite is a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import permutations, product, repeat
from string import Formatter

import numpy as np

from kalm.envs.clevr.spec import BALLS, DIRECTIONS, SPEC
from kalm.envs.sentences import held_back, read_bank, split_of
from kalm.errors import unknown
from kalm.types import Goal, Instruction, JsonObject

PAIRS = tuple(permutations(BALLS, 2))  # 20 ordered pairs (ball, reference)
PLACES = ("first", "second", "third", "fourth", "fifth")
DRAWS = 4  # compositions per pattern of two or three relations
DRAW_SEED = 2404_09248
Tables = Mapping[str, Mapping[str, str]]
Filling = Iterator[tuple[int, int, str, Goal]]  # (index of the wording, place of its pattern, pattern, goal)


@cache
def suite(level: str) -> tuple[Instruction, ...]:
    """Return all instructions of a level, in a fixed order.

    Raises:
        KalmError: unknown level.
    """
    if level not in _FILLINGS:
        raise unknown("level", level, _FILLINGS)
    bank = read_bank(SPEC.name, level)
    return tuple(
        Instruction(
            text=pattern.format(**_words(goal, bank["tables"])),
            level=level,
            goal=goal,
            wording=f"{level}/{index:02d}",
            held_back=held_back(level, place),
            split=split_of(place),
            family=_family(pattern, bank["tables"]),
        )
        for index, place, pattern, goal in _FILLINGS[level](bank)
    )


def _family(pattern: str, tables: Tables) -> str:
    """Return the table that a pattern takes its words from; lines and gatherings take none."""
    slots = {slot.rstrip("123") for _, slot, _, _ in Formatter().parse(pattern) if slot}
    return "+".join(table for table in tables if table in slots)


def _words(goal: Goal, tables: Tables, number: str = "") -> dict[str, str]:
    """Return what each slot of a goal's patterns stands for; `number` ends the slots of a part of a goal."""
    if goal.kind == "line":
        return dict(zip(PLACES, goal["order"], strict=True))
    if goal.kind == "gather":
        return _named(goal)
    if goal.kind == "all":
        parts = [_words(part, tables, str(n)) for n, part in enumerate(goal["goals"], start=1)]
        return {slot: words for part in parts for slot, words in part.items()}
    words = _named(goal) | {table: words[goal["direction"]] for table, words in tables.items()}
    return {slot + number: value for slot, value in words.items()}


def _named(goal: Goal) -> dict[str, str]:
    """Return the slots of a goal that names things and directions only."""
    return {name: str(value) for name, value in goal.slots}


def _seen(bank: JsonObject) -> Filling:
    """Every pattern for every target configuration: 18 patterns x 20 pairs x 4 directions."""
    for index, pattern in enumerate(bank["patterns"]):
        for pair in PAIRS:
            for direction in DIRECTIONS:
                yield index, index, pattern, _relation(*pair, direction)


def _rephrase(bank: JsonObject) -> Filling:
    """Every pattern for every pair, the directions taking turns: 40 patterns x 20 pairs."""
    for index, pattern in enumerate(bank["patterns"]):
        for number, pair in enumerate(PAIRS):
            yield index, index, pattern, _relation(*pair, DIRECTIONS[(index + number) % len(DIRECTIONS)])


def _easy(bank: JsonObject) -> Filling:
    """Every pattern in every direction for every ball: 20 x 4 wordings x 5 balls."""
    wordings = product(DIRECTIONS, enumerate(bank["patterns"]))
    for index, (direction, (place, pattern)) in enumerate(wordings):
        for ball in BALLS:
            yield index, place, pattern, Goal.of("move", ball=ball, direction=direction)


def _hard(bank: JsonObject) -> Filling:
    """20 lines, 20 gatherings, and 20 patterns each of two and three relations, with `DRAWS` goals each."""
    rng = np.random.default_rng(DRAW_SEED)
    goals = {
        "line": repeat(Goal.of("line", order=bank["order"])),
        "gather": repeat(Goal.of("gather", center=bank["center"])),
        "two": _compositions(2, rng),
        "three": _compositions(3, rng),
    }
    wordings = ((kind, *numbered) for kind in goals for numbered in enumerate(bank[kind]))
    for index, (kind, place, pattern) in enumerate(wordings):
        for _ in range(DRAWS if kind in ("two", "three") else 1):
            yield index, place, pattern, next(goals[kind])


_FILLINGS: dict[str, Callable[[JsonObject], Filling]] = {
    "seen": _seen,
    "rephrase": _rephrase,
    "easy": _easy,
    "hard": _hard,
}


def _relation(ball: str, reference: str, direction: str) -> Goal:
    return Goal.of("relation", ball=ball, reference=reference, direction=direction)


def _compositions(size: int, rng: np.random.Generator) -> Iterator[Goal]:
    """Draw goals of this many relations without end, no two alike; each relation speaks of another ball."""
    drawn = set()
    while True:
        relations = _neighbors(rng)
        chosen = [relations[i] for i in rng.permutation(len(relations))[:size]]
        balls = {part["ball"] for part in chosen}
        pairs = {frozenset((part["ball"], part["reference"])) for part in chosen}
        if len(balls) == len(pairs) == size and frozenset(chosen) not in drawn:
            drawn.add(frozenset(chosen))
            yield Goal("all", (("goals", tuple(chosen)),))


def _neighbors(rng: np.random.Generator) -> list[Goal]:
    """Put the balls on different cells of a 3 x 3 grid and return the relations of those side by side."""
    cells = rng.permutation(9)[: len(BALLS)]
    where = {ball: complex(cell % 3, cell // 3) for ball, cell in zip(BALLS, cells.tolist(), strict=True)}
    toward = dict(zip((1j, -1, -1j, 1), DIRECTIONS, strict=True))
    offsets = {(ball, reference): where[ball] - where[reference] for ball, reference in PAIRS}
    return [_relation(*pair, toward[offset]) for pair, offset in offsets.items() if offset in toward]
