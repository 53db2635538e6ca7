"""What the sentences of all environments share: banks of patterns (YAML, data), and how these are divided.

Patterns stand in lists, one per level and kind of goal, and their place in the list decides:

* every fifth of a novel level is held back from imagination: policies are measured on sentences that no
  rollout was imagined for;
* every third is of the split `tune`, on which settings are chosen, all others are of `test`, which is what
  figures are reported of. The second is the first of `tune`, so two patterns are enough to be on both sides,
  and ten have one that is held back on either.

Unusual: sentences of the level `seen` are divided too. All of them are training data, but what settings were
chosen on stays apart from what is reported, in words and in initial states.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Protocol

import yaml

from kalm.errors import KalmError
from kalm.types import NOVEL_LEVELS, Goal, Instruction, JsonObject, Split, SplitChoice

HELD_BACK_EVERY = 5
TUNE_EVERY = 3


class HasSuites(Protocol):
    """What has instructions, level by level: any `kalm.envs.base.World`."""

    def suite(self, level: str) -> tuple[Instruction, ...]:
        """Return all instructions of a level."""
        ...


def held_back(level: str, place: int) -> bool:
    """Whether nothing is imagined for the pattern at this place of its list."""
    return level in NOVEL_LEVELS and place % HELD_BACK_EVERY == HELD_BACK_EVERY - 1


def split_of(place: int) -> Split:
    """Return the side that the pattern at this place of its list is on."""
    return "tune" if place % TUNE_EVERY == 1 else "test"


def of_split(instructions: Iterable[Instruction], split: SplitChoice) -> list[Instruction]:
    """Return the instructions of a split; those that are not divided belong to either."""
    return [one for one in instructions if split == "all" or one.split in ("", split)]


def require_split(instructions: Sequence[Instruction], split: SplitChoice) -> list[Instruction]:
    """Return the instructions of a split. Raises KalmError: it has none of one of the given ones' levels."""
    found = of_split(instructions, split)
    there = {one.level for one in found}
    for one in instructions:
        if one.level not in there:
            raise KalmError(
                f"no sentence of level {one.level!r} is of the split {split!r}. Of every list of patterns "
                "the second, fifth, eighth, ... are of `tune`, all others of `test`: write more, or measure "
                "the split 'all'."
            )
    return found


def read_bank(environment: str, level: str) -> JsonObject:
    """Read the bank of a level: ``kalm/envs/ENVIRONMENT/sentences/LEVEL.yaml``."""
    bank = resources.files(f"kalm.envs.{environment}").joinpath("sentences", f"{level}.yaml")
    return yaml.safe_load(bank.read_text("utf-8"))


def plain_steps(world: HasSuites) -> dict[Goal, Instruction]:
    """Return the plainest sentence of each goal that the data have: the first of the suite `seen`."""
    found: dict[Goal, Instruction] = {}
    for instruction in world.suite("seen"):
        found.setdefault(instruction.goal, instruction)
    return found
