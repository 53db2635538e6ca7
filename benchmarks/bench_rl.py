"""Policy training against stock d3rlpy on the same data, shapes and thread count: one line per measurement.

Stock is d3rlpy as its documentation uses it: `MixedReplayBuffer` over two `ReplayBuffer`s of episodes whose
observations carry the goal vector, and `algo.fit` without files or progress bar. Both sides run in turns, and
the fastest turn of each counts, so that other load on the machine weighs on both alike.

    python benchmarks/bench_rl.py [--steps 200] [--turns 5] [--threads 1] [--clock wall]
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

from kalm.config import TrainConfig
from kalm.data.rollouts import RolloutSet
from kalm.rl import algorithms
from kalm.rl.buffer import MixedBuffer
from kalm.rl.encoder import GoalEncoder
from kalm.types import SOURCES, Goal, Instruction, WorldSpec

from d3rlpy.algos import DiscreteBCConfig, DiscreteCQLConfig  # isort: skip (kalm.rl mutes its import)
from d3rlpy.dataset import Episode, InfiniteBuffer, MixedReplayBuffer, ReplayBuffer
from d3rlpy.logging import NoopAdapterFactory
from d3rlpy.models import VectorEncoderFactory

SPEC = WorldSpec("clevr", tuple(f"{ball}.{axis}" for ball in "rbgpc" for axis in "xy"), "discrete", 40, 50)
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
STOCK = {"bc": DiscreteBCConfig, "cql": DiscreteCQLConfig}


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


def stock_buffer(part: RolloutSet, encoder: GoalEncoder) -> ReplayBuffer:
    """Return d3rlpy's buffer of the same rollouts; every episode ends in success."""
    vectors = encoder.encode([instruction.text for instruction in part.instructions])
    episodes = []
    for index, rollout in enumerate(part):
        goal = np.broadcast_to(vectors[part.which[index]], (len(rollout.actions), encoder.size))
        observations = np.concatenate([rollout.states[:-1], goal], axis=1)
        episodes.append(
            Episode(observations, rollout.actions[:, None], rollout.rewards[:, None], terminated=True)
        )
    return ReplayBuffer(InfiniteBuffer(), episodes=episodes, action_size=40)


def learners(name: str, config: TrainConfig, size: int) -> tuple[Any, Any]:
    """Return stock d3rlpy's learner and ours, untrained."""
    options = {"bc": {"beta": 0.0}, "cql": {"alpha": config.cql_alpha}}[name]
    stock = STOCK[name](
        batch_size=config.batch,
        learning_rate=config.lr,
        gamma=config.gamma,
        encoder_factory=VectorEncoderFactory(list(config.hidden)),
        **options,
    ).create(device="cpu")
    stock.create_impl((size,), 40)
    return stock, algorithms.create(name, SPEC, size, config, "cpu")


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


def main() -> None:
    """Measure batch sampling, then whole updates of each algorithm."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="updates per turn")
    parser.add_argument("--turns", type=int, default=5, help="turns per side")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of both sides")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: on a machine that others use")
    options = parser.parse_args()
    clock = CLOCKS[options.clock]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    torch.set_num_threads(options.threads)
    rng, config, encoder = np.random.default_rng(0), TrainConfig(), GoalEncoder()
    real, imagined = rollouts(6_400, 1_440, "real", rng), rollouts(10_000, 1_400, "imagined", rng)
    buffer = MixedBuffer(real, imagined, encoder, 0.5, rng)
    mixed = MixedReplayBuffer(stock_buffer(real, encoder), stock_buffer(imagined, encoder), 0.5)

    def sampling(draw: Callable[[int], object]) -> Callable[[], object]:
        return lambda: [draw(256) for _ in range(options.steps)]

    draws = [buffer.sample, buffer.sample_transition_batch, mixed.sample_transition_batch]
    tensors, arrays, stock = fastest([sampling(draw) for draw in draws], options.turns, options.steps, clock)
    report("batches of 256 as tensors", 1 / tensors, 1 / stock, "/s")
    report("batches of 256 as arrays", 1 / arrays, 1 / stock, "/s")
    for name in STOCK:
        theirs, ours = learners(name, config, buffer.observation_size)

        def train(ours: Any = ours) -> None:
            for step in range(options.steps):
                ours.impl.update(buffer.sample(256), step)

        def fit(theirs: Any = theirs) -> None:
            quiet = {"show_progress": False, "logger_adapter": NoopAdapterFactory()}
            theirs.fit(mixed, n_steps=options.steps, n_steps_per_epoch=options.steps, **quiet)

        own, base = fastest([train, fit], options.turns, options.steps, clock)
        report(f"{name}: whole updates", 1 / own, 1 / base, "/s")


if __name__ == "__main__":
    main()
