"""The tree of settings: one section per stage, each a class that stands in the room it sets.

What holds for a whole run, and the online loop, which goes through all stages, are set here.
"""

from __future__ import annotations

from pydantic import Field, field_validator

from kalm.data.settings import CollectConfig
from kalm.dynamics.settings import DynamicsConfig
from kalm.evaluation.settings import EvaluateConfig, InspectConfig
from kalm.lm.decision_transformer.settings import DecisionTransformerConfig
from kalm.lm.settings import GroundConfig, ImagineConfig
from kalm.reader.settings import TeachConfig
from kalm.report.settings import ReportConfig
from kalm.rl.settings import TrainConfig
from kalm.runs.section import Section
from kalm.types import LEVELS


class OnlineConfig(Section):
    """The online loop: trained policies collect, and grounding, imagining and training go on from there."""

    rounds: int = Field(default=0, ge=0, description="rounds after the first training; 0: none")
    algorithm: str | None = Field(
        default=None,
        description="whose +KALM policies collect; None: the first of train.algorithms that learns",
    )
    episodes: int = Field(
        default=500, gt=0, description="episodes played per level in a round; successful ones are kept"
    )
    levels: tuple[str, ...] = Field(
        default=LEVELS, description="levels whose goals are played; held-back wordings never are"
    )
    ground_epochs: float = Field(default=0.1, gt=0, description="passes over the examples in a round")
    ground_lr: float = Field(
        default=0.5, gt=0, description="learning rates of grounding in a round, as a share of the first"
    )
    network_steps: int = Field(default=500, gt=0, description="steps of the transition network in a round")
    train_steps: int = Field(default=2_000, gt=0, description="gradient steps of every policy in a round")

    @field_validator("levels")
    @classmethod
    def _known(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
        if not levels or set(levels) - set(LEVELS):
            raise ValueError(f"{', '.join(levels) or 'none'}: give some of {', '.join(LEVELS)}")
        return levels


class Config(Section):
    """A whole run."""

    env: str = Field(default="clevr", description="environment")
    seed: int = Field(default=0, ge=0, le=2**63 - 1, description="root of all random numbers of the run")
    device: str = Field(default="auto", description="cpu, cuda, cuda:1 or auto")
    reader: str = Field(
        default="smollm2",
        description="what reads sentences to plain ones, where imagine.reading or evaluate.readings say so: "
        "smollm2 (the taught one that comes with kalm), the folder of a taught one, or an instruct model by "
        "hub name, folder or GGUF file",
    )
    workers: int = Field(default=2, gt=0, description="processes or threads for simulation")
    collect: CollectConfig = CollectConfig()
    ground: GroundConfig = GroundConfig()
    imagine: ImagineConfig = ImagineConfig()
    dynamics: DynamicsConfig = DynamicsConfig()
    train: TrainConfig = TrainConfig()
    decision_transformer: DecisionTransformerConfig = DecisionTransformerConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    online: OnlineConfig = OnlineConfig()
    inspect: InspectConfig = InspectConfig()
    report: ReportConfig = ReportConfig()
    teach: TeachConfig = TeachConfig()
