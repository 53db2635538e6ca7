"""How long grounding takes on this machine: each of its parts tried for a few seconds, with random weights.

Looks in between (`ground.evaluate_every`) are left out, for an untrained model decodes every rollout to its
full length; they come on top.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import torch

from kalm.data.rollouts import RolloutSet
from kalm.dynamics.transition import fit_transition_network
from kalm.envs.base import World
from kalm.lm import compiling, sft
from kalm.lm.action_fit import fit_action_network
from kalm.lm.batches import StepBatches, load_batches
from kalm.lm.dataset import GroundingDataset
from kalm.lm.distributed import DistributedTrainer
from kalm.lm.language_warmup import warm_up
from kalm.lm.settings import GroundConfig
from kalm.lm.update import update
from kalm.runs.progress import Advance
from kalm.training.loop import fit
from kalm.types import JsonObject

SECONDS = 10.0
FEW = 4  # sentences that the action network is tried with: once they are read, its steps are all alike


class _Enough(Exception):
    """What is tried was tried for long enough."""


@dataclass(frozen=True)
class _Pace:
    """Seconds of the first step, which also compiles and fills caches, and of each that follows."""

    first: float
    each: float

    def of(self, steps: int) -> float:
        """Return the seconds of so many steps."""
        return self.first + self.each * (steps - 1)


def expected_time(
    config: GroundConfig,
    rollouts: RolloutSet,
    world: World,
    seed: int,
    device: str,
    processes: int,
    gb: float,
    seconds: float = SECONDS,
) -> JsonObject:
    """Return how long a grounding takes here, JSON-ready.

    Args:
        config: settings.
        rollouts: real rollouts.
        world: where they come from.
        seed: root of the order of examples.
        device: to train on.
        processes: devices that share each batch; the part of one is tried, without the exchange between them.
        gb: memory that one device needs (`kalm.lm.budget`); nothing is tried where there is less.
        seconds: to try, all parts together, after the first step of each.
    """
    free = free_gb(device)
    if gb > free:
        return {"expected_seconds": None, "not_timed": f"it needs {gb:.1f} GB, {free:.1f} are free here"}
    data, _ = sft.divide(rollouts, config, seed)
    model = sft.fresh(config.changed(pretrained=False), world, seed, device)
    model.fit_scales(data)
    curriculum = GroundingDataset(data, model.prompt_builder(), config, seed)
    if config.compile is None:
        config = config.changed(compile=compiling.trial(model, curriculum, config)["compiled"])
    team = DistributedTrainer(model, sft.adamw(model, config), config.precision, bool(config.compile))

    def tuning(advance: Advance) -> None:
        steps = StepBatches(curriculum, model.backbone.two_way_prompt, config, processes)
        batches = load_batches(steps, model.device, workers=config.loader_workers)
        fit(lambda _: update(team, next(batches), config), curriculum.steps, advance=advance)

    def physics(advance: Advance) -> None:
        fit_transition_network(
            model.network, data, config.network_steps, seed, advance, config.network_horizon
        )

    def actions(advance: Advance) -> None:
        few = data.take(np.arange(FEW))
        fit_action_network(model, few, config.action_steps, seed, config.precision, advance)

    def language(advance: Advance) -> None:
        with tempfile.TemporaryDirectory() as folder:
            warm_up(model, config, seed, Path(folder), advance)

    pace, expected = {}, {}
    if config.language.steps:
        pace["language"] = _paced(language, seconds / 4)
        expected["language"] = pace["language"].of(config.language.steps)
    if config.state_network:
        pace["physics"] = _paced(physics, seconds / 4)
        expected["physics"] = pace["physics"].of(config.network_steps)
    pace["ground"] = _paced(tuning, seconds / 2)
    expected["ground"] = pace["ground"].of(curriculum.steps)
    if config.action_network:
        pace["actions"] = found = _paced(actions, seconds / 4)
        sentences = len({instruction.text for instruction in data.instructions})
        reading = (found.first - found.each) * sentences / FEW
        expected["actions"] = reading + found.each * config.action_steps
    return {
        "compile": config.compile,
        "seconds_per_step": {name: float(f"{one.each:.3g}") for name, one in pace.items()},
        "expected_seconds": round(sum(expected.values())),
    }


def _paced(work: Callable[[Advance], None], seconds: float) -> _Pace:
    """Try work that tells of its steps one by one."""
    ends = [time.perf_counter()]  # of the steps, after when the first began

    def advance(n: int = 1, *, resumed: bool = False, **fields: object) -> None:
        ends.append(time.perf_counter())
        if ends[-1] - ends[1] > seconds:
            raise _Enough

    with suppress(_Enough):
        work(advance)
    first = ends[1] - ends[0]
    return _Pace(first, (ends[-1] - ends[1]) / (len(ends) - 2) if len(ends) > 2 else first)


def free_gb(device: str) -> float:
    """Return the memory that is free on a device."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 1e9
    return psutil.virtual_memory().available / 1e9
