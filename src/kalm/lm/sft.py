"""Grounding: supervised fine-tuning on three tasks, with checkpoints and exact resume (paper section 4.1).

Which example stands where in which batch follows from (seed, epoch) alone, so a resumed training continues
with the very batch that was next. Several processes divide every batch among themselves, so their number
changes how fast it goes and not what is learnt (`kalm.lm.update`, `kalm.lm.distributed`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from kalm.data.rollouts import RolloutSet
from kalm.dynamics.transition import fit_transition_network
from kalm.envs.base import World
from kalm.errors import KalmError
from kalm.lm import language_warmup, lora, packing
from kalm.lm.backbone import Backbone
from kalm.lm.checkpoint import Checkpoint, identity_of
from kalm.lm.dataset import GroundingDataset
from kalm.lm.decision_transformer.model import DecisionTransformer
from kalm.lm.distributed import DistributedTrainer
from kalm.lm.heads import Design
from kalm.lm.model import GroundedLM
from kalm.lm.monitor import GroundingMonitor
from kalm.lm.packing import PackedBatch
from kalm.lm.settings import GroundConfig
from kalm.lm.update import measured, update
from kalm.run import processes
from kalm.run.io import atomic_write
from kalm.run.metrics import Metrics
from kalm.run.progress import Advance, silent
from kalm.run.seeding import derive_rng, derive_seed
from kalm.types import Conditions, WorldSpec

LOG_EVERY = 20


Watch = Callable[[str, int], AbstractContextManager[Advance]]


def _unwatched(description: str, steps: int) -> AbstractContextManager[Advance]:
    return nullcontext(silent)


def finetune(
    model: GroundedLM,
    rollouts: RolloutSet,
    world: World,
    config: GroundConfig,
    seed: int,
    folder: Path,
    watch: Watch = _unwatched,
    conditions: Conditions = "plain",
) -> GroundedLM:
    """Fine-tune a model in place, continuing from the folder's checkpoint if there is one, and save it.

    Args:
        model: on the device to train on.
        rollouts: real rollouts.
        world: for quick match rates.
        config: settings.
        seed: root of the order of examples.
        folder: gets ``checkpoint/``, ``metrics.jsonl`` and, at the end, ``model/``.
        watch: given what is done and its number of steps, opens what shows progress.
        conditions: under which quick match rates begin.

    Raises:
        KalmError: too few rollouts, or the folder's checkpoint belongs to other settings or data.
    """
    data, held_out = divide(rollouts, config, seed)
    prompt_builder = model.prompt_builder()
    for part in (data, held_out):
        prompt_builder.require_room(part)
    curriculum = GroundingDataset(data, prompt_builder, config, seed)
    model.fit_scales(data)
    checkpoint = Checkpoint(folder / "checkpoint", identity_of(rollouts, config, seed))
    if config.language.steps and not checkpoint.folder.exists():
        with watch("language", config.language.steps) as advance:
            language_warmup.warm_up(model, config, seed, folder, advance)
    if config.state_network:
        _fit_network(model, data, config, seed, folder / "network.safetensors", watch)
    optimizer, schedule = optimizer_and_schedule(model, config, curriculum.steps)
    team = DistributedTrainer(model, optimizer, config.precision, config.compile)
    start = checkpoint.restore(model, team.optimizer)
    metrics = Metrics(folder, start) if processes.main() else None
    monitor = (
        GroundingMonitor(team.shown, world, held_out, prompt_builder, config, seed, conditions)
        if metrics
        else None
    )
    with watch("ground", curriculum.steps) as advance:
        advance(start, resumed=True)
        for number in range(start, curriculum.steps):
            for group, rate in zip(team.optimizer.param_groups, schedule(number), strict=True):
                group["lr"] = rate
            losses, norm = update(team, parts(curriculum, number, model, config), config)
            done = number + 1
            last = done == curriculum.steps
            look = last or done % config.evaluate_every == 0
            keep = not last and done % config.checkpoint_every == 0
            shown: dict[str, Any] = {}
            # Reading a number off a GPU waits for all its work, so it is done now and then only.
            if look or keep or done % LOG_EVERY == 0:
                values = measured(losses, norm, config)
                shown = {"loss": values["loss"]}
                if metrics:
                    rates = {"train/body_lr": schedule(number)[0]}
                    metrics.log(done, {f"train/{name}": value for name, value in values.items()} | rates)
            if look:
                with team.whole():
                    if metrics and monitor:
                        metrics.log(done, monitor.look())
            if keep:
                checkpoint.write(model, team.optimizer, done)
            advance(1, **shown)
    with team.whole():
        if metrics:
            team.shown.eval().save(folder / "model")
            metrics.close()
    return team.shown


def _fit_network(
    model: GroundedLM, data: RolloutSet, config: GroundConfig, seed: int, place: Path, watch: Watch
) -> None:
    """Fit the transition network, or load what an earlier call fitted."""
    if place.exists():
        model.network.load_state_dict(load_file(place))
        return
    with watch("physics", config.network_steps) as advance:
        seed = derive_seed(seed, "ground", "network")
        fit_transition_network(
            model.network, data, config.network_steps, seed, advance, config.network_horizon
        )
    if processes.main():
        with atomic_write(place) as temporary:
            save_file(model.network.state_dict(), temporary)


def divide(rollouts: RolloutSet, config: GroundConfig, seed: int) -> tuple[RolloutSet, RolloutSet]:
    """Return the rollouts that are learnt from, and those kept out for measuring.

    Raises:
        KalmError: too few rollouts.
    """
    if config.rollouts is not None:
        rollouts = rollouts.take(np.arange(min(config.rollouts, len(rollouts))))
    if len(rollouts) <= config.held_out:
        raise KalmError(f"{len(rollouts)} rollouts are too few to keep {config.held_out} out of training.")
    return rollouts.split(config.held_out / len(rollouts), derive_rng(seed, "ground", "split"))


def parts(
    curriculum: GroundingDataset, step: int, model: GroundedLM, config: GroundConfig
) -> list[PackedBatch]:
    """Return what this process works through in a step: `ground.accumulate` parts of the batch."""
    whole = processes.count() * config.accumulate
    first = processes.index() * config.accumulate
    return [
        packing.batch(
            curriculum.groups(step, part, whole),
            curriculum.rollouts,
            model.backbone.two_way_prompt,
            config.row_tokens if config.compile else 0,
        ).to(model.device)
        for part in range(first, first + config.accumulate)
    ]


def optimizer_and_schedule(
    model: GroundedLM | DecisionTransformer, config: GroundConfig, steps: int
) -> tuple[torch.optim.AdamW, Callable[[int], list[float]]]:
    """AdamW over body and new modules at their own rates, and the schedule of those rates."""
    rates = (config.body_lr, config.new_lr)
    optimizer = torch.optim.AdamW(
        [
            {"params": group, "lr": rate}
            for group, rate in zip(lora.groups(model, model.backbone), rates, strict=True)
        ],
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
    return assemble(lora.prepare(config), world.spec, config).to(device)


def assemble(backbone: Backbone, spec: WorldSpec, config: GroundConfig) -> GroundedLM:
    """Return a backbone with the new modules that the settings ask for."""
    design = Design(**{field.name: getattr(config, field.name) for field in fields(Design)})
    return GroundedLM(backbone, spec, design)
