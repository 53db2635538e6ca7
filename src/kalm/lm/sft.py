"""Grounding: supervised fine-tuning on three tasks, with checkpoints and exact resume (paper section 4.1).

Which example stands where in which batch follows from (seed, epoch) alone, so a resumed training continues
with the very batch that was next. A checkpoint holds weights, optimizer moments and the step, as safetensors
and JSON.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kalm.config import GroundConfig
from kalm.data.rollouts import RolloutSet
from kalm.envs.base import World
from kalm.errors import KalmError
from kalm.lm import backbone, collate
from kalm.lm.checkpoint import Checkpoint, identity_of
from kalm.lm.collate import Batch
from kalm.lm.curriculum import Curriculum
from kalm.lm.grounded import GroundedLM, Losses, autocast
from kalm.lm.monitor import Monitor
from kalm.lm.sequence import Speller
from kalm.progress import Advance, silent
from kalm.runs import Metrics, derive_rng, derive_seed

LOG_EVERY = 20


Watch = Callable[[int], AbstractContextManager[Advance]]


def _unwatched(steps: int) -> AbstractContextManager[Advance]:
    return nullcontext(silent)


def train(
    model: GroundedLM,
    rollouts: RolloutSet,
    world: World,
    config: GroundConfig,
    seed: int,
    folder: Path,
    watch: Watch = _unwatched,
) -> GroundedLM:
    """Fine-tune a model in place, continuing from the folder's checkpoint if there is one, and save it.

    Args:
        model: on the device to train on.
        rollouts: real rollouts.
        world: for quick match rates.
        config: settings.
        seed: root of the order of examples.
        folder: gets ``checkpoint/``, ``metrics.jsonl`` and, at the end, ``model/``.
        watch: given the number of steps, opens what shows progress.

    Raises:
        KalmError: too few rollouts, or the folder's checkpoint belongs to other settings or data.
    """
    if config.rollouts is not None:
        rollouts = rollouts.take(np.arange(min(config.rollouts, len(rollouts))))
    if len(rollouts) <= config.held_out:
        raise KalmError(f"{len(rollouts)} rollouts are too few to keep {config.held_out} out of training.")
    data, held_out = rollouts.split(config.held_out / len(rollouts), derive_rng(seed, "ground", "split"))
    speller = Speller(model.backbone.tokenizer, model.backbone.context)
    curriculum = Curriculum(data, speller, config, seed)
    model.fit_scales(data)
    optimizer, schedule = optimizer_and_schedule(model, config, curriculum.steps)
    checkpoint = Checkpoint(folder / "checkpoint", identity_of(rollouts, config, seed))
    start = checkpoint.restore(model, optimizer)
    metrics = Metrics(folder, start)
    monitor = Monitor(model, world, held_out, speller, config, seed)
    with watch(curriculum.steps) as advance:
        advance(start, resumed=True)
        for number in range(start, curriculum.steps):
            for group, rate in zip(optimizer.param_groups, schedule(number), strict=True):
                group["lr"] = rate
            batch = collate.batch(curriculum.groups(number), data, model.backbone.two_way_prompt).to(
                model.device
            )
            losses, norm = step(model, batch, optimizer, config)
            done = number + 1
            if done % LOG_EVERY == 0 or done == curriculum.steps:
                values = {f"train/{name}": float(value.detach()) for name, value in vars(losses).items()}
                metrics.log(
                    done, {**values, "train/gradient_norm": norm, "train/body_lr": schedule(number)[0]}
                )
            if done % config.evaluate_every == 0 or done == curriculum.steps:
                metrics.log(done, monitor.look())
            if done % config.checkpoint_every == 0 and done < curriculum.steps:
                checkpoint.write(model, optimizer, done)
            advance(1, loss=float(losses.weighted(*_weights(config)).detach()))
    model.eval().save(folder / "model")
    metrics.close()
    return model


def step(
    model: GroundedLM, batch: Batch, optimizer: torch.optim.Optimizer, config: GroundConfig
) -> tuple[Losses, float]:
    """Take one optimizer step; return the batch's losses and the norm of the gradient before clipping.

    Raises:
        KalmError: the loss is not finite.
    """
    model.train()
    with autocast(model.device, config.precision):
        losses = model(batch)
    loss = losses.weighted(*_weights(config))
    if not torch.isfinite(loss):
        raise KalmError(
            f"the loss is {float(loss)}: text {float(losses.text)}, state {float(losses.state)}, "
            f"action {float(losses.action)}. Lower ground.body_lr or ground.new_lr, "
            "or use ground.precision=float32."
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    trainable = [p for group in optimizer.param_groups for p in group["params"]]
    norm = float(torch.nn.utils.clip_grad_norm_(trainable, config.clip))
    optimizer.step()
    return losses, norm


def _weights(config: GroundConfig) -> tuple[float, float, float]:
    return config.text_weight, config.state_weight, config.action_weight


def optimizer_and_schedule(
    model: GroundedLM, config: GroundConfig, steps: int
) -> tuple[torch.optim.AdamW, Callable[[int], list[float]]]:
    """AdamW over body and new modules at their own rates, and the schedule of those rates."""
    words = {id(p) for p in model.lm.get_input_embeddings().parameters()}
    words |= {id(p) for p in model.lm.get_output_embeddings().parameters()}
    body = {id(p) for p in model.backbone.body.parameters()}
    groups: tuple[list[Any], list[Any]] = ([], [])
    for parameter in model.parameters():
        frozen = (id(parameter) in words and not config.train_embeddings) or (
            id(parameter) in body and config.body_lr == 0
        )
        parameter.requires_grad_(not frozen)
        if not frozen:
            groups[0 if id(parameter) in body | words else 1].append(parameter)
    rates = (config.body_lr, config.new_lr)
    optimizer = torch.optim.AdamW(
        [{"params": group, "lr": rate} for group, rate in zip(groups, rates, strict=True)],
        weight_decay=config.weight_decay,
        fused=True,
    )
    warm = max(1, round(config.warmup * steps))

    def schedule(step: int) -> list[float]:
        rise = min(1.0, (step + 1) / warm)
        fall = 0.5 * (1 + math.cos(math.pi * max(0.0, (step - warm) / max(1, steps - warm))))
        return [rate * rise * fall for rate in rates]

    return optimizer, schedule


def fresh(config: GroundConfig, world: World, seed: int, device: str) -> GroundedLM:
    """Return a model about to be grounded: pre-trained backbone, new modules initialised from the seed."""
    torch.manual_seed(derive_seed(seed, "ground", "init"))
    pretrained = backbone.load(config.backbone, config.attention)
    return GroundedLM(pretrained, world.spec, config.state_target).to(device)
