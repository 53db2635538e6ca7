"""Offline RL on real and imagined rollouts (paper section 4.3): one call trains one policy.

The loop calls the learner's update directly. d3rlpy's own `fit` spends a good part of each step on drawing
transitions one by one and on averaging ever longer lists for a progress bar. Training runs in torch's random
stream and thread count of its own and puts the caller's back. A stopped training continues from its
checkpoint and ends with the same policy, to the bit, as one that was never stopped.

::

    folder/  checkpoint.safetensors   metrics.jsonl   tensorboard/
             steps/00005000/policy.*  at each checkpoint, for curves       policy.*  the last one
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributions import Distribution

from kalm.config import TrainConfig
from kalm.data.checks import require_valid
from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError, unknown
from kalm.progress import Advance, silent
from kalm.rl import algorithms, checkpoint
from kalm.rl.buffer import MixedBuffer
from kalm.rl.encoder import GoalEncoder
from kalm.rl.policy import MLPPolicy, from_layers
from kalm.runs import Metrics, derive_rng, derive_seed, fingerprint, versions
from kalm.types import LEVELS, WorldSpec

LOG_EVERY = 100
NOT_IN_KEY = {  # what chooses policies and data, or only how far and how often; the data have their own hash
    *(
        "algorithms",
        "seeds",
        "steps",
        "checkpoint_every",
        "real_rollouts",
        "imagined",
        "per_level",
        "encoder",
    ),
}


def fit(
    spec: WorldSpec,
    real: RolloutSet,
    imagined: RolloutSet | None,
    algorithm: str,
    seed: int,
    config: TrainConfig,
    encoder: GoalEncoder,
    folder: Path,
    device: str = "cpu",
    advance: Advance = silent,
    threads: int = 1,
) -> MLPPolicy:
    """Train one policy, or continue a stopped training of the same one, and store it in the folder.

    Args:
        spec: the world.
        real: real rollouts to learn from, all of them (`select` chooses).
        imagined: imagined rollouts to learn from, or None for the plain baseline.
        algorithm: name in `algorithms.ALGORITHMS`.
        seed: fixes the first weights and every batch.
        config: settings; `steps`, `batch`, `mix` and the learner's.
        encoder: sentence encoder.
        folder: where everything goes.
        device: torch device.
        advance: told of finished steps.
        threads: torch threads. One, because policies train faster side by side.

    Raises:
        KalmError: unknown or unfitting algorithm, data of another world, nothing to learn from, numbers that
            are not finite, a folder with another training in it, or a loss that is no longer finite.
    """
    algorithms.require(algorithm, spec)
    require_data(spec, real, imagined)
    facts = _made_from(spec, real, imagined, algorithm, seed, config, encoder)
    with _own_torch(device, derive_seed(seed, "train", "weights"), threads):
        rng = derive_rng(seed, "train", "batches")
        buffer = MixedBuffer(real, imagined, encoder, config.mix, rng, device)
        learner = algorithms.create(algorithm, spec, buffer.observation_size, config, device)
        provenance = {"made_from": facts, "versions": versions()}

        def policy(step: int) -> MLPPolicy:
            members = from_layers(algorithms.acting_networks(algorithm, learner))
            return MLPPolicy(spec, algorithm, encoder, members, device, {"steps": step, **provenance})

        _run(learner, buffer, config, fingerprint(facts), folder, policy, advance)
        final = policy(config.steps)
    final.save(folder)
    return final


def select(
    real: RolloutSet, imagined: RolloutSet | None, config: TrainConfig, seed: int, level: str | None = None
) -> tuple[RolloutSet, RolloutSet | None]:
    """Return the rollouts that a policy of this seed (and level) learns from.

    The choice of real rollouts depends on the seed alone, so policies with and without imagined ones compare.

    Raises:
        KalmError: unknown level, or no imagined rollout is left.
    """
    if config.real_rollouts is not None and config.real_rollouts < len(real):
        order = derive_rng(seed, "train", "real").permutation(len(real))
        real = real.take(np.sort(order[: config.real_rollouts]))
    if imagined is None:
        return real, None
    if level is not None and level not in LEVELS:
        raise unknown("level", level, LEVELS)
    kept = np.ones(len(imagined), dtype=bool) if level is None else imagined.levels == level
    at_level = int(kept.sum())
    kept &= imagined.success if config.imagined == "successful" else True
    if not kept.any():
        raise KalmError(
            f"no imagined rollout to learn from: of {len(imagined)} given, {at_level} are of level "
            f"{level or 'any'}, 0 pass train.imagined={config.imagined}. Imagine more, set "
            "train.imagined=all, or train without imagined rollouts."
        )
    return real, imagined.take(kept)


def require_data(spec: WorldSpec, real: RolloutSet, imagined: RolloutSet | None) -> None:
    """Raise KalmError where rollouts cannot be learnt from; says which part, what is wrong, and where."""
    for name, part in (("real", real), ("imagined", imagined)):
        if part is None:
            continue
        if part.spec != spec:
            raise KalmError(f"the {name} rollouts belong to {part.spec}, but the policy is for {spec}.")
        if not len(part):
            raise KalmError(f"there are no {name} rollouts. Give at least one, or None for no imagined ones.")
        try:
            require_valid(part)
        except KalmError as error:
            raise KalmError(f"{name} rollouts: {error}") from None


def _run(
    learner: Any,
    buffer: MixedBuffer,
    config: TrainConfig,
    key: str,
    folder: Path,
    policy: Callable[[int], MLPPolicy],
    advance: Advance,
) -> None:
    """Take the steps that are left, with metrics and checkpoints on the way."""
    path = folder / "checkpoint.safetensors"
    start, window = _resume(path, learner, buffer, key, config.steps)
    advance(start, resumed=True)
    told = start
    with closing(Metrics(folder, start)) as metrics:
        for step in range(start + 1, config.steps + 1):
            window.add(step, learner.impl.update(buffer.sample(config.batch), step - 1))
            last = step == config.steps
            if step % LOG_EVERY == 0 or last:
                means = window.close()
                metrics.log(step, means)
                advance(step - told, loss=means["loss"])
                told = step
            if step % config.checkpoint_every == 0 or last:
                policy(step).save(folder / "steps" / f"{step:08d}")
                facts = {"made_from": key, "step": step, "buffer": buffer.state(), "window": window.sums}
                checkpoint.save(path, learner, {**facts, "window_steps": window.steps})


def _resume(path: Path, learner: Any, buffer: MixedBuffer, key: str, steps: int) -> tuple[int, _Window]:
    facts = checkpoint.restore(path, learner, key)
    if facts is None:
        return 0, _Window()
    if facts["step"] > steps:
        raise KalmError(f"{path} is at step {facts['step']}, beyond train.steps={steps}. Use another folder.")
    buffer.restore(facts["buffer"])
    return facts["step"], _Window(facts["window"], facts["window_steps"])


class _Window:
    """Mean of each loss term since the last row of metrics."""

    def __init__(self, sums: Mapping[str, float] | None = None, steps: int = 0) -> None:
        self.sums = dict(sums or {})
        self.steps = steps

    def add(self, step: int, losses: Mapping[str, float]) -> None:
        if not all(map(math.isfinite, losses.values())):
            raise KalmError(f"the losses are no longer finite at step {step}: {losses}. Lower train.lr.")
        self.steps += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def close(self) -> dict[str, float]:
        means = {name: value / self.steps for name, value in self.sums.items()}
        self.sums, self.steps = {}, 0
        return means


@contextmanager
def _own_torch(device: str, seed: int, threads: int) -> Iterator[None]:
    """Seed torch, set its threads and skip its checks of distributions; all is as before after the block.

    The checks look at every number of every batch; losses that are not finite are noticed here anyway.
    """
    before, checks = torch.get_num_threads(), Distribution._validate_args
    with torch.random.fork_rng([device] if "cuda" in device else []):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        Distribution.set_default_validate_args(False)
        try:
            yield
        finally:
            torch.set_num_threads(before)
            Distribution.set_default_validate_args(checks)


def _made_from(
    spec: WorldSpec,
    real: RolloutSet,
    imagined: RolloutSet | None,
    algorithm: str,
    seed: int,
    config: TrainConfig,
    encoder: GoalEncoder,
) -> dict[str, Any]:
    """Everything that the numbers of a training depend on, JSON-ready."""
    return {
        "world": spec.to_json(),
        "algorithm": algorithm,
        "seed": seed,
        "settings": config.model_dump(mode="json", exclude=NOT_IN_KEY),
        "encoder": encoder.identity,
        "real": _digest(real),
        "imagined": None if imagined is None else _digest(imagined),
    }


def _digest(part: RolloutSet) -> dict[str, Any]:
    digest = hashlib.sha256("\n".join(instruction.text for instruction in part.instructions).encode())
    columns = (part.which, part.lengths, part.states, part.actions, part.rewards, part.success, part.weights)
    for column in columns:
        digest.update(np.ascontiguousarray(column).data)
    return {"rollouts": len(part), "transitions": part.transitions, "sha256": digest.hexdigest()}
