"""What the sentences of all environments share: banks of patterns (YAML, data), and wordings held back.

Every fifth pattern of a novel level is held back from imagination: policies are measured on sentences that no
rollout was imagined for.
"""

from __future__ import annotations

from importlib import resources

import yaml

from kalm.types import NOVEL_LEVELS, JsonObject

HELD_BACK_EVERY = 5


def held_back(level: str, index: int) -> bool:
    """Whether nothing is imagined for this wording of a level."""
    return level in NOVEL_LEVELS and index % HELD_BACK_EVERY == HELD_BACK_EVERY - 1


def read_bank(environment: str, level: str) -> JsonObject:
    """Read the bank of a level: ``kalm/envs/ENVIRONMENT/sentences/LEVEL.yaml``."""
    bank = resources.files(f"kalm.envs.{environment}").joinpath("sentences", f"{level}.yaml")
    return yaml.safe_load(bank.read_text("utf-8"))
