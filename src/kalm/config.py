"""All settings, one model per stage, each field written once with its meaning and default.

A run's settings are: the defaults here, then a preset (``presets/*.yaml``, or a world's own form of it in
``presets/WORLD/*.yaml``, or any file of the user's), then ``--set section.field=value``. The resolved result
is stored in the run folder, and a stage is repeated only when its own section changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from kalm.errors import KalmError, unknown
from kalm.run.section import Section
from kalm.types import LEVELS, Conditions


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
    still_gate: bool = Field(
        default=True, description="a gate decides which entities move at all; only for state changes"
    )
    state_network: bool = Field(
        default=True,
        description="imagined states come from a network fitted on the data's transitions, not from the head",
    )
    network_steps: int = Field(default=2_000, gt=0, description="steps of fitting that network")
    network_horizon: int = Field(
        default=1, gt=0, description="steps it then walks by itself; more where small errors add up"
    )
    entity_tokens: bool = Field(
        default=False,
        description="one token per object before each state, from the model's own embedding of its name",
    )
    relations: bool = Field(
        default=False, description="states are embedded with headings and distances between objects"
    )
    memory: bool = Field(
        default=True,
        description="actions are chosen from all that came before; false: from goal and present state alone",
    )
    state_to_action: bool = Field(
        default=False, description="the action head is also given the numbers of the present state"
    )
    action_bins: int = Field(
        default=0,
        ge=0,
        description="values per number of a continuous action that are rated, of which the likeliest is "
        "taken; 0: actions come from a squared error",
    )
    generation: float = Field(
        default=1.0, ge=0, description="share of rollouts that give a goal-to-rollout example"
    )
    explanation: float = Field(default=1.0, ge=0, description="share that give a rollout-to-goal example")
    dynamics: float = Field(default=1.0, ge=0, description="share that give a next-state example")
    text_replay: float = Field(
        default=0.0, ge=0, description="plain texts about things in space, as a share of the rollouts"
    )
    text_weight: float = Field(default=0.25, ge=0, description="weight of the cross-entropy on words")
    state_weight: float = Field(default=1.0, ge=0, description="weight of the squared error on states")
    action_weight: float = Field(default=1.0, ge=0, description="weight of the action loss")
    rollouts: int | None = Field(default=None, description="use this many rollouts of the data; None: all")
    epochs: float = Field(default=1.0, gt=0, description="passes over the examples")
    row_tokens: int = Field(default=256, gt=0, description="length of a packed row")
    rows: int = Field(default=2, gt=0, description="packed rows per batch")
    accumulate: int = Field(
        default=1, gt=0, description="parts that a process works through one by one per batch: less memory"
    )
    compile: bool = Field(
        default=False, description="compile the model; rows then always have `row_tokens` tokens"
    )
    tuning: Literal["full", "lora", "frozen"] = Field(
        default="full",
        description="what learns of the body: all of it, low-rank adapters beside it, or nothing",
    )
    lora_rank: int = Field(default=16, gt=0, description="rank of the adapters (`tuning: lora`)")
    lora_alpha: int = Field(default=32, gt=0, description="adapters are scaled by alpha / rank")
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout in front of the adapters")
    pretrained: bool = Field(
        default=True,
        description="false: a random body of the same size; add train_embeddings, or words stay random",
    )
    weights: Literal["float32", "bfloat16"] = Field(
        default="float32", description="how the body is stored; bfloat16 halves what does not learn"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="keep one state per layer and compute the rest twice: less memory, slower"
    )
    body_lr: float = Field(
        default=4e-4, gt=0, description="learning rate of the body or its adapters (see tuning)"
    )
    new_lr: float = Field(default=1e-3, gt=0, description="learning rate of the new state and action modules")
    train_embeddings: bool = Field(
        default=False, description="also train the token embedding and the text head's weights"
    )
    warmup: float = Field(
        default=0.05, ge=0, le=1, description="share of steps with rising learning rate; then cosine decay"
    )
    language_steps: int = Field(
        default=0, ge=0, description="steps of language warm-up before grounding; 0: none"
    )
    language_contrasts: int = Field(
        default=4, gt=0, description="contrasts per batch of the language warm-up, of 12 sentences each"
    )
    language_lr: float = Field(default=3e-4, gt=0, description="learning rate of the language warm-up")
    language_text_weight: float = Field(
        default=0.25, ge=0, description="language warm-up: weight of producing the plain meaning as text"
    )
    language_contrast_weight: float = Field(
        default=1.0, ge=0, description="language warm-up: weight of telling paraphrases from near misses"
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
    explain_rollouts: int = Field(
        default=64, ge=0, description="held-out rollouts that are explained in words at each look; 0: none"
    )
    checkpoint_every: int = Field(default=200, gt=0, description="steps between checkpoints")

    @model_validator(mode="after")
    def _fits_together(self) -> GroundConfig:
        if self.tuning == "full" and self.weights == "bfloat16":
            raise ValueError(
                "tuning=full needs weights=float32, since bfloat16 rounds small steps away; "
                "precision=bfloat16 computes in it all the same"
            )
        if self.still_gate and self.state_target == "absolute":
            raise ValueError("still_gate needs state_target=change; set still_gate=false")
        if self.action_bins in (1, 2):
            raise ValueError(
                f"action_bins={self.action_bins} cannot tell actions apart; take 3 or more, or 0 for none"
            )
        if self.tuning == "frozen" and self.train_embeddings:
            raise ValueError("tuning=frozen leaves words alone; use tuning=lora or train_embeddings=false")
        return self


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
    conditions: Conditions = Field(default="plain", description="of initial states, see collect.conditions")
    horizon: int | None = Field(default=None, description="largest number of actions; None: the world's")
    batch: int = Field(default=512, gt=0, description="rollouts decoded together")
    temperature: float = Field(
        default=0.0,
        ge=0,
        description="sampling temperature of discrete actions, standard deviation of noise on continuous "
        "ones; 0: the likeliest",
    )
    state_noise: float = Field(
        default=0.0, ge=0, description="normal noise on what changes in a state, in units of its usual change"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto", description="auto: bfloat16 where the processor computes in it, else float32"
    )
    shard: int = Field(
        default=2_048, gt=0, description="rollouts per file; a stopped imagination resumes at the next file"
    )
    samples: int = Field(
        default=1,
        gt=0,
        description="a rollout that misses its goal, or could not have happened, is decoded again until "
        "there are this many, of which the most plausible is kept; needs temperature or state_noise",
    )
    analogies: int = Field(
        default=0,
        ge=0,
        description="how many of the samples, the first, are asked for in words of the data: of the sentence "
        "that the language model reads as most alike, then of the most alike with another goal, ...",
    )
    heat: float = Field(
        default=1.0, ge=1, description="temperature of each such try, times that of the one before"
    )
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

    @property
    def refined(self) -> bool:
        """Whether anything happens to imagined rollouts before they are stored."""
        return self.samples > 1 or self.relabel or self.plausibility != "keep"

    @model_validator(mode="after")
    def _samples_differ(self) -> ImagineConfig:
        if self.samples > 1 and self.temperature == 0 and self.state_noise == 0:
            raise ValueError(
                f"samples={self.samples} would all be the same; set imagine.temperature or "
                "imagine.state_noise above 0, or samples=1"
            )
        if self.analogies and self.analogies >= self.samples:
            raise ValueError(
                f"analogies={self.analogies} leaves none of samples={self.samples} to the sentence's own "
                "words; raise samples or lower analogies"
            )
        return self


class DynamicsConfig(Section):
    """Models of what actions do to states, fitted on real rollouts: they label and judge imagined ones."""

    members: int = Field(
        default=5, ge=0, description="forward models in the ensemble that judges imagined steps; 0: none"
    )
    hidden: tuple[int, ...] = Field(default=(256, 256), description="hidden layers of every model")
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
    look_every: int = Field(default=250, gt=0, description="steps between looks at the held-out loss")
    patience: int = Field(
        default=3, ge=0, description="looks without a smaller held-out loss before stopping"
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
    goal_noise: float = Field(
        default=0.0,
        ge=0,
        description="length of the normal noise on goal vectors, as a share of theirs: what is worded nearly "
        "the same then means the same",
    )
    standardise: bool = Field(
        default=False, description="learners see states in units of their spread in the real data"
    )
    lr: float = Field(default=1e-3, gt=0, description="learning rate")
    lr_decay: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the steps, the last, in which the learning rate falls to zero, in a straight "
        "line; 0: it stays",
    )
    gamma: float = Field(default=0.99, ge=0, le=1, description="discount")
    cql_alpha: float = Field(default=10.0, ge=0, description="weight of CQL's conservative term (paper: 10)")
    cql_samples: int = Field(
        default=10,
        gt=0,
        description="CQL and COMBO on continuous actions: actions per state that their conservative term "
        "draws from the policy, from the policy one step later, and uniformly; time grows with it",
    )
    td3bc_alpha: float = Field(default=2.5, gt=0, description="TD3+BC: weight of value against copying")
    awac_lambda: float = Field(default=1.0, gt=0, description="AWAC: temperature of the advantage")
    iql_expectile: float = Field(default=0.7, gt=0, lt=1, description="IQL: 0.5 values the mean, 1 the best")
    iql_temperature: float = Field(default=3.0, gt=0, description="IQL: weight of the advantage")
    reward_scale: float = Field(
        default=0.01,
        gt=0,
        description="factor of rewards for td3bc, awac, iql, and combo on discrete actions: scale 1",
    )
    combo_alpha: float = Field(
        default=10.0, ge=0, description="weight of COMBO's conservative term beside half of the squared error"
    )
    combo_real_share: float = Field(
        default=0.8, gt=0, lt=1, description="COMBO: share of a batch that is data; the rest is the model's"
    )
    combo_horizon: int = Field(default=5, gt=0, description="COMBO: largest number of steps in the model")
    combo_rollouts: int = Field(default=2_000, gt=0, description="COMBO: model rollouts that begin together")
    combo_refresh: int = Field(default=500, gt=0, description="COMBO: steps from one time to the next")
    combo_explore: float = Field(
        default=0.1, ge=0, le=1, description="COMBO: share of the model's actions that are drawn uniformly"
    )
    combo_target: int = Field(
        default=500, gt=0, description="COMBO, discrete actions: steps between copies to the target network"
    )
    checkpoint_every: int = Field(default=5_000, gt=0, description="steps between checkpoints")
    evaluate_every: int = Field(
        default=0, ge=0, description="steps between looks at success in the simulator; 0: none"
    )
    evaluate_episodes: int = Field(
        default=40, gt=0, description="episodes per level in such a look, the same in every one"
    )


class DecisionConfig(Section):
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


class EvaluateConfig(Section):
    """Closed-loop success in the simulator."""

    episodes: int = Field(default=111, gt=0, description="episodes per level, policy and seed")
    checkpoints: int = Field(
        default=1,
        gt=0,
        description="last checkpoints that share a policy's episodes: their mean is its score (paper: 5)",
    )
    horizon: int | None = Field(default=None, description="largest number of actions; None: the world's")


class RoundsConfig(Section):
    """The online loop: trained policies collect, and grounding, imagining and training go on from there."""

    count: int = Field(default=0, ge=0, description="rounds after the first training; 0: none")
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


class InspectConfig(Section):
    """What the grounded model can do, measured in detail (paper sections 5.3 and 5.4)."""

    rollouts: int = Field(default=64, gt=0, description="imagined rollouts per level")
    explanations: int = Field(default=128, gt=0, description="real rollouts explained, with either prompt")
    transitions: int = Field(default=512, gt=0, description="real transitions, and as many random ones")


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
    dynamics: DynamicsConfig = DynamicsConfig()
    train: TrainConfig = TrainConfig()
    decision: DecisionConfig = DecisionConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    rounds: RoundsConfig = RoundsConfig()
    inspect: InspectConfig = InspectConfig()
    report: ReportConfig = ReportConfig()


def presets() -> list[str]:
    """Return the names of the presets that ship with the library."""
    folder = files("kalm") / "presets"
    return sorted(entry.name[: -len(".yaml")] for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load(preset: str | None = None, overrides: Iterable[str] = (), **top: Any) -> Config:
    """Resolve settings: defaults, then the preset, then ``top`` fields, then ``section.field=value`` strings.

    Args:
        preset: name of one that ships with the library, or a YAML file of settings.
        overrides: what to change.
        top: fields of no section; ``env`` chooses between a preset's forms, see ``presets/``.

    Raises:
        KalmError: unknown preset, section or field (lists those that exist), or a value out of range.
    """
    data = {} if preset is None else _preset(preset, top.get("env") or Config().env)
    data.update({name: value for name, value in top.items() if value is not None})
    for override in overrides:
        _apply(data, override)
    return parse(data)


def _preset(name: str, env: str) -> dict[str, Any]:
    """Read a preset: of this world if it has one of its own by that name (``presets/WORLD/NAME.yaml``)."""
    if name.endswith((".yaml", ".yml")):
        return _read_settings(Path(name))
    if name not in presets():
        raise unknown("preset", name, presets())
    folder = files("kalm") / "presets"
    own = folder / env / f"{name}.yaml"
    text = (own if own.is_file() else folder / f"{name}.yaml").read_text("utf-8")
    return yaml.safe_load(text) or {}


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise KalmError(f"settings {path} cannot be read: {error}.") from None
    if not isinstance(data, dict):
        raise KalmError(f"settings {path} hold {type(data).__name__}; write sections such as `train: ...`.")
    return data


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
        elif item["type"] == "value_error":  # of several fields together
            lines.append(f"{place}: {item['msg'].removeprefix('Value error, ')}.")
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
