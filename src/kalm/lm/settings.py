"""Settings of the language model: grounding it, and imagining with it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from kalm.dynamics.settings import RefineConfig
from kalm.runs.section import Section
from kalm.types import Conditions


class TasksConfig(Section):
    """How many examples of each task the rollouts give (paper section 4.1)."""

    generation: float = Field(
        default=1.0, ge=0, description="share of rollouts that give a goal-to-rollout example"
    )
    explanation: float = Field(
        default=1.0, ge=0, description="share of rollouts that give a rollout-to-goal example"
    )
    dynamics: float = Field(default=1.0, ge=0, description="share of rollouts that give a next-state example")
    text_replay: float = Field(
        default=0.0, ge=0, description="plain texts about things in space, as a share of the rollouts"
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> TasksConfig:
        if not any(dict(self).values()):
            raise ValueError("every task gives 0 examples; set one of them above 0")
        return self


class LossConfig(Section):
    """What each part of the loss counts."""

    text: float = Field(default=0.25, ge=0, description="weight of the cross-entropy on words")
    state: float = Field(default=1.0, ge=0, description="weight of the squared error on states")
    action: float = Field(default=1.0, ge=0, description="weight of the action loss")


class LoRAConfig(Section):
    """Low-rank adapters, where `ground.tuning` is `lora`."""

    rank: int = Field(default=16, gt=0, description="rank of the adapters")
    alpha: int = Field(default=32, gt=0, description="adapters are scaled by alpha / rank")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout in front of the adapters")


class LanguageWarmupConfig(Section):
    """The language warm-up: paraphrases and near misses, before grounding."""

    steps: int = Field(default=0, ge=0, description="gradient steps; 0: no language warm-up")
    contrasts: int = Field(default=4, gt=0, description="contrasts per batch, of 12 sentences each")
    lr: float = Field(default=3e-4, gt=0, description="learning rate")
    text_weight: float = Field(
        default=0.25, ge=0, description="weight of producing the plain meaning as text"
    )
    contrast_weight: float = Field(
        default=1.0, ge=0, description="weight of telling paraphrases from near misses"
    )


class GroundConfig(Section):
    """Supervised fine-tuning of the language model (paper section 4.1)."""

    backbone: str = Field(
        default="minilm",
        description="`minilm`, `smollm2`, a hub name, a folder with a causal LM, a GGUF file",
    )
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
    action_network: bool = Field(
        default=False,
        description="imagined actions come from a network that looks up in the sentence what is said of each "
        "entity, fitted on the data's transitions; not from the head",
    )
    action_steps: int = Field(default=2_000, gt=0, description="steps of fitting that network")
    action_bins: int = Field(
        default=0,
        ge=0,
        description="values per number of a continuous action that are rated, of which the likeliest is "
        "taken; 0: actions come from a squared error",
    )
    rollouts: int | None = Field(
        default=None, gt=0, description="use this many rollouts of the data; None: all"
    )
    epochs: float = Field(default=1.0, gt=0, description="passes over the examples")
    row_tokens: int = Field(default=256, gt=0, description="length of a packed row")
    rows: int = Field(default=2, gt=0, description="packed rows per batch")
    accumulate: int = Field(
        default=1, gt=0, description="parts that a process works through one by one per batch: less memory"
    )
    loader_workers: int | None = Field(
        default=None,
        ge=0,
        description="processes that make batches ahead; 0: the training itself; None: 4 for a GPU, else 0",
    )
    compile: bool | None = Field(
        default=None,
        description="compile the backbone's layers; rows then always have `row_tokens` tokens. None: where a "
        "trial before the first step shows that it pays",
    )
    tuning: Literal["full", "lora", "frozen"] = Field(
        default="full",
        description="what learns of the body: all of it, low-rank adapters beside it, or nothing",
    )
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
    tasks: TasksConfig = TasksConfig()
    loss: LossConfig = LossConfig()
    lora: LoRAConfig = LoRAConfig()
    language: LanguageWarmupConfig = LanguageWarmupConfig()

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
    horizon: int | None = Field(
        default=None, gt=0, description="largest number of actions; None: the environment's"
    )
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
    merge_adapters: bool = Field(
        default=False,
        description="fold the adapters of a model tuned with lora into its weights: faster; how far that "
        "moves it is measured and told",
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
    reading: Literal["off", "reader", "parts"] = Field(
        default="off",
        description="reader: sentences are read to plans of plain sentences of the data, which are imagined "
        "one after another; own words stay the second try. parts: the goal's own structure in place of the "
        "reader's plan, for comparison only",
    )
    analogies: int = Field(
        default=0,
        ge=0,
        description="how many of the samples, the first, are asked for in words of the data: of the sentence "
        "that the language model reads as most alike, then of the most alike with another goal, ...",
    )
    temperature_growth: float = Field(
        default=1.0, ge=1, description="temperature of each such try, times that of the one before"
    )
    control: Literal["none", "shuffled"] = Field(
        default="none",
        description="shuffled: each try reads the sentence of another goal of its level, drawn at random, so "
        "that what is kept is what the filter alone gives; see train.controls",
    )
    refine: RefineConfig = RefineConfig()

    @property
    def refined(self) -> bool:
        """Whether anything happens to imagined rollouts before they are stored."""
        return self.samples > 1 or self.refine.relabel or self.refine.plausibility != "keep"

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
