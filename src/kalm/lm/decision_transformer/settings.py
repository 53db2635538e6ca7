"""Settings of the Decision Transformer."""

from __future__ import annotations

from pydantic import Field

from kalm.runs.section import Section


class DecisionTransformerConfig(Section):
    """Decision Transformer on the backbone of `ground`; rollouts and `mix` are those of `train`."""

    steps: int = Field(default=650, gt=0, description="gradient steps")
    row_tokens: int = Field(default=256, gt=0, description="length of a packed row")
    rows: int = Field(default=2, gt=0, description="packed rows per batch")
    body_lr: float = Field(default=4e-4, gt=0, description="learning rate of the backbone")
    new_lr: float = Field(default=1e-3, gt=0, description="learning rate of the new modules")
    warmup: float = Field(
        default=0.05, ge=0, le=1, description="share of steps with rising learning rate; then cosine decay"
    )
    target: float | None = Field(
        default=None,
        description="return that is asked for; None: what successes at goals that read like it earned",
    )
    checkpoint_every: int = Field(default=130, gt=0, description="steps between checkpoints")
    keep_policies: bool = Field(
        default=False, description="store the policy at every checkpoint too (MiniLM: 90 MB each)"
    )
    evaluate_every: int = Field(
        default=0, ge=0, description="steps between looks at success in the simulator; 0: none"
    )
