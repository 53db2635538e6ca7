"""Settings of the models of what actions do to states."""

from __future__ import annotations

from pydantic import Field

from kalm.run.section import Section, Widths


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
