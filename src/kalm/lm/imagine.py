"""A whole imagined dataset: which rollouts for which instructions, decoded shard by shard, resumable.

Unusual: held-back wordings are never imagined for, so that policies can be measured on sentences that neither
the real nor the imagined data had. All rollouts are kept, also those that miss their goal, because the match
rate is measured on all of them; which of them a policy learns from is decided in training (`train.imagined`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kalm import processes
from kalm.config import ImagineConfig
from kalm.data import store
from kalm.data.checks import require_valid
from kalm.data.rollouts import RolloutSet
from kalm.envs.base import World
from kalm.envs.starts import initial_states
from kalm.errors import KalmError
from kalm.lm.generate import Sampling, imagine
from kalm.lm.grounded import GroundedLM
from kalm.progress import Advance, silent
from kalm.runs import derive_seed
from kalm.types import LEVELS, Instruction


def plan(world: World, config: ImagineConfig) -> list[Instruction]:
    """Return one instruction per rollout of the levels' suites, repeats side by side."""
    return [
        instruction
        for level in LEVELS
        for instruction in world.suite(level)
        if not instruction.held_back
        for _ in range(getattr(config, level))
    ]


def repeated(instructions: Sequence[Instruction], config: ImagineConfig) -> list[Instruction]:
    """Return the plan for the instructions of a goal file."""
    return [instruction for instruction in instructions for _ in range(config.per_file_instruction)]


def imagine_dataset(
    model: GroundedLM,
    world: World,
    rows: Sequence[Instruction],
    config: ImagineConfig,
    seed: int,
    folder: Path,
    provenance: dict[str, Any],
    actor: GroundedLM | None = None,
    advance: Advance = silent,
) -> RolloutSet:
    """Decode one rollout per row into `folder`, or go on where a stopped imagination ended, and return them.

    Several processes divide the shards among themselves. Row i depends on (seed, i) and the model alone, not
    on batches, shards, processes, or where a stop fell. Rollouts with a number that is not finite are
    dropped; the dataset's provenance counts them. With `config.samples` n > 1, n rollouts from the same
    initial state stand side by side for each row; the first is the one that n = 1 gives.

    Raises:
        KalmError: nothing to imagine, or nothing finite came out.
    """
    if not rows:
        raise KalmError(
            "nothing to imagine: every level has 0 rollouts per instruction (imagine.rephrase, ...)."
        )
    total = len(rows) * config.samples
    shards = [range(at, min(at + config.shard, total)) for at in range(0, total, config.shard)]
    told = store.finished_shards(folder)
    if told:
        advance(sum(len(shards[index]) for index in told), resumed=True)
    processes.wait()  # until all have seen the same shards
    left = [index for index in range(len(shards)) if index not in told]
    for index in left[processes.index() :: processes.count()]:
        wanted = [divmod(number, config.samples) for number in shards[index]]
        instructions = [rows[row] for row, _ in wanted]
        result = imagine(
            model,
            world,
            instructions,
            [_seed(seed, row, sample) for row, sample in wanted],
            starts=initial_states(world, instructions, [_seed(seed, row, 0) for row, _ in wanted]),
            prompt=config.prompt,
            horizon=config.horizon,
            batch=config.batch,
            sampling=Sampling(config.temperature, config.state_noise),
            precision=config.precision,
            actor=actor,
            advance=advance,
        )
        require_valid(result.rollouts)
        lost = [shards[index][place] for place in np.flatnonzero(~result.finite)]
        store.write_shard(folder, index, result.rollouts, {"lost": lost})
        told.add(index)
        told |= _tell(store.finished_shards(folder) - told, shards, advance)
    processes.wait()
    _tell(set(range(len(shards))) - told, shards, advance)
    if processes.main() and not store.sealed(folder):
        dropped = len(_lost(folder))
        store.seal(folder, model.spec, {**provenance, "asked": total, "dropped_not_finite": dropped})
    processes.wait()
    rollouts = store.read(folder)
    if not len(rollouts):
        raise KalmError(f"none of {len(rows)} imagined rollouts is finite: the model is not usable.")
    return rollouts


def origins(folder: Path, rows: int, samples: int) -> np.ndarray:
    """Return the row that each rollout of an imagined dataset was decoded for: -> (N,) int64."""
    return np.delete(np.arange(rows * samples), _lost(folder)) // samples


def _lost(folder: Path) -> list[int]:
    """Return the numbers of the rollouts that were not finite, counted over all that were decoded."""
    return [
        number
        for index in sorted(store.finished_shards(folder))
        for number in store.shard_facts(folder, index)["lost"]
    ]


def _seed(seed: int, row: int, sample: int) -> int:
    return derive_seed(seed, "imagine", row, *([sample] if sample else []))


def _tell(others: set[int], shards: Sequence[range], advance: Advance) -> set[int]:
    """Count what other processes have finished."""
    if others:
        advance(sum(len(shards[index]) for index in others))
    return others
