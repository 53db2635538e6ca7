"""Policy training against stock d3rlpy on the same data, shapes and thread count: one line per measurement.

Stock is d3rlpy as its documentation uses it: `MixedReplayBuffer` over two `ReplayBuffer`s of episodes whose
observations carry the goal vector, and `algo.fit` without files or progress bar. Both sides run in turns, and
the fastest turn of each counts, so that other load on the machine weighs on both alike.

How much faster it could be: an update's multiplications, counted by torch, at the rate of a large matrix
product measured in the same turns. `of limit` is the share of that rate which whole updates reach; stock's
own multiplications, more for the same losses, stand beside ours.

    python benchmarks/bench_rl.py [--only bc iql] [--steps 100] [--turns 5] [--threads 1] [--clock wall]
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import structlog
import torch
from d3rlpy.algos import (
    AWACConfig,
    CQLConfig,
    DiscreteBCConfig,
    DiscreteCQLConfig,
    IQLConfig,
    TD3PlusBCConfig,
)
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import Episode, InfiniteBuffer, MixedReplayBuffer, ReplayBuffer
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.models import VectorEncoderFactory
from d3rlpy.torch_utility import TorchMiniBatch
from torch.utils.flop_counter import FlopCounterMode

from kalm.data.rollouts import RolloutSet
from kalm.rl.algorithms.base import Learner
from kalm.rl.batch import TransitionBatch
from kalm.rl.buffer import MixedBuffer
from kalm.rl.encoder import GoalEncoder
from kalm.rl.settings import TrainConfig
from kalm.rl.table import create_learner, learner_class
from kalm.types import SOURCES, Goal, Instruction, WorldSpec

SPEC = WorldSpec("clevr", tuple(f"{ball}.{axis}" for ball in "rbgpc" for axis in "xy"), "discrete", 40, 50)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
SLOW = 5  # updates of continuous CQL cost that many times another learner's
STOCK = {
    "bc": (DiscreteBCConfig, {"beta": 0.0}, ("",)),
    "cql": (DiscreteCQLConfig, {"alpha": 10.0}, ("",)),
    "td3bc": (TD3PlusBCConfig, {}, ("actor", "critic")),
    "awac": (AWACConfig, {}, ("actor", "critic")),
    "iql": (IQLConfig, {}, ("actor", "critic", "value")),
    "cql-continuous": (
        CQLConfig,
        {"alpha_learning_rate": 0.0, "conservative_weight": 10.0, "alpha_threshold": 0.0},
        ("actor", "critic"),
    ),
}


def rollouts(count: int, goals: int, source: str, rng: np.random.Generator) -> RolloutSet:
    """Return rollouts with CLEVR-Robot's shapes: 2 to 10 actions, every instruction in use."""
    lengths = rng.integers(2, 11, count).astype(np.int32)
    total = int(lengths.sum())
    texts = [
        f"{source} goal {i}: push the ball number {i % 5} behind the one number {i % 7}" for i in range(goals)
    ]
    return RolloutSet(
        spec=SPEC,
        instructions=tuple(Instruction(text, "seen", Goal("move")) for text in texts),
        which=rng.integers(0, goals, count).astype(np.int32),
        lengths=lengths,
        states=rng.uniform(-0.5, 0.5, (total + count, 10)).astype(np.float32),
        actions=rng.integers(0, 40, total),
        rewards=rng.normal(size=total).astype(np.float32),
        success=np.ones(count, dtype=bool),
        source=np.full(count, SOURCES.index(source), dtype=np.int8),
    )


def stock_buffer(part: RolloutSet, encoder: GoalEncoder, one_hot: bool) -> ReplayBuffer:
    """Return d3rlpy's buffer of the same rollouts; every episode ends in success."""
    vectors = encoder.encode([instruction.text for instruction in part.instructions])
    episodes = []
    for index, rollout in enumerate(part):
        goal = np.broadcast_to(vectors[part.which[index]], (len(rollout.actions), encoder.size))
        observations = np.concatenate([rollout.states[:-1], goal], axis=1)
        actions = np.eye(40, dtype=np.float32)[rollout.actions] if one_hot else rollout.actions[:, None]
        episodes.append(Episode(observations, actions, rollout.rewards[:, None], terminated=True))
    space = ActionSpace.CONTINUOUS if one_hot else ActionSpace.DISCRETE  # d3rlpy takes 0 and 1 for numbers
    return ReplayBuffer(InfiniteBuffer(), episodes=episodes, action_space=space, action_size=40)


def stock_batch(batch: TransitionBatch) -> TorchMiniBatch:
    """Return our batch as d3rlpy's learners read it."""
    names = ("observations", "actions", "rewards", "next_observations", "terminals")
    return TorchMiniBatch(
        **dict(zip(names, batch.columns(), strict=True)),
        next_actions=torch.zeros_like(batch.actions),
        returns_to_go=torch.zeros_like(batch.rewards),
        intervals=torch.ones_like(batch.rewards),
        device="cpu",
    )


def learners(name: str, config: TrainConfig, size: int) -> tuple[Any, Learner]:
    """Return stock d3rlpy's learner and ours, untrained."""
    kind, options, roles = STOCK[name]
    layers = {
        f"{role}_encoder_factory".strip("_"): VectorEncoderFactory(list(config.hidden)) for role in roles
    }
    stock = kind(batch_size=config.batch, **layers, **options).create(device="cpu")
    stock.create_impl((size,), 40)
    return stock, create_learner(name, SPEC, size, config, "cpu")


def fastest(
    sides: list[Callable[[], object]], turns: int, repeats: int, clock: Callable[[], float]
) -> list[float]:
    """Return seconds per repeat of each side, run in turns."""
    best = [float("inf")] * len(sides)
    for _ in range(turns):
        for index, side in enumerate(sides):
            start = clock()
            side()
            best[index] = min(best[index], (clock() - start) / repeats)
    return best


def report(what: str, ours: float, stock: float, unit: str) -> None:
    """Print one measurement."""
    print(
        f"{what:<34} ours {ours:9.1f} {unit}   stock d3rlpy {stock:9.1f} {unit}   ratio {ours / stock:6.2f}"
    )


def multiplications(update: Callable[[int], object]) -> float:
    """Return what an update multiplies and adds in matrix products, as torch counts it (mean of two)."""
    with FlopCounterMode(display=False) as counter:
        update(0)
        update(1)
    return counter.get_total_flops() / 2


def measure_updates(name: str, data: tuple[RolloutSet, RolloutSet], mixed: Any, options: Any) -> None:
    """Print whole updates of one algorithm, ours against stock, and how near ours are to the limit."""
    config, encoder = TrainConfig(), options.encoder
    vectors = learner_class(name, SPEC).vectors
    buffer = MixedBuffer(*data, encoder, 0.5, np.random.default_rng(0), vectors=vectors)
    theirs, ours = learners(name, config, buffer.observation_size)
    steps = max(options.steps // SLOW, 2) if name == "cql-continuous" else options.steps
    batch, square = buffer.sample(256), torch.ones(1024, 1024)

    def train() -> None:
        for step in range(steps):
            ours.update(buffer.sample(256), step)

    def fit() -> None:
        quiet = {"show_progress": False, "logger_adapter": NoopAdapterFactory()}
        theirs.fit(mixed, n_steps=steps, n_steps_per_epoch=steps, **quiet)

    work = multiplications(lambda step: ours.update(batch, step))
    more = multiplications(lambda step: theirs.impl.update(stock_batch(batch), step)) / work
    sides = [train, fit, lambda: [square @ square for _ in range(steps)]]
    own, base, product = fastest(sides, options.turns, steps, CLOCKS[options.clock])
    report(f"{name}: whole updates", 1 / own, 1 / base, "/s")
    rate, reached = 2 * 1024**3 / product, work / own
    print(
        f"{'':<34} {work / 1e9:.2f} Gflop (stock {more:.2f}x), {reached / 1e9:.0f} of "
        f"{rate / 1e9:.0f} Gflop/s: {reached / rate:.0%} of limit"
    )


def measure_memory(count: int, length: int, width: int, kind: str) -> None:
    """Print the memory of a buffer of this many rollouts, the rollouts included."""
    names, size = tuple(map(str, range(width))), 40 if kind == "discrete" else 4
    spec = WorldSpec("large", names, kind, size, length)  # type: ignore[arg-type]
    total = count * length
    part = RolloutSet(
        spec=spec,
        instructions=(Instruction("go", "seen", Goal("move")),),
        which=np.zeros(count, np.int32),
        lengths=np.full(count, length, np.int32),
        states=np.zeros((total + count, width), np.float32),
        actions=np.zeros(total, np.int64) if kind == "discrete" else np.zeros((total, size), np.float32),
        rewards=np.zeros(total, np.float32),
        success=np.ones(count, bool),
        source=np.zeros(count, np.int8),
    )
    buffer = MixedBuffer(part, None, GoalEncoder(), 0.0, np.random.default_rng(0), vectors=True)
    held = sum(getattr(part, name).nbytes for name in ("states", "actions", "rewards", "which", "lengths"))
    buffer.sample(256)
    print(
        f"{count:,} rollouts of {length} {kind} actions, {width} state numbers: {held / 2**30:.2f} GiB of "
        f"columns, {buffer.nbytes / 2**20:.1f} MiB of the buffer's own"
    )


def main() -> None:
    """Measure batch sampling, whole updates of each algorithm, and memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="*", choices=STOCK, default=list(STOCK), help="algorithms")
    parser.add_argument("--steps", type=int, default=100, help="updates per turn")
    parser.add_argument("--turns", type=int, default=5, help="turns per side")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of both sides")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a machine that others use")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    torch.set_num_threads(options.threads)
    measure_memory(100_000, 50, 10, "discrete")
    measure_memory(100_000, 100, 91, "continuous")
    rng, options.encoder = np.random.default_rng(0), GoalEncoder()
    data = rollouts(6_400, 1_440, "real", rng), rollouts(10_000, 1_400, "imagined", rng)
    mixed = {
        vectors: MixedReplayBuffer(
            stock_buffer(data[0], options.encoder, vectors),
            stock_buffer(data[1], options.encoder, vectors),
            0.5,
        )
        for vectors in {learner_class(name, SPEC).vectors for name in options.only}
    }
    buffer = MixedBuffer(*data, options.encoder, 0.5, rng)

    def sampling(draw: Callable[[int], object]) -> Callable[[], object]:
        return lambda: [draw(256) for _ in range(options.steps)]

    stocks = next(iter(mixed.values())).sample_transition_batch
    tensors, stock = fastest(
        [sampling(draw) for draw in (buffer.sample, stocks)], options.turns, options.steps, clock
    )
    report("batches of 256", 1 / tensors, 1 / stock, "/s")
    for name in options.only:
        measure_updates(name, data, mixed[learner_class(name, SPEC).vectors], options)


if __name__ == "__main__":
    main()
