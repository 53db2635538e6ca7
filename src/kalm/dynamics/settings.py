"""Settings of the models of what actions do to states, and of what they are asked about imagined rollouts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from kalm.runs.section import Section, Widths


class DynamicsConfig(Section):
    """Models of what actions do to states, fitted on real rollouts: they label and judge imagined ones."""

    members: int = Field(
        default=5, ge=0, description="forward models in the ensemble that judges imagined steps; 0: none"
    )
    hidden: Widths = Field(default=(256, 256), description="hidden layers of every model")
    forward_steps: int = Field(
        default=2_500, gt=0, description="largest number of gradient steps of the ensemble"
    )
    inverse_steps: int = Field(
        default=2_000, gt=0, description="largest number of gradient steps of the inverse model"
    )
    batch: int = Field(default=256, gt=0, description="transitions per step and model")
    lr: float = Field(default=2e-3, gt=0, description="learning rate")
    held_out: float = Field(
        default=0.05, gt=0, lt=1, description="share of the real rollouts that judges the models"
    )
    evaluate_every: int = Field(
        default=250, gt=0, description="steps between measurements of the held-out loss"
    )
    patience: int = Field(
        default=3, ge=0, description="measurements without a smaller held-out loss before stopping"
    )


class RefineConfig(Section):
    """What happens to imagined rollouts before they are stored: actions, and which are kept or count less."""

    relabel: bool = Field(
        default=False, description="actions are read off the imagined states by an inverse model of real data"
    )
    plausibility: Literal["keep", "drop", "weight"] = Field(
        default="keep",
        description="rollouts that could not have happened or miss their goal: keep them, drop them, or let "
        "them count less in training",
    )
    tolerance: float = Field(
        default=2.0,
        gt=0,
        description="a step is surprising beyond this many times what 99 % of real steps keep to: how far "
        "forward models are from each other, and from the next state",
    )
    plausible_share: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="plausibility=drop: smallest share of unsurprising steps of a kept rollout; none of its "
        "steps is impossible",
    )
    least_weight: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="plausibility=weight: weight of a rollout without any such step, or that misses its goal",
    )
