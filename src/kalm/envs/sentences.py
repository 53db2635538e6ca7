"""What the sentences of all environments share: banks of patterns (YAML, data), and wordings held back.

Every fifth pattern of a novel level is held back from imagination: policies are measured on sentences that no
rollout was imagined for.
"""

from __future__ import annotations

from importlib import resources
from typing import Protocol

import yaml

from kalm.types import NOVEL_LEVELS, Goal, Instruction, JsonObject

HELD_BACK_EVERY = 5


class HasSuites(Protocol):
    """What has instructions, level by level: any `kalm.envs.base.World`."""

    def suite(self, level: str) -> tuple[Instruction, ...]:
        """Return all instructions of a level."""
        ...


def held_back(level: str, index: int) -> bool:
    """Whether nothing is imagined for this wording of a level."""
    return level in NOVEL_LEVELS and index % HELD_BACK_EVERY == HELD_BACK_EVERY - 1


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
