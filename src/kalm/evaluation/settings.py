"""Settings of what is measured: success in the simulator, and the grounded model itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kalm.runs.section import Section
from kalm.types import SplitChoice


class EvaluateConfig(Section):
    """Closed-loop success in the simulator."""

    episodes: int | None = Field(
        default=None,
        gt=0,
        description="episodes per level, policy and seed; None: 111, or every line of a goal file once",
    )
    checkpoints: int = Field(
        default=1,
        gt=0,
        description="last checkpoints that share a policy's episodes: their mean is its score (paper: 5)",
    )
    horizon: int | None = Field(
        default=None, gt=0, description="largest number of actions; None: the environment's"
    )
    readings: tuple[Literal["off", "reader", "parts"], ...] = Field(
        default=("off",),
        min_length=1,
        description="how policies are asked; each plays once per way. off: in the sentence; reader: in "
        "the plain sentences of the data that it is read to, one after another. parts: in those that the "
        "goal's own structure gives, for comparison only",
    )
    split: SplitChoice | None = Field(
        default=None,
        description="sentences and initial states that are played: tune, test or all; None: test, but tune "
        "for a sweep that is not final",
    )

    @property
    def played(self) -> SplitChoice:
        """The split that is played where none is asked for too."""
        return self.split or "test"


class InspectConfig(Section):
    """What the grounded model can do, measured in detail (paper sections 5.3 and 5.4)."""

    rollouts: int = Field(default=64, gt=0, description="imagined rollouts per level")
    explanations: int = Field(default=128, gt=0, description="real rollouts explained, with either prompt")
    split: SplitChoice = Field(
        default="test", description="sentences and initial states that are measured: tune, test or all"
    )
    transitions: int = Field(default=512, gt=0, description="real transitions, and as many random ones")
