"""Settings of the reader: how it is taught."""

from __future__ import annotations

from pydantic import Field

from kalm.runs.section import Section


class TeachConfig(Section):
    """How a small language model is taught to read requests."""

    base: str = Field(default="smollm2", description="language model: its name, a hub name or a folder")
    steps: int = Field(default=760, gt=0, description="gradient steps")
    lessons: int = Field(default=2, gt=0, description="scenes per step")
    requests: int = Field(default=8, gt=1, description="requests about each scene")
    lr: float = Field(default=1e-3, gt=0, description="largest learning rate; it falls to 0")
    warmup: float = Field(default=0.05, ge=0, le=1, description="share of steps with a rising learning rate")
    weight_decay: float = Field(default=0.0, ge=0, description="of AdamW")
    clip: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    rank: int = Field(default=16, gt=0, description="rank of the adapters")
    alpha: int = Field(default=32, gt=0, description="adapters are scaled by alpha / rank")
    first_layer: int = Field(default=12, ge=0, description="first layer with adapters; those below stay")
    held_out: int = Field(default=40, gt=0, description="scenes of held-out wordings that measure the reader")
    checkpoint_every: int = Field(default=40, gt=0, description="steps between checkpoints")
