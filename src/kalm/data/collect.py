"""Real rollouts: the world's expert acts on `seen` instructions, many episodes in lockstep, shards in parallel.

Unusual: every rollout has its instruction before any episode runs, as balanced as the numbers allow. With
``keep="successful"`` a failed episode is run again, for the same instruction from a new initial state, until it
succeeds, so dropping failures does not unbalance the data. The initial state is never judged.

A shard depends on the seed and its own index alone, not on the number of workers nor on where a stop fell.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import numpy as np

from kalm.config import CollectConfig
from kalm.data import store
from kalm.data.checks import layout, require_valid
from kalm.data.rollouts import RolloutSet
from kalm.data.score import score
from kalm.envs.base import Simulator, World
from kalm.errors import KalmError
from kalm.progress import Advance, silent
from kalm.runs import derive_rng, fingerprint, read_json, write_json
from kalm.types import SOURCES, Instruction

PLAN = "collection.json"
MAX_EPISODES = 200  # per rollout; without a limit an expert that never reaches a goal would keep us here forever

Job = tuple[int, tuple[Instruction, ...]]  # index of a shard, and the instruction of each of its rollouts


def collect(
    world: World,
    config: CollectConfig,
    seed: int,
    folder: Path,
    workers: int = 1,
    advance: Advance = silent,
    command: str = "",
) -> RolloutSet:
    """Fill `folder` with `config.rollouts` rollouts, or go on where a stopped collection ended, and return them.

    Args:
        world: where; must survive pickling when `workers` > 1.
        config: how many, how noisy, which to keep, how many per file.
        seed: root of all random numbers.
        folder: becomes a dataset; may hold a stopped or finished collection of the same settings.
        workers: processes; the rollouts do not depend on it.
        advance: told of finished rollouts.
        command: noted in the dataset's provenance.

    Raises:
        KalmError: the folder holds other rollouts, or the expert cannot reach a goal.
    """
    suite = world.suite("seen")
    made_from = _claim(folder, world, config, seed, suite)
    jobs = plan(suite, config, seed)
    done = store.finished_shards(folder)
    advance(sum(len(rows) for index, rows in jobs if index in done), resumed=True)
    for count in _work(world, config, seed, folder, workers, [job for job in jobs if job[0] not in done]):
        advance(count)
    if not store.sealed(folder):
        provenance = {"made_by": "collect", "command": command, **made_from, **_totals(folder)}
        store.seal(folder, world.spec, provenance)
    return store.read(folder)


def plan(suite: Sequence[Instruction], config: CollectConfig, seed: int) -> list[Job]:
    """Deal the instructions to rollouts and the rollouts to shards; no instruction gets two more than another."""
    rng = derive_rng(seed, "collect", "order")
    rounds = -(-config.rollouts // len(suite))
    order = np.concatenate([rng.permutation(len(suite)) for _ in range(rounds)])[: config.rollouts]
    starts = range(0, config.rollouts, config.shard)
    return [
        (index, tuple(suite[i] for i in order[start : start + config.shard]))
        for index, start in enumerate(starts)
    ]


def run_episodes(
    world: World, instructions: Sequence[Instruction], config: CollectConfig, rng: np.random.Generator
) -> tuple[RolloutSet, dict[str, int]]:
    """Run episodes until each instruction has its rollout; all open ones step together.

    Returns:
        The rollouts in the order of `instructions`, scored, and the counts `episodes` and `successes`.
    """
    n, horizon = len(instructions), world.spec.horizon
    shapes = layout(world.spec, 1, 1)
    states = np.zeros((n, horizon + 1, world.spec.state_size), np.float32)
    actions = np.zeros((n, horizon, *shapes["actions"][0][1:]), shapes["actions"][1])
    lengths, success, episodes = np.zeros(n, np.int32), np.zeros(n, bool), np.ones(n, np.int64)
    judge, expert, simulator = _compile(world, instructions, config)
    active = np.arange(n)
    states[:, 0] = _begin(simulator, instructions, active, rng)
    while len(active):
        verdicts, step = judge.take(active), lengths[active]
        now = states[active, step]
        taken = expert.act(now, verdicts, rng)
        after = simulator.step(taken, active).astype(np.float32)
        actions[active, step], states[active, step + 1] = taken, after
        success[active] = verdicts.success(now, taken, after)
        lengths[active] += 1
        over = success[active] | verdicts.one_step | (lengths[active] == horizon)
        again = active[over & ~success[active]] if config.keep == "successful" else active[:0]
        _require_hope(world, instructions, episodes, again)
        active = np.setdiff1d(active[~over], again) if False else np.sort(np.concatenate([active[~over], again]))
        lengths[again] = 0
        episodes[again] += 1
        states[again, 0] = _begin(simulator, instructions, again, rng)
    simulator.close()
    return states, {}
