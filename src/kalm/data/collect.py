"""Real rollouts: the world's expert acts on `seen` instructions, shard by shard, in parallel processes.

Unusual: every rollout has its instruction before any episode runs, as balanced as the numbers allow. With
``keep="successful"`` a failed episode is run again for the same instruction, so dropping failures does not
unbalance the data. The initial state is never judged.

A shard depends on the seed and its own index alone, not on the number of workers nor on where a stop fell.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kalm.data import storage
from kalm.data.lockstep import run_expert
from kalm.data.rollouts import RolloutSet
from kalm.data.settings import CollectConfig
from kalm.data.validation import require_valid
from kalm.envs.base import World
from kalm.errors import KalmError
from kalm.run import processes
from kalm.run.io import fingerprint, read_json, write_json
from kalm.run.progress import Advance, silent
from kalm.run.seeding import derive_rng
from kalm.types import Instruction

PLAN = "collection.json"
PROBES = 32

Job = tuple[int, tuple[Instruction, ...]]  # index of a shard, and the instruction of each of its rollouts


def collect_rollouts(
    world: World,
    config: CollectConfig,
    seed: int,
    folder: Path,
    workers: int = 1,
    advance: Advance = silent,
    command: str = "",
) -> RolloutSet:
    """Fill `folder` with `config.rollouts` rollouts, or go on where a stopped collection ended; return them.

    Args:
        world: where; must survive pickling when `workers` > 1.
        config: how many, how noisy, which to keep, how many per file.
        seed: root of all random numbers.
        folder: becomes a dataset; may hold a stopped or finished collection of the same settings.
        workers: processes; the rollouts do not depend on it.
        advance: told of finished rollouts.
        command: noted in the dataset's provenance.

    Raises:
        KalmError: the folder holds other rollouts, the expert cannot reach a goal, or a worker process died.
    """
    made_from = _made_from(world, config, seed)
    _claim(folder, made_from)
    jobs = plan(world.suite("seen"), config, seed)
    done = storage.finished_shards(folder)
    advance(sum(len(rows) for index, rows in jobs if index in done), resumed=True)
    left = [job for job in jobs if job[0] not in done]
    work = partial(_make_shard, world, config, seed, folder)
    for _, count in processes.each(work, left, min(workers, len(left))):
        advance(count)
    if not storage.sealed(folder):
        storage.seal(folder, world.spec, {**made_from, "command": command, **_totals(folder)})
    return storage.read(folder)


def plan(suite: Sequence[Instruction], config: CollectConfig, seed: int) -> list[Job]:
    """Deal instructions to rollouts and rollouts to shards; no instruction gets two more than another."""
    rng = derive_rng(seed, "collect", "order")
    rounds = -(-config.rollouts // len(suite))
    order = np.concatenate([rng.permutation(len(suite)) for _ in range(rounds)])[: config.rollouts]
    return [
        (index, tuple(suite[i] for i in order[start : start + config.shard]))
        for index, start in enumerate(range(0, config.rollouts, config.shard))
    ]


def _made_from(world: World, config: CollectConfig, seed: int) -> dict[str, Any]:
    """Return everything that the rollouts depend on; two collections that agree in it are the same."""
    suite = [instruction.to_json() for instruction in world.suite("seen")]
    return {
        "made_by": "collect",
        "world": world.spec.to_json(),
        "dynamics": _first_steps(world),
        "instructions": fingerprint(suite),
        "settings": config.model_dump(mode="json"),
        "seed": seed,
    }


def _first_steps(world: World) -> list[float]:
    """Return the mean first step of some episodes: worlds and experts of one name may differ in options."""
    goals = [instruction.goal for instruction in world.suite("seen")[:PROBES]]
    judge, simulator = world.judge(goals), world.simulator(len(goals))
    before = simulator.reset(goals, range(len(goals)))
    actions = world.expert(0.0).act(before, judge, np.random.default_rng(0))
    after = simulator.step(actions)
    simulator.close()
    means = np.append(after.mean(axis=0), judge.reward(before, actions, after).mean())
    return [round(float(number), 4) for number in means]


def _claim(folder: Path, made_from: dict[str, Any]) -> None:
    """Mark the folder as this collection's, unless it is another's."""
    path = folder / PLAN
    if path.exists():
        before = read_json(path, "collection")
        other = sorted(name for name in made_from if before.get(name) != made_from[name])
        if other:
            raise KalmError(
                f"{folder} holds a collection with other {', '.join(other)}. Choose another folder or "
                "delete it."
            )
    elif storage.sealed(folder) or storage.finished_shards(folder):
        raise KalmError(f"{folder} holds rollouts that no collection made. Choose another folder.")
    else:
        write_json(path, made_from)


def _make_shard(world: World, config: CollectConfig, seed: int, folder: Path, job: Job) -> int:
    index, instructions = job
    rollouts, counts = run_expert(world, instructions, config, derive_rng(seed, "collect", index))
    require_valid(rollouts)
    storage.write_shard(folder, index, rollouts, {"kinds": counts})
    return len(rollouts)


def _totals(folder: Path) -> dict[str, Any]:
    """Sum the shards' counts: episodes run, the share of them that succeeded, and that by kind of goal."""
    counts: dict[str, np.ndarray] = {}
    for index in sorted(storage.finished_shards(folder)):
        for kind, pair in storage.shard_facts(folder, index)["kinds"].items():
            counts[kind] = counts.get(kind, np.zeros(2)) + pair
    episodes, successes = np.sum(list(counts.values()), axis=0)
    by_kind = {kind: float(won / played) for kind, (played, won) in sorted(counts.items())}
    return {"episodes": int(episodes), "success_rate": successes / episodes, "success_by_kind": by_kind}
