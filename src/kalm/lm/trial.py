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
from kalm.lm.model import GroundedLM
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


@dataclass(frozen=True)
class _Trial:
    """A training about to begin with random weights; each method is one of its parts."""

    config: GroundConfig
    model: GroundedLM
    data: RolloutSet
    curriculum: GroundingDataset
    seed: int
    processes: int

    def language(self, advance: Advance) -> None:
        with tempfile.TemporaryDirectory() as folder:
            warm_up(self.model, self.config, self.seed, Path(folder), advance)

    def physics(self, advance: Advance) -> None:
        steps, horizon = self.config.network_steps, self.config.network_horizon
        fit_transition_network(self.model.network, self.data, steps, self.seed, advance, horizon)

    def ground(self, advance: Advance) -> None:
        model, config = self.model, self.config
        team = DistributedTrainer(model, sft.adamw(model, config), config.precision, bool(config.compile))
        steps = StepBatches(self.curriculum, model.backbone.two_way_prompt, config, self.processes)
        batches = load_batches(steps, model.device, workers=config.loader_workers)
        fit(lambda _: update(team, next(batches), config), self.curriculum.steps, advance=advance)

    def actions(self, advance: Advance) -> None:
        few, config = self.data.take(np.arange(FEW)), self.config
        fit_action_network(self.model, few, config.action_steps, self.seed, config.precision, advance)

    def parts(self) -> dict[str, tuple[Callable[[Advance], None], int]]:
        """Return what the settings ask for, with the number of its steps."""
        config = self.config
        parts = {
            "language": (self.language, config.language.steps),
            "physics": (self.physics, config.network_steps if config.state_network else 0),
            "ground": (self.ground, self.curriculum.steps),
            "actions": (self.actions, config.action_steps if config.action_network else 0),
        }
        return {name: part for name, part in parts.items() if part[1]}


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
    config = compiling.decide(model, curriculum, config, among=processes)
    pace, expected = {}, 0.0
    for name, (work, steps) in _Trial(config, model, data, curriculum, seed, processes).parts().items():
        pace[name] = found = _paced(work, seconds / (2 if name == "ground" else 4))
        if name == "actions":  # its first step reads the few sentences of the trial
            sentences = len({instruction.text for instruction in data.instructions})
            expected += (found.first - found.each) * sentences / FEW + found.each * steps
        else:
            expected += found.of(steps)
    return {
        "compile": config.compile,
        "seconds_per_step": {name: float(f"{one.each:.3g}") for name, one in pace.items()},
        "expected_seconds": round(expected),
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
