"""Grounding: supervised fine-tuning on three tasks, with checkpoints and exact resume (paper section 4.1).

Which example stands where in which batch follows from (seed, epoch) alone, so a resumed training continues
with the very batch that was next. Several processes divide every batch among themselves, so their number
changes how fast it goes and not what is learnt (`kalm.lm.update`, `kalm.lm.distributed`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR

from kalm.data.rollouts import RolloutSet
from kalm.dynamics.transition import fit_transition_network
from kalm.envs.base import World
from kalm.errors import KalmError
from kalm.lm import compiling, language_warmup, lora
from kalm.lm.action_fit import fit_action_network
from kalm.lm.backbone import Backbone
from kalm.lm.batches import StepBatches, load_batches
from kalm.lm.dataset import GroundingDataset
from kalm.lm.decision_transformer.model import DecisionTransformer
from kalm.lm.distributed import DistributedTrainer
from kalm.lm.heads import Design
from kalm.lm.model import GroundedLM
from kalm.lm.monitor import GroundingMonitor
from kalm.lm.settings import GroundConfig
from kalm.lm.update import measured, update
from kalm.runs import processes
from kalm.runs.io import fingerprint
from kalm.runs.metrics import Metrics
from kalm.runs.progress import Advance, silent
from kalm.runs.seeding import derive_rng, derive_seed
from kalm.training.callbacks import Evaluate, LogLosses, SaveCheckpoint, WriteMetrics
from kalm.training.checkpoint import NAME, Checkpoint
from kalm.training.loop import Callback, fit
from kalm.training.optimizer import schedule, warmup_steps
from kalm.training.shards import trained
from kalm.types import Conditions, WorldSpec

LOG_EVERY = 20
NETWORK = "network.safetensors"
ACTIONS = "actions.safetensors"


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
        folder: gets checkpoint, transition network, metrics and, at the end, ``model/``.
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
    identity = fingerprint([rollouts.digest(), config.model_dump(), seed])
    _prepare(model, data, config, seed, folder, identity, watch)
    config = compiling.decide(model, curriculum, config, folder / compiling.NAME)
    team = DistributedTrainer(model, adamw(model, config), config.precision, bool(config.compile))
    optimizers = {"optimizer": team.optimizer}
    checkpoint = Checkpoint(folder / NAME, identity, trained(model), optimizers, model.device, shared=True)
    resumed = checkpoint.restore()
    done = resumed.step if resumed else 0
    metrics = Metrics(folder, done) if processes.is_main() else None
    monitor = None
    if metrics:
        monitor = GroundingMonitor(team.shown, world, held_out, prompt_builder, config, seed, conditions)
    steps = StepBatches(curriculum, model.backbone.two_way_prompt, config)
    batches = load_batches(steps, model.device, done, config.loader_workers)
    with watch("ground", curriculum.steps) as advance:
        fit(
            lambda _: update(team, next(batches), config),
            curriculum.steps,
            done,
            schedulers=[cosine(team.optimizer, config, curriculum.steps, done)],
            callbacks=_callbacks(config, team, monitor, metrics, checkpoint),
            advance=advance,
        )
    with team.whole():
        if metrics and monitor:
            if config.action_network:
                _fit_actions(team.shown.eval(), data, config, seed, folder / ACTIONS, identity, watch)
                metrics.log(curriculum.steps, monitor.evaluate())
            team.shown.eval().save(folder / "model")
            metrics.close()
    return team.shown


def _prepare(
    model: GroundedLM,
    data: RolloutSet,
    config: GroundConfig,
    seed: int,
    folder: Path,
    identity: str,
    watch: Watch,
) -> None:
    """Do what comes before the first step: language warm-up and transition network, where asked for."""
    if config.language.steps and not (folder / NAME).exists():
        with watch("language", config.language.steps) as advance:
            language_warmup.warm_up(model, config, seed, folder, advance)
    if config.state_network:
        network = Checkpoint(folder / NETWORK, identity, model.network.state_dict(), {}, shared=True)
        _fit_network(model, data, config, seed, network, watch)


def _callbacks(
    config: GroundConfig,
    team: DistributedTrainer,
    monitor: GroundingMonitor | None,
    metrics: Metrics | None,
    checkpoint: Checkpoint,
) -> list[Callback]:
    """Return what is done between steps; monitor and metrics are the main process's."""

    def evaluate(_: int) -> dict[str, float]:
        with team.whole():
            return monitor.evaluate() if monitor else {}

    periods = LOG_EVERY, config.evaluate_every, config.checkpoint_every
    return [
        LogLosses(partial(measured, config=config), *periods, prefix="train/"),
        Evaluate(config.evaluate_every, evaluate),
        WriteMetrics(metrics),
        SaveCheckpoint(checkpoint, config.checkpoint_every),
    ]


def _fit_network(
    model: GroundedLM,
    data: RolloutSet,
    config: GroundConfig,
    seed: int,
    checkpoint: Checkpoint,
    watch: Watch,
) -> None:
    """Fit the transition network, or load what an earlier call fitted."""
    if checkpoint.restore():
        return
    with watch("physics", config.network_steps) as advance:
        seed = derive_seed(seed, "ground", "network")
        fit_transition_network(
            model.network, data, config.network_steps, seed, advance, config.network_horizon
        )
    checkpoint.save(config.network_steps)


def _fit_actions(
    model: GroundedLM,
    data: RolloutSet,
    config: GroundConfig,
    seed: int,
    place: Path,
    identity: str,
    watch: Watch,
) -> None:
    """Fit the action network, or load what an earlier call fitted."""
    assert model.action_network is not None, model.design
    checkpoint = Checkpoint(place, identity, model.action_network.state_dict(), {})
    if checkpoint.restore():
        return
    with watch("actions", config.action_steps) as advance:
        seed = derive_seed(seed, "ground", "actions")
        fit_action_network(model, data, config.action_steps, seed, config.precision, advance)
    checkpoint.save(config.action_steps)


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


def adamw(model: GroundedLM | DecisionTransformer, config: GroundConfig) -> torch.optim.AdamW:
    """Return AdamW over body and new modules at their own rates."""
    rates = (config.body_lr, config.new_lr)
    return torch.optim.AdamW(
        [
            {"params": group, "lr": rate}
            for group, rate in zip(lora.groups(model, model.backbone), rates, strict=True)
        ],
        weight_decay=config.weight_decay,
        fused=True,
    )


def cosine(optimizer: torch.optim.Optimizer, config: GroundConfig, steps: int, done: int) -> LambdaLR:
    """Return the schedule of a training of so many steps, some of which are done."""
    return schedule(optimizer, "cosine", steps, warmup=warmup_steps(config.warmup, steps), done=done)


def fresh(config: GroundConfig, world: World, seed: int, device: str) -> GroundedLM:
    """Return a model about to be grounded: pre-trained backbone, new modules initialised from the seed."""
    torch.manual_seed(derive_seed(seed, "ground", "init"))
    return assemble(lora.prepare(config), world.spec, config).to(device)


def assemble(backbone: Backbone, spec: WorldSpec, config: GroundConfig) -> GroundedLM:
    """Return a backbone with the new modules that the settings ask for."""
    design = Design(**{field.name: getattr(config, field.name) for field in fields(Design)})
    return GroundedLM(backbone, spec, design)
