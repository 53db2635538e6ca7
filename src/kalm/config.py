"""All settings, one model per stage, each field written once with its meaning and default.

A run's settings are: the defaults here, then a preset (``presets/*.yaml``), then
``--set section.field=value``. The resolved result is stored in the run folder, and a stage is repeated only
when its own section changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kalm.errors import KalmError, unknown


class Section(BaseModel):
    """Settings of one stage; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CollectConfig(Section):
    """Real rollouts: the world's expert acting on `seen` instructions."""

    rollouts: int = Field(default=20_000, gt=0, description="rollouts to keep")
    noise: float = Field(default=0.1, ge=0, le=1, description="probability of a uniformly random action")
    keep: Literal["successful", "all"] = Field(
        default="successful", description="which rollouts enter the data"
    )
    shard: int = Field(
        default=1_000, gt=0, description="rollouts per file; a stopped collection resumes at the next file"
    )


class GroundConfig(Section):
    """Supervised fine-tuning of the language model (paper section 4.1)."""

    backbone: str = Field(default="minilm", description="`minilm`, a hub name, or a folder with a causal LM")
    attention: Literal["auto", "causal", "prefix"] = Field(
        default="auto",
        description="prefix: the prompt is read in both directions; auto: prefix for BERT-style backbones",
    )
    state_target: Literal["change", "absolute"] = Field(
        default="change", description="what the state head predicts"
    )
    generation: float = Field(
        default=1.0, ge=0, description="share of rollouts that give a goal-to-rollout example"
    )
    explanation: float = Field(default=1.0, ge=0, description="share that give a rollout-to-goal example")
    dynamics: float = Field(default=1.0, ge=0, description="share that give a next-state example")
    text_weight: float = Field(default=0.25, ge=0, description="weight of the cross-entropy on words")
    state_weight: float = Field(default=1.0, ge=0, description="weight of the squared error on states")
    action_weight: float = Field(default=1.0, ge=0, description="weight of the action loss")
    rollouts: int | None = Field(default=None, description="use this many rollouts of the data; None: all")
    epochs: float = Field(default=1.0, gt=0, description="passes over the examples")
    row_tokens: int = Field(default=256, gt=0, description="length of a packed row")
    rows: int = Field(default=2, gt=0, description="packed rows per batch")
    body_lr: float = Field(
        default=4e-4, ge=0, description="learning rate of the pre-trained body; 0 freezes it"
    )
    new_lr: float = Field(default=1e-3, gt=0, description="learning rate of the new state and action modules")
    train_embeddings: bool = Field(
        default=False, description="also train the token embedding and the text head's weights"
    )
    warmup: float = Field(
        default=0.05, ge=0, le=1, description="share of steps with rising learning rate; then cosine decay"
    )
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW weight decay")
    clip: float = Field(default=1.0, gt=0, description="largest gradient norm")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 where the processor computes in it, else float32"
    )
    held_out: int = Field(default=256, gt=0, description="rollouts kept out of training, for losses")
    evaluate_every: int = Field(
        default=200, gt=0, description="steps between held-out losses and quick match rates"
    )
    match_rollouts: int = Field(
        default=64, ge=0, description="rollouts per level in the quick match rates; 0: none"
    )
    checkpoint_every: int = Field(default=200, gt=0, description="steps between checkpoints")


class ImagineConfig(Section):
    """Imagined rollouts (paper section 4.2)."""

    prompt: Literal["goal-oriented", "generation"] = Field(
        default="goal-oriented",
        description="prompt at imagination: the paper's, or the one of the generation task",
    )
    rephrase: int = Field(default=10, ge=0, description="rollouts per `rephrase` instruction")
    easy: int = Field(default=20, ge=0, description="rollouts per `easy` instruction")
    hard: int = Field(default=10, ge=0, description="rollouts per `hard` instruction")
    seen: int = Field(default=0, ge=0, description="rollouts per `seen` instruction")
    per_file_instruction: int = Field(default=10, gt=0, description="rollouts per instruction of a goal file")
    horizon: int | None = Field(default=None, description="largest number of actions; None: the world's")
    batch: int = Field(default=512, gt=0, description="rollouts decoded together")
    temperature: float = Field(
        default=0.0, ge=0, description="sampling temperature of discrete actions; 0: argmax"
    )
    shard: int = Field(
        default=2_048, gt=0, description="rollouts per file; a stopped imagination resumes at the next file"
    )


class TrainConfig(Section):
    """Offline RL on real and imagined rollouts (paper section 4.3)."""

    algorithms: tuple[str, ...] = Field(
        default=("bc", "cql"), description="learners, each plain and with imagined rollouts"
    )
    seeds: tuple[int, ...] = Field(default=(0, 1), description="one policy per seed")
    steps: int = Field(default=20_000, gt=0, description="gradient steps")
    batch: int = Field(default=256, gt=0, description="transitions per step")
    mix: float = Field(default=0.5, ge=0, le=1, description="share of each batch that is imagined")
    real_rollouts: int | None = Field(default=6_400, description="real rollouts the learners see; None: all")
    imagined: Literal["successful", "all"] = Field(
        default="successful",
        description="imagined rollouts the learners see: those whose states reach the goal, or all",
    )
    per_level: bool = Field(default=False, description="one policy per novel level, as the paper does")
    encoder: str = Field(
        default="minilm", description="frozen sentence encoder: `minilm`, a hub name or a folder"
    )
    hidden: tuple[int, ...] = Field(default=(256, 256), description="hidden layers of the policy network")
    lr: float = Field(default=1e-3, gt=0, description="learning rate")
    gamma: float = Field(default=0.99, ge=0, le=1, description="discount")
    cql_alpha: float = Field(default=10.0, ge=0, description="weight of CQL's conservative term (paper: 10)")
    checkpoint_every: int = Field(default=5_000, gt=0, description="steps between checkpoints")


class EvaluateConfig(Section):
    """Closed-loop success in the simulator."""

    episodes: int = Field(default=111, gt=0, description="episodes per level, policy and seed")
    horizon: int | None = Field(default=None, description="largest number of actions; None: the world's")


class ReportConfig(Section):
    """The page of tables and figures."""

    filmstrips: int = Field(
        default=3, ge=0, description="imagined rollouts drawn beside the policy's real ones"
    )


class Config(Section):
    """A whole run."""

    env: str = Field(default="clevr", description="world")
    seed: int = Field(default=0, ge=0, description="root of all random numbers of the run")
    device: str = Field(default="auto", description="cpu, cuda, cuda:1 or auto")
    workers: int = Field(default=2, gt=0, description="processes or threads for simulation")
    collect: CollectConfig = CollectConfig()
    ground: GroundConfig = GroundConfig()
    imagine: ImagineConfig = ImagineConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    report: ReportConfig = ReportConfig()


def presets() -> list[str]:
    """Return the names of the presets that ship with the library."""
    folder = files("kalm") / "presets"
    return sorted(entry.name[: -len(".yaml")] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load(preset: str | None = None, overrides: Iterable[str] = (), **top: Any) -> Config:
    """Resolve settings: defaults, then the preset, then ``top`` fields, then ``section.field=value`` strings.

    Raises:
        KalmError: unknown preset, section or field (lists those that exist), or a value out of range.
    """
    data: dict[str, Any] = {}
    if preset is not None:
        if preset not in presets():
            raise unknown("preset", preset, presets())
        data = yaml.safe_load((files("kalm") / "presets" / f"{preset}.yaml").read_text("utf-8")) or {}
    data.update({name: value for name, value in top.items() if value is not None})
    for override in overrides:
        _apply(data, override)
    return parse(data)


def parse(data: dict[str, Any]) -> Config:
    """Check plain data (from YAML or JSON) and return the settings."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise _readable(error) from None


def _apply(data: dict[str, Any], override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals:
        raise KalmError(f"--set {override!r} has no '='. Write section.field=value, e.g. train.steps=5000.")
    *sections, name = path.strip().split(".")
    target = data
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise KalmError(f"--set {override!r}: {section!r} is a value, not a section.")
    try:
        target[name] = yaml.safe_load(value)
    except yaml.YAMLError:
        raise KalmError(f"--set {override!r}: {value!r} is not a YAML value.") from None


def _readable(error: ValidationError) -> KalmError:
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(str(unknown("field", place, _fields(item["loc"][:-1]))))
        else:
            lines.append(f"{place}: {item['msg']}, got {item['input']!r}.")
    return KalmError("settings: " + " ".join(lines))


def _fields(path: tuple[int | str, ...]) -> list[str]:
    """List what may stand at this place, with its section in front, as one would type it."""
    model: type[BaseModel] = Config
    for part in path:
        model = type(model.model_fields[str(part)].default)
    prefix = "".join(f"{part}." for part in path)
    return [prefix + name for name in model.model_fields]
