"""Settings of collection: how many real rollouts, and how the expert acts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kalm.runs.section import Section
from kalm.types import Conditions


class CollectConfig(Section):
    """Real rollouts: the world's expert acting on `seen` instructions."""

    rollouts: int = Field(default=20_000, gt=0, description="rollouts to keep")
    noise: float = Field(default=0.1, ge=0, le=1, description="probability of a uniformly random action")
    keep: Literal["successful", "all"] = Field(
        default="successful", description="which rollouts enter the data"
    )
    conditions: Conditions = Field(
        default="plain",
        description="tested: as policies are measured; varied: in more ways (Meta-World: distractors)",
    )
    shard: int = Field(
        default=1_000, gt=0, description="rollouts per file; a stopped collection resumes at the next file"
    )
