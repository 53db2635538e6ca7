"""Offline RL on real and imagined rollouts (paper section 4.3): one call trains one policy.

Training runs in torch's random
stream and thread count of its own and puts the caller's back. A stopped training continues from its
checkpoint and ends with the same policy, to the bit, as one that was never stopped. Whoever calls may judge
the policy on a schedule (play it, say); what that returns joins the metrics of that step.

::

    folder/  checkpoint.safetensors   metrics.jsonl   tensorboard/
             steps/00005000/policy.*  at each checkpoint, for curves       policy.*  the last one
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import torch

from kalm.data.rollouts import RolloutSet
from kalm.data.validation import require_data
from kalm.dynamics.normalizer import Normalizer
from kalm.dynamics.settings import DynamicsConfig
from kalm.envs.base import World
from kalm.envs.registry import make
from kalm.errors import KalmError
from kalm.rl.algorithms.base import Learner, LossTerms
from kalm.rl.algorithms.combo import COMBO, DiscreteCOMBO
from kalm.rl.batch import TransitionBatch
from kalm.rl.buffer import MixedBuffer
from kalm.rl.encoder import GoalEncoder
from kalm.rl.losses import by_source
from kalm.rl.model_based import ModelContext, model_batches
from kalm.rl.model_buffer import ModelMix
from kalm.rl.policy import MLPPolicy, copied
from kalm.rl.settings import TrainConfig
from kalm.rl.table import ALGORITHMS, create_learner, learner_class
from kalm.runs.io import file_sha256, fingerprint, versions
from kalm.runs.metrics import Metrics
from kalm.runs.progress import Advance, silent
from kalm.runs.seeding import derive_rng, derive_seed
from kalm.training.callbacks import Evaluate, Every, LogMeanLosses, SaveCheckpoint, WriteMetrics
from kalm.training.checkpoint import NAME, Checkpoint, Resumed
from kalm.training.loop import TrainingStep, fit
from kalm.training.optimizer import schedule
from kalm.training.random_state import own_random_stream
from kalm.training.running_mean import RunningMean
from kalm.types import JsonObject, WorldSpec

LOG_EVERY = 100
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
    eval_callback: EvalCallback | None = None,
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
        eval_callback: called with the policy so far and the step every `config.evaluate_every` steps and at
            the end; returns numbers for the metrics.
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
    with own_random_stream(device, derive_seed(seed, "train", "weights")), _torch_threads(threads):
        rng = derive_rng(seed, "train", "batches")
        scale = config.reward_scale if made.scaled else 1.0
        normalizer = Normalizer(spec.state_size).fit_states(real).to(device) if config.standardise else None
        noise = config.goal_noise
        buffer = MixedBuffer(
            real, imagined, encoder, config.mix, rng, device, made.vectors, scale, normalizer, noise
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
            if normalizer is not None:
                layers = normalizer.folded(layers)
            facts = {"steps": step, **provenance}
            return MLPPolicy(spec, algorithm, encoder, [layers], device, facts, made.output)

        _run(learner, batches, config, fingerprint(facts), folder, policy, advance, eval_callback, start)
        final = policy(config.steps)
    final.save(folder)
    return final


class _Updates:
    """Takes steps, and knows what the last one was made of."""

    def __init__(self, learner: Learner, batches: MixedBuffer | ModelMix, size: int) -> None:
        self.learner, self.batches, self.size = learner, batches, size
        self.batch: TransitionBatch | None = None

    def __call__(self, step: int) -> LossTerms:
        """Take the step of this number, counted from 0."""
        self.batch = self.batches.sample(self.size)
        return self.learner.update(self.batch, step)

    def log_by_source(self, step: TrainingStep) -> None:
        """Add to the row every loss term of the last batch's real and imagined part, now and then."""
        if step.due(LOG_EVERY) and self.batch is not None and isinstance(self.batches, MixedBuffer):
            step.row |= by_source(self.learner, self.batches, self.batch)


def _run(
    learner: Learner,
    batches: MixedBuffer | ModelMix,
    config: TrainConfig,
    identity: str,
    folder: Path,
    policy: Callable[[int], MLPPolicy],
    advance: Advance,
    eval_callback: EvalCallback | None,
    start: Path | None,
) -> None:
    """Take the steps that are left, with metrics, evaluations and checkpoints on the way."""
    optimizers, device = learner.optimizers, next(learner.parameters()).device
    checkpoint = Checkpoint(folder / NAME, identity, learner.state_dict(), optimizers, device)
    resumed = _resume(checkpoint, batches, config.steps, start)
    done, update = resumed.step, _Updates(learner, batches, config.batch)
    mean = RunningMean(resumed.facts.get("mean"), "Lower train.lr.")
    # Where rates stay as they are, no schedule costs a microsecond.
    falling = optimizers.values() if config.lr_decay else ()

    def evaluate(step: int) -> Mapping[str, float]:
        return eval_callback(policy(step), step) if eval_callback else {}

    def keep(step: int) -> None:
        mean.state(step)  # raises where a loss is not finite: nothing is kept then
        policy(step).save(folder / "steps" / f"{step:08d}")

    with closing(Metrics(folder, done)) as metrics:
        fit(
            update,
            config.steps,
            done,
            schedulers=[
                schedule(optimizer, "linear", config.steps, decay=config.lr_decay, done=done)
                for optimizer in falling
            ],
            callbacks=[
                LogMeanLosses(mean, LOG_EVERY),
                update.log_by_source,
                Evaluate(config.evaluate_every, evaluate),
                WriteMetrics(metrics),
                Every(config.checkpoint_every, keep),
                SaveCheckpoint(
                    checkpoint,
                    config.checkpoint_every,
                    lambda step: {"buffer": batches.state(), "mean": mean.state(step)},
                    at_end=True,
                ),
            ],
            advance=advance,
            advance_every=LOG_EVERY,
        )


def _resume(
    checkpoint: Checkpoint, batches: MixedBuffer | ModelMix, steps: int, start: Path | None
) -> Resumed:
    """Put everything where the folder's checkpoint left it, else the learner where `start` left it."""
    resumed = checkpoint.restore()
    if resumed is not None:
        batches.restore(resumed.facts["buffer"])
    elif start is not None:
        resumed = checkpoint.restore_from(start / NAME)
    if resumed is None:
        return Resumed(0)
    if resumed.step > steps:
        raise KalmError(
            f"{checkpoint.path} is at step {resumed.step}, beyond train.steps={steps}. Use another folder."
        )
    return resumed


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Set torch's threads for the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
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
) -> JsonObject:
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
    path = folder / NAME
    if not path.exists():
        raise KalmError(f"{path} does not exist, so there is no training to go on with.")
    return file_sha256(path)


def _facts(part: RolloutSet) -> JsonObject:
    return {"rollouts": len(part), "transitions": part.transitions, "sha256": part.digest()}
