"""Real rollouts: the world's expert acts on `seen` instructions, shard by shard, in parallel processes.

Unusual: every rollout has its instruction before any episode runs, as balanced as the numbers allow. With
``keep="successful"`` a failed episode is run again for the same instruction, so dropping failures does not
unbalance the data.

States are rounded to float32 before anyone sees them, so that the verdict which ended an episode is the
verdict that anyone gets who judges the stored rollout again.

A shard depends on the seed and its own index alone, not on the number of workers nor on where a stop fell.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from kalm.data import storage
from kalm.data.rollouts import RolloutSet
from kalm.data.settings import CollectConfig
from kalm.data.validation import require_valid
from kalm.envs.base import World
from kalm.envs.rollout import EpisodeRecorder, begin, simulated, step_until_done
from kalm.errors import KalmError
from kalm.runs import processes
from kalm.runs.io import fingerprint, read_json, write_json
from kalm.runs.progress import Advance, silent
from kalm.runs.seeding import derive_rng
from kalm.types import Instruction, JsonObject

PLAN = "collection.json"
PROBES = 32
MAX_EPISODES = 200  # per rollout; an expert that never reaches its goal would keep us here forever

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


def _made_from(world: World, config: CollectConfig, seed: int) -> JsonObject:
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


def _claim(folder: Path, made_from: JsonObject) -> None:
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


def run_expert(
    world: World, instructions: Sequence[Instruction], config: CollectConfig, rng: np.random.Generator
) -> tuple[RolloutSet, dict[str, tuple[int, int]]]:
    """Run episodes side by side until each instruction has its rollout.

    Returns:
        The rollouts in the order of `instructions`, and by kind of goal how many episodes were run and how
        many of them succeeded.

    Raises:
        KalmError: the expert failed an instruction `MAX_EPISODES` times.
    """
    episodes = _ExpertEpisodes(world, instructions, config, rng)
    record = EpisodeRecorder(world.spec, len(instructions), world.spec.horizon)
    retry = episodes.retry if config.keep == "successful" else None
    try:
        states = episodes.begin(np.arange(len(instructions)))
        transition = simulated(world, episodes.simulator)
        step_until_done(episodes.act, transition, episodes.judge, states, record, retry)
    finally:
        episodes.simulator.close()
    kinds = np.array([instruction.goal.label for instruction in instructions])
    counts = {
        str(kind): (int(episodes.begun[kinds == kind].sum()), int(record.success[kinds == kind].sum()))
        for kind in np.unique(kinds)
    }
    return RolloutSet.from_recorder(instructions, record, source="real"), counts


class _ExpertEpisodes:
    """N episodes in a simulator, and who acts in them; all random numbers come from one generator."""

    def __init__(
        self,
        world: World,
        instructions: Sequence[Instruction],
        config: CollectConfig,
        rng: np.random.Generator,
    ) -> None:
        self.world, self.instructions, self.rng = world, tuple(instructions), rng
        self.judge = world.judge([instruction.goal for instruction in instructions])
        self.expert = world.expert(config.noise)
        self.simulator = world.simulator(len(instructions), conditions=config.conditions)
        self.begun = np.zeros(len(instructions), np.int64)  # (N,) episodes

    def begin(self, rows: np.ndarray) -> np.ndarray:
        """Start an episode in these rows, at the instruction's own initial state where it has one."""
        seeds = self.rng.integers(2**63, size=len(rows))
        self.begun[rows] += 1
        instructions = [self.instructions[row] for row in rows]
        return begin(self.simulator, self.world, instructions, seeds, rows).astype(np.float32)

    def retry(self, rows: np.ndarray) -> np.ndarray:
        """Start again in these rows, unless one of them has failed too often."""
        worst = rows[np.argmax(self.begun[rows])]
        if self.begun[worst] >= MAX_EPISODES:
            raise KalmError(
                f"the expert of environment {self.world.spec.name!r} failed {MAX_EPISODES} times at "
                f"{self.instructions[worst].text!r}. Set collect.keep=all, or lower collect.noise."
            )
        return self.begin(rows)

    def act(self, rows: np.ndarray, states: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        return self.expert.act(states, self.judge.take(rows), self.rng)


def _totals(folder: Path) -> JsonObject:
    """Sum the shards' counts: episodes run, the share of them that succeeded, and that by kind of goal."""
    counts: dict[str, np.ndarray] = {}
    for index in sorted(storage.finished_shards(folder)):
        for kind, pair in storage.shard_facts(folder, index)["kinds"].items():
            counts[kind] = counts.get(kind, np.zeros(2)) + pair
    episodes, successes = np.sum(list(counts.values()), axis=0)
    by_kind = {kind: float(won / played) for kind, (played, won) in sorted(counts.items())}
    return {"episodes": int(episodes), "success_rate": successes / episodes, "success_by_kind": by_kind}
