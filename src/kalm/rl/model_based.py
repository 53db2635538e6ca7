"""What a model-based algorithm needs besides data: a forward ensemble, fitted on the real rollouts."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from kalm.data.rollouts import RolloutSet
from kalm.dynamics import models
from kalm.dynamics.ensemble import KIND, ForwardEnsemble
from kalm.dynamics.settings import DynamicsConfig
from kalm.envs.base import World
from kalm.errors import KalmError
from kalm.rl.algorithms.combo import COMBO, DiscreteCOMBO
from kalm.rl.buffer import MixedBuffer
from kalm.rl.model_buffer import KEPT, ModelBuffer, ModelMix
from kalm.rl.settings import TrainConfig
from kalm.runs.progress import silent
from kalm.runs.seeding import derive_rng


@dataclass(frozen=True)
class ModelContext:
    """What a learner that makes transitions of its own makes them from.

    Attributes:
        world: judges them.
        real: rollouts of the offline data.
        config: settings of the training.
        dynamics: settings of the forward models.
        seed: of the training.
        folder: of the training; models are kept there.
    """

    world: World
    real: RolloutSet
    config: TrainConfig
    dynamics: DynamicsConfig
    seed: int
    folder: Path


def model_batches(learner: DiscreteCOMBO | COMBO, data: MixedBuffer, context: ModelContext) -> ModelMix:
    """Fit the ensemble (or read it, where a stopped training left it); return batches of data and model.

    The model's transitions become part of the learner, so that a checkpoint keeps them like weights.

    Raises:
        KalmError: no models wanted, batches too small for two kinds of rows, or a fitting that failed.
    """
    config, settings = context.config, context.config.combo
    _require(config, context.dynamics)
    capacity = KEPT * settings.rollouts * settings.horizon
    width = 1 if data.spec.action_kind == "discrete" else data.spec.action_size
    learner.ring = ModelBuffer(capacity, data.spec.state_size, width, data.device)
    return ModelMix(
        data,
        _ensemble(context, data.device),
        context.world.judge([item.goal for item in data.instructions]),
        learner,
        learner.ring,
        real_share=settings.real_share,
        horizon=settings.horizon,
        rollouts=settings.rollouts,
        refresh=settings.refresh,
        explore=settings.explore,
        rng=derive_rng(context.seed, "train", "model"),
    )


def _require(config: TrainConfig, dynamics: DynamicsConfig) -> None:
    if dynamics.members < 1:
        raise KalmError("algorithm 'combo' needs forward models: set dynamics.members to 1 or more.")
    if config.batch < 2:
        raise KalmError(f"algorithm 'combo' needs train.batch of 2 or more, not {config.batch}.")


def _ensemble(context: ModelContext, device: str) -> ForwardEnsemble:
    found = models.fitted(
        context.folder / "dynamics",
        context.real,
        context.dynamics,
        (KIND,),
        context.seed,
        device,
        lambda _name, _steps: nullcontext(silent),
    )
    assert found.ensemble is not None
    return found.ensemble
