"""Offline RL on real and imagined rollouts (paper section 4.3): one call trains one policy.

Training runs in torch's random
stream and thread count of its own and puts the caller's back. A stopped training continues from its
checkpoint and ends with the same policy, to the bit, as one that was never stopped. Whoever calls may look at
the policy on a schedule (play it, say); what the look returns joins the metrics of that step.

::

    folder/  checkpoint.safetensors   metrics.jsonl   tensorboard/
             steps/00005000/policy.*  at each checkpoint, for curves       policy.*  the last one
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from kalm.data.rollouts import RolloutSet
from kalm.data.validation import require_data
from kalm.dynamics.settings import DynamicsConfig
from kalm.envs.base import World
from kalm.envs.registry import make
from kalm.errors import KalmError
from kalm.rl import checkpoint
from kalm.rl.algorithms.base import Learner
from kalm.rl.algorithms.combo import COMBO, DiscreteCOMBO
from kalm.rl.buffer import MixedBuffer
from kalm.rl.encoder import GoalEncoder
from kalm.rl.losses import RunningMean, by_source
from kalm.rl.model_based import ModelContext, model_batches
from kalm.rl.model_buffer import ModelMix
from kalm.rl.policy import MLPPolicy, copied
from kalm.rl.settings import TrainConfig
from kalm.rl.table import ALGORITHMS, create_learner, learner_class
from kalm.rl.units import Units
from kalm.run.io import file_sha256, fingerprint, versions
from kalm.run.metrics import Metrics
from kalm.run.progress import Advance, silent
from kalm.run.seeding import derive_rng, derive_seed
from kalm.types import WorldSpec

LOG_EVERY = 100
CHECKPOINT = "checkpoint.safetensors"
NOT_IN_KEY = {  # what chooses policies and data, or only how far and how often; the data have their own hash
    *("algorithms", "seeds", "steps", "real_rollouts", "imagined", "per_level", "encoder"),
    *("checkpoint_every", "evaluate_every", "evaluate_episodes"),
}
EvalCallback = Callable[[MLPPolicy, int], Mapping[str, float]]


def train_offline(
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
    look: EvalCallback | None = None,
    start: Path | None = None,
    world: World | None = None,
    dynamics: DynamicsConfig | None = None,
) -> MLPPolicy:
    """Train one policy, or continue a stopped training of the same one, and store it in the folder.

    Args:
        spec: the world.
        real: real rollouts to learn from, all of them (`select` chooses).
        imagined: imagined rollouts to learn from, or None for the plain baseline.
        algorithm: name in `table.ALGORITHMS`.
        seed: fixes the first weights and every batch.
        config: settings; `steps`, `batch`, `mix` and the learner's.
        encoder: sentence encoder.
        folder: where everything goes.
        device: torch device.
        advance: told of finished steps.
        threads: torch threads. One, because policies train faster side by side.
        look: called with the policy so far and the step every `config.evaluate_every` steps and at the end;
            returns numbers for the metrics.
        start: folder of a policy of the same learner whose training goes on here, on these rollouts and up to
            `config.steps` in all; None: from random weights.
        world: judges what a learner's own model predicts; None: the installed one of the spec's name.
        dynamics: settings of such a model; None: the defaults.

    Raises:
        KalmError: unknown or unfitting algorithm, data of another world, nothing to learn from, numbers that
            are not finite, a folder with another training in it, or a loss that is no longer finite.
    """
    made = learner_class(algorithm, spec)
    require_data(spec, real, imagined)
    dynamics, model_based = dynamics or DynamicsConfig(), ALGORITHMS[algorithm].model_based
    facts = _made_from(spec, real, imagined, algorithm, seed, config, encoder, start)
    if model_based:
        facts["dynamics"] = dynamics.model_dump(mode="json")
    with _own_torch(device, derive_seed(seed, "train", "weights"), threads):
        rng = derive_rng(seed, "train", "batches")
        scale = config.reward_scale if made.scaled else 1.0
        units = Units.of(real, device) if config.standardise else None
        noise = config.goal_noise
        buffer = MixedBuffer(
            real, imagined, encoder, config.mix, rng, device, made.vectors, scale, units, noise
        )
        learner = create_learner(algorithm, spec, buffer.observation_size, config, device)
        batches: MixedBuffer | ModelMix = buffer
        if model_based:
            assert isinstance(learner, DiscreteCOMBO | COMBO)
            judge = world or make(spec.name)
            batches = model_batches(
                learner, buffer, ModelContext(judge, real, config, dynamics, seed, folder)
            )
        provenance = {"made_from": facts, "versions": versions()}

        def policy(step: int) -> MLPPolicy:
            layers = copied(learner.acting.layers)
            if units is not None:
                layers = units.folded(layers)
            facts = {"steps": step, **provenance}
            return MLPPolicy(spec, algorithm, encoder, [layers], device, facts, made.output)

        _run(learner, batches, config, fingerprint(facts), folder, policy, advance, look, start)
        final = policy(config.steps)
    final.save(folder)
    return final


def _run(
    learner: Learner,
    buffer: MixedBuffer | ModelMix,
    config: TrainConfig,
    key: str,
    folder: Path,
    policy: Callable[[int], MLPPolicy],
    advance: Advance,
    look: EvalCallback | None,
    start: Path | None,
) -> None:
    """Take the steps that are left, with metrics, looks and checkpoints on the way."""
    path = folder / CHECKPOINT
    first, window = _resume(path, learner, buffer, key, config.steps, start)
    rates = [
        (group, group["lr"]) for optimizer in learner.optimizers.values() for group in optimizer.param_groups
    ]
    advance(first, resumed=True)
    told = first
    with closing(Metrics(folder, first)) as metrics:
        for step in range(first + 1, config.steps + 1):
            batch = buffer.sample(config.batch)
            share = _rate(step, config)
            for group, lr in rates:
                group["lr"] = share * lr
            window.add(learner.update(batch, step - 1))
            last = step == config.steps
            values: dict[str, float] = {}
            if step % LOG_EVERY == 0 or last:
                values |= window.close(step)
                advance(step - told, loss=next(iter(values.values())))
                values |= by_source(learner, buffer, batch)
                told = step
            if look is not None and _due(step, config.evaluate_every, last):
                values |= look(policy(step), step)
            if values:
                metrics.log(step, values)
            if step % config.checkpoint_every == 0 or last:
                facts = {
                    "made_from": key,
                    "step": step,
                    "buffer": buffer.state(),
                    "window": window.state(step),
                }
                policy(step).save(folder / "steps" / f"{step:08d}")
                checkpoint.save(path, learner, facts)


def _rate(step: int, config: TrainConfig) -> float:
    """Return the share of the learning rate for this step, counted from 1."""
    falling = config.lr_decay * config.steps
    left = config.steps + 1 - step
    return min(1.0, left / falling) if falling else 1.0


def _due(step: int, every: int, last: bool) -> bool:
    return every > 0 and (step % every == 0 or last)


def _resume(
    path: Path, learner: Learner, buffer: MixedBuffer | ModelMix, key: str, steps: int, start: Path | None
) -> tuple[int, RunningMean]:
    """Put everything where the folder's checkpoint left it, else the learner where `start` left it."""
    facts = checkpoint.restore(path, learner, key)
    if facts is not None:
        buffer.restore(facts["buffer"])
    elif start is not None:
        path = start / CHECKPOINT
        facts = checkpoint.restore(path, learner, None)
    if facts is None:
        return 0, RunningMean()
    if facts["step"] > steps:
        raise KalmError(f"{path} is at step {facts['step']}, beyond train.steps={steps}. Use another folder.")
    return facts["step"], RunningMean(facts["window"])


@contextmanager
def _own_torch(device: str, seed: int, threads: int) -> Iterator[None]:
    """Seed torch and set its threads; all is as before after the block."""
    before = torch.get_num_threads()
    with torch.random.fork_rng([device] if "cuda" in device else []):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _made_from(
    spec: WorldSpec,
    real: RolloutSet,
    imagined: RolloutSet | None,
    algorithm: str,
    seed: int,
    config: TrainConfig,
    encoder: GoalEncoder,
    start: Path | None,
) -> dict[str, Any]:
    """Everything that the numbers of a training depend on, JSON-ready."""
    return {
        "world": spec.to_json(),
        "algorithm": algorithm,
        "seed": seed,
        "settings": config.model_dump(mode="json", exclude=NOT_IN_KEY),
        **({"steps": config.steps} if config.lr_decay else {}),  # the rate at any step then depends on them
        "encoder": encoder.identity,
        "real": _facts(real),
        "imagined": None if imagined is None else _facts(imagined),
        **({} if start is None else {"start": _beginning(start)}),
    }


def _beginning(folder: Path) -> str:
    path = folder / CHECKPOINT
    if not path.exists():
        raise KalmError(f"{path} does not exist, so there is no training to go on with.")
    return file_sha256(path)


def _facts(part: RolloutSet) -> dict[str, Any]:
    return {"rollouts": len(part), "transitions": part.transitions, "sha256": part.digest()}
