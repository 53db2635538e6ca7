"""A whole imagined dataset: which rollouts for which instructions, decoded shard by shard, resumable.

Unusual: held-back wordings are never imagined for, so that policies can be measured on sentences that neither
the real nor the imagined data had. All rollouts are kept, also those that miss their goal, because the match
rate is measured on all of them; which of them a policy learns from is decided in training (`train.imagined`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kalm.config import ImagineConfig
from kalm.data import store
from kalm.data.checks import require_valid
from kalm.data.rollouts import RolloutSet
from kalm.envs.base import World
from kalm.errors import KalmError
from kalm.lm.generate import imagine
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
    advance: Advance = silent,
) -> RolloutSet:
    """Decode one rollout per row into `folder`, or go on where a stopped imagination ended, and return them.

    Row i depends on (seed, i) and the model alone, not on batches, shards, or where a stop fell. Rollouts
    with a number that is not finite are dropped; the dataset's provenance counts them.

    Raises:
        KalmError: nothing to imagine, or nothing finite came out.
    """
    if not rows:
        raise KalmError(
            "nothing to imagine: every level has 0 rollouts per instruction (imagine.rephrase, ...)."
        )
    starts = range(0, len(rows), config.shard)
    done = store.finished_shards(folder)
    for index, start in enumerate(starts):
        shard = rows[start : start + config.shard]
        if index in done:
            advance(len(shard), resumed=True)
            continue
        seeds = [derive_seed(seed, "imagine", row) for row in range(start, start + len(shard))]
        result = imagine(
            model,
            world,
            shard,
            seeds,
            prompt=config.prompt,
            horizon=config.horizon,
            batch=config.batch,
            temperature=config.temperature,
            advance=advance,
        )
        require_valid(result.rollouts)
        store.write_shard(folder, index, result.rollouts, {"dropped": result.dropped})
    if not store.sealed(folder):
        facts = [store.shard_facts(folder, index) for index in range(len(starts))]
        dropped = int(sum(fact["dropped"] for fact in facts))
        store.seal(folder, model.spec, {**provenance, "asked": len(rows), "dropped_not_finite": dropped})
    rollouts = store.read(folder)
    if not len(rollouts):
        raise KalmError(f"none of {len(rows)} imagined rollouts is finite: the model is not usable.")
    return rollouts
