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
             checkpoint/  metrics.jsonl  tensorboard/         checkpoint/ is gone when the training is over
             steps/00000130/policy.json ...                   with `decision.keep_policies`
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kalm.data.rollouts import RolloutSet
from kalm.data.validation import require_data
from kalm.errors import KalmError
from kalm.lm import lora, packing, sft
from kalm.lm.checkpoint import Checkpoint
from kalm.lm.decision_transformer.dataset import DecisionDataset
from kalm.lm.decision_transformer.model import DecisionTransformer
from kalm.lm.decision_transformer.policy import FACTS, DecisionTransformerPolicy, load_decision_transformer
from kalm.lm.decision_transformer.settings import DecisionTransformerConfig
from kalm.lm.distributed import trained
from kalm.lm.model import autocast
from kalm.lm.packing import PackedRow
from kalm.lm.settings import GroundConfig
from kalm.run.io import file_sha256, fingerprint, read_json, versions
from kalm.run.metrics import Metrics
from kalm.run.progress import Advance, silent
from kalm.run.seeding import derive_seed
from kalm.types import SOURCES, WorldSpec

LOG_EVERY = 20
NOT_IN_KEY = {"target", "checkpoint_every", "keep_policies", "evaluate_every"}  # change no weight
Look = Callable[[DecisionTransformerPolicy, int], Mapping[str, float]]


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
    look: Look | None = None,
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
        look: called with the policy so far and the step every `config.evaluate_every` steps and at the end;
            returns numbers for the metrics.
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
    with _own_stream(device, derive_seed(seed, "decision", "init")):
        model = _begin(settings, real.spec, start).to(device)
        mixture = DecisionDataset(real, imagined, mix, model.grounded.prompt_builder(), config, seed)
        if start is None:
            model.fit_scales(real, mixture.rollouts)
        policy = DecisionTransformerPolicy(
            model, config.target, settings.precision, provenance={"made_from": facts, "versions": versions()}
        )
        _run(policy, mixture, settings, config, key, folder, advance, look)
    policy.save(folder)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return policy


def _run(
    policy: DecisionTransformerPolicy,
    mixture: DecisionDataset,
    settings: GroundConfig,
    config: DecisionTransformerConfig,
    key: str,
    folder: Path,
    advance: Advance,
    look: Look | None,
) -> None:
    """Take the steps that are left, with metrics, looks and checkpoints on the way."""
    model = policy.model
    optimizer, schedule = sft.optimizer_and_schedule(model, settings, config.steps)
    checkpoint = Checkpoint(folder / "checkpoint", key)
    first = checkpoint.restore(model, optimizer)
    advance(first, resumed=True)
    with closing(Metrics(folder, first)) as metrics:
        for number in range(first, config.steps):
            for group, rate in zip(optimizer.param_groups, schedule(number), strict=True):
                group["lr"] = rate
            groups = mixture.groups(number)
            losses, norm = _update(model, optimizer, mixture.rollouts, groups, settings)
            step, values = number + 1, {}
            last = step == config.steps
            looks = look is not None and config.evaluate_every > 0
            looks = looks and (last or step % config.evaluate_every == 0)
            keeps = not last and step % config.checkpoint_every == 0
            if last or looks or keeps or step % LOG_EVERY == 0:
                values = _measured(losses, mixture.sources(groups), norm, step)
                values["body_lr"] = schedule(number)[0]
            stored = last or (keeps and config.keep_policies)
            if stored or looks:
                model.eval().fit_aims(mixture.rollouts, settings.precision)
            if look is not None and looks:
                values |= look(policy, step)
            if values:
                metrics.log(step, values)
            if stored and config.keep_policies:
                policy.save(folder / "steps" / f"{step:08d}")
            if keeps:
                checkpoint.write(model, optimizer, step)
            shown: dict[str, Any] = {"loss": values["loss"]} if values else {}
            advance(1, **shown)


def _update(
    model: DecisionTransformer,
    optimizer: torch.optim.Optimizer,
    rollouts: RolloutSet,
    groups: Sequence[Sequence[PackedRow]],
    settings: GroundConfig,
) -> tuple[Tensor, Tensor]:
    """Take one step; return the losses of the batch's actions (r,) and the norm of its gradient."""
    device = model.grounded.device
    batch = packing.batch(groups, rollouts, model.backbone.two_way_prompt).to(device)
    optimizer.zero_grad(set_to_none=True)
    with autocast(device, settings.precision):
        losses = model.train()(batch)
    losses.mean().backward()
    norm = torch.nn.utils.clip_grad_norm_([weight for _, weight in trained(model)], settings.clip)
    optimizer.step()
    return losses.detach(), norm


def _measured(losses: Tensor, sources: np.ndarray, norm: Tensor, step: int) -> dict[str, float]:
    """Return a batch's mean loss, in all and per source, as numbers."""
    found = losses.double().numpy(force=True)
    loss = float(found.mean())
    if not math.isfinite(loss):
        raise KalmError(
            f"the loss is {loss} at step {step}. Lower decision.body_lr or decision.new_lr, or use "
            "ground.precision=float32."
        )
    parts = {f"loss_{SOURCES[code]}": float(found[sources == code].mean()) for code in np.unique(sources)}
    return {"loss": loss, **parts, "gradient_norm": float(norm)}


def _begin(settings: GroundConfig, spec: WorldSpec, start: Path | None) -> DecisionTransformer:
    """Return the model before its first step."""
    model = DecisionTransformer(sft.assemble(lora.prepare(settings), spec, settings))
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
) -> dict[str, Any]:
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


@contextmanager
def _own_stream(device: str, seed: int) -> Iterator[None]:
    """Seed torch; its random stream is the caller's again after the block."""
    with torch.random.fork_rng([device] if "cuda" in device else []):
        torch.manual_seed(seed)
        yield
