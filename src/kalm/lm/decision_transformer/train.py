"""Decision Transformer (Chen et al., 2021) on a language model: goal, returns and states in, actions out.

::

    goal prompt   R0 s0 -> a0   a0 R1 s1 -> a1   a1 R2 ...       R: what is still to be earned, undiscounted

Only actions are learnt. The goal stands in front as text, so what the backbone knows of language decides how
sentences that the data never had are understood. All of the backbone learns, at the rates of `decision`; what
else is said of it (`ground.backbone`, `attention`, `tuning`, entity tokens, ...) holds here as in grounding.

Which return to ask for: what successes at goals that read like this one earned *on average*
(`DecisionTransformer.aims`), unless a number is given. The mean, not a high quantile: what a success earns
here varies with how far away it began, and a policy that asks for more than the start allows asks for
something that no rollout with this start had.

::

    folder/  policy.json  decision.safetensors  lm/           the policy, written last
             metrics.jsonl  tensorboard/  checkpoint.safetensors   the last is gone when the training is over
             steps/00000130/policy.json ...                   with `decision_transformer.keep_policies`
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kalm.data.rollouts import RolloutSet
from kalm.data.validation import require_data
from kalm.errors import KalmError
from kalm.lm import lora, packing, sft
from kalm.lm.decision_transformer.dataset import DecisionDataset
from kalm.lm.decision_transformer.model import DecisionTransformer
from kalm.lm.decision_transformer.policy import FACTS, DecisionTransformerPolicy, load_decision_transformer
from kalm.lm.decision_transformer.settings import DecisionTransformerConfig
from kalm.lm.model import autocast
from kalm.lm.packing import PackedRow
from kalm.lm.settings import GroundConfig
from kalm.runs.io import file_sha256, fingerprint, read_json, versions
from kalm.runs.metrics import Metrics
from kalm.runs.progress import Advance, silent
from kalm.runs.seeding import derive_seed
from kalm.training.callbacks import Evaluate, Every, LogLosses, SaveCheckpoint, WriteMetrics
from kalm.training.checkpoint import NAME, Checkpoint
from kalm.training.loop import StepLosses, TrainingStep, fit
from kalm.training.optimizer import gradient_step
from kalm.training.random_state import own_random_stream
from kalm.training.shards import trained
from kalm.types import SOURCES, JsonObject, WorldSpec

LOG_EVERY = 20
NOT_IN_KEY = {"target", "checkpoint_every", "keep_policies", "evaluate_every"}  # change no weight
Evaluation = Callable[[DecisionTransformerPolicy, int], Mapping[str, float]]


def train_decision_transformer(
    ground: GroundConfig,
    config: DecisionTransformerConfig,
    real: RolloutSet,
    imagined: RolloutSet | None,
    mix: float,
    seed: int,
    folder: Path,
    device: str = "cpu",
    advance: Advance = silent,
    eval_callback: Evaluation | None = None,
    start: Path | None = None,
) -> DecisionTransformerPolicy:
    """Train a policy, or continue a stopped training of the same one, and store it in the folder.

    Args:
        ground: the backbone and what of it learns; learning rates and batches are those of `config`.
        config: settings.
        real: real rollouts.
        imagined: imagined rollouts of the same world, or None.
        mix: share of the actions that are imagined.
        seed: fixes the first weights and every batch.
        folder: where everything goes.
        device: torch device.
        advance: told of finished steps.
        eval_callback: called with the policy so far and the step every `config.evaluate_every` steps and at
            the end; returns numbers for the metrics.
        start: folder of a decision transformer whose weights are trained on; None: from the backbone.

    Raises:
        KalmError: nothing to learn from, data of another world, numbers that are not finite, rollouts longer
            than the context, a folder with another training in it, or a loss that is no longer finite.
    """
    if not 0 <= mix <= 1:
        raise KalmError(f"mix={mix} must be within 0 and 1: it is the share of actions that are imagined.")
    require_data(real.spec, real, imagined)
    settings = _settings(ground, config)
    facts = _made_from(settings, config, real, imagined, mix, seed, start)
    key = fingerprint(facts)
    if (folder / FACTS).exists() and _key(folder) == key:
        advance(config.steps, resumed=True)
        return _finished(folder, config, device)
    with own_random_stream(device, derive_seed(seed, "decision", "init")):
        model = _begin(settings, real.spec, start).to(device)
        mixture = DecisionDataset(real, imagined, mix, model.grounded.prompt_builder(), config, seed)
        if start is None:
            model.fit_scales(real, mixture.rollouts)
        policy = DecisionTransformerPolicy(
            model, config.target, settings.precision, provenance={"made_from": facts, "versions": versions()}
        )
        _run(policy, mixture, settings, config, key, folder, advance, eval_callback)
    policy.save(folder)
    (folder / NAME).unlink(missing_ok=True)
    return policy


def _run(
    policy: DecisionTransformerPolicy,
    mixture: DecisionDataset,
    settings: GroundConfig,
    config: DecisionTransformerConfig,
    identity: str,
    folder: Path,
    advance: Advance,
    evaluate: Evaluation | None,
) -> None:
    """Take the steps that are left, with metrics, evaluations and checkpoints on the way."""
    model = policy.model
    update = _Update(model, mixture, settings)
    optimizers = {"optimizer": update.optimizer}
    checkpoint = Checkpoint(folder / NAME, identity, trained(model), optimizers, model.grounded.device)
    resumed = checkpoint.restore()
    done = resumed.step if resumed else 0
    evaluate_every = config.evaluate_every if evaluate else 0
    keep_every = config.checkpoint_every if config.keep_policies else 0

    def fit_aims(step: TrainingStep) -> None:
        if step.last or step.due(evaluate_every) or step.due(keep_every):
            model.eval().fit_aims(mixture.rollouts, settings.precision)

    with closing(Metrics(folder, done)) as metrics:
        fit(
            update,
            config.steps,
            done,
            schedulers=[sft.cosine(update.optimizer, settings, config.steps, done)],
            callbacks=[
                LogLosses(update.measured, LOG_EVERY, evaluate_every, config.checkpoint_every),
                fit_aims,
                *([Evaluate(evaluate_every, partial(evaluate, policy))] if evaluate else []),
                WriteMetrics(metrics),
                Every(keep_every, lambda step: policy.save(folder / "steps" / f"{step:08d}")),
                SaveCheckpoint(checkpoint, config.checkpoint_every),
            ],
            advance=advance,
        )


class _Update:
    """Takes steps, and knows what the last one was made of."""

    def __init__(self, model: DecisionTransformer, mixture: DecisionDataset, settings: GroundConfig) -> None:
        self.model, self.mixture, self.settings = model, mixture, settings
        self.optimizer = sft.adamw(model, settings)
        self.groups: list[list[PackedRow]] = []

    def __call__(self, step: int) -> dict[str, Tensor | float]:
        """Take a step; return the losses of the batch's actions (r,), gradient norm and learning rate."""
        rate, device = self.optimizer.param_groups[0]["lr"], self.model.grounded.device
        self.groups = self.mixture.groups(step)
        batch = packing.batch(self.groups, self.mixture.rollouts, self.model.backbone.two_way_prompt)
        with autocast(device, self.settings.precision):
            losses = self.model.train()(batch.to(device))
        weights = trained(self.model).values()
        norm = gradient_step(self.optimizer, losses.mean(), self.settings.clip, list(weights))
        return {"losses": losses.detach(), "gradient_norm": norm, "body_lr": rate}

    def measured(self, values: StepLosses) -> dict[str, float]:
        """Return the last batch's mean loss, in all and per source, as numbers."""
        found = torch.as_tensor(values["losses"]).double().numpy(force=True)  # (r,)
        loss, sources = float(found.mean()), self.mixture.sources(self.groups)
        if not math.isfinite(loss):
            raise KalmError(
                f"the loss is {loss}. Lower decision.body_lr or decision.new_lr, or use "
                "ground.precision=float32."
            )
        parts = {f"loss_{SOURCES[code]}": float(found[sources == code].mean()) for code in np.unique(sources)}
        others = {name: float(values[name]) for name in ("gradient_norm", "body_lr")}
        return {"loss": loss, **parts, **others}


def _begin(settings: GroundConfig, spec: WorldSpec, start: Path | None) -> DecisionTransformer:
    """Return the model before its first step."""
    model = DecisionTransformer(
        sft.assemble(lora.prepare(settings), spec, settings.changed(action_network=False))
    )
    if start is not None:
        try:
            model.load_state_dict(load_decision_transformer(start, spec=spec).model.state_dict())
        except RuntimeError as error:
            raise KalmError(
                f"policy {start} was trained with another backbone or other settings of it than asked for "
                f"now ({str(error).splitlines()[-1].strip()}). Use those, or train without a start."
            ) from None
    return model


def _settings(ground: GroundConfig, config: DecisionTransformerConfig) -> GroundConfig:
    """Return the settings of the backbone with those of this training in their place."""
    shared = ("row_tokens", "rows", "body_lr", "new_lr", "warmup")
    return ground.changed(**{name: getattr(config, name) for name in shared} | {"state_network": False})


def _made_from(
    settings: GroundConfig,
    config: DecisionTransformerConfig,
    real: RolloutSet,
    imagined: RolloutSet | None,
    mix: float,
    seed: int,
    start: Path | None,
) -> JsonObject:
    """Everything that the weights depend on, JSON-ready."""
    return {
        "backbone": settings.model_dump(mode="json"),
        "settings": config.model_dump(mode="json", exclude=NOT_IN_KEY),
        "real": real.digest(),
        "imagined": None if imagined is None else imagined.digest(),
        "mix": mix,
        "seed": seed,
        "start": None if start is None else file_sha256(start / FACTS),
    }


def _finished(folder: Path, config: DecisionTransformerConfig, device: str) -> DecisionTransformerPolicy:
    """Load the policy that is there; what it asks for needs no training to change."""
    policy = load_decision_transformer(folder, device)
    if policy.target != config.target:
        policy = replace(policy, target=config.target)
        policy.save(folder)
    return policy


def _key(folder: Path) -> str:
    facts = read_json(folder / FACTS, "policy")
    return fingerprint(facts.get("provenance", {}).get("made_from")) if isinstance(facts, dict) else ""
