"""COMBO (Yu et al. 2021): conservative Q-learning on data and on short rollouts of a model of the world.

A forward ensemble is fitted on the real rollouts. The policy in training takes a few steps in it from states
of the data, real and imagined (`model_rollouts`), and every batch is part data, part model. With d those
transitions and D the data among them,

::

    loss = mean_d 1/2 (r + gamma Q'(s', pi(s')) - Q(s, a))^2
         + alpha ( mean_d log sum_a exp Q(s, a)  -  mean_D Q(s, a) )

so values are pushed down on what the policy might do and up on what the data did. Networks, targets and
optimizers are those of d3rlpy's CQL; only the loss is ours.

Unusual: values are pushed down at all of d, where the paper takes the model's states alone. With those,
nothing sets the data's action apart from its neighbours, and policies are far worse in both worlds
(docs/log.md). And the error is squared where d3rlpy's discrete learners use Huber's: the conservative term
has no lower bound, as model states are not the data's, so against an error that grows linearly values can
run away. The weight alpha is fixed, as in the paper.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from d3rlpy.algos import CQLConfig, DiscreteCQLConfig
from d3rlpy.algos.qlearning.torch.cql_impl import CQLModules
from d3rlpy.algos.qlearning.torch.dqn_impl import DQNModules

from kalm.data.rollouts import RolloutSet
from kalm.dynamics import models
from kalm.dynamics.ensemble import KIND, ForwardEnsemble
from kalm.dynamics.settings import DynamicsConfig
from kalm.envs.base import World
from kalm.errors import KalmError
from kalm.rl import conservative, discrete
from kalm.rl.actor_critic import gaussian, squared_error
from kalm.rl.buffer import MixedBuffer
from kalm.rl.learner import Losses, TransitionBatch
from kalm.rl.mlp import forward, linears, value, values
from kalm.rl.model_buffer import KEPT, ModelBuffer, ModelMix, data_rows
from kalm.rl.settings import TrainConfig
from kalm.run.progress import silent
from kalm.run.seeding import derive_rng


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


def discrete_settings(config: TrainConfig) -> DiscreteCQLConfig:
    """Return d3rlpy's settings for discrete actions."""
    stock = discrete.cql(config)
    return replace(stock, alpha=config.combo_alpha, target_update_interval=config.combo_target)


def continuous_settings(config: TrainConfig) -> CQLConfig:
    """Return d3rlpy's settings for continuous actions. Its squared error has no half, so alpha is doubled."""
    return replace(conservative.cql(config), conservative_weight=2 * config.combo_alpha)


def prepare(learner: Any, data: MixedBuffer, material: ModelContext) -> ModelMix:
    """Fit the ensemble (or read it, where a stopped training left it) and give the learner its batches.

    Raises:
        KalmError: no models wanted, batches too small for two kinds of rows, or a fitting that failed.
    """
    config, seed, device = material.config, material.seed, data.device
    _require(config, material.dynamics)
    capacity = KEPT * config.combo_rollouts * config.combo_horizon
    width = 1 if data.spec.action_kind == "discrete" else data.spec.action_size
    ring = ModelBuffer(capacity, data.spec.state_size, width, device)
    learner.impl.hold(ring, config.combo_real_share)
    return ModelMix(
        data,
        _ensemble(material, device),
        material.world.judge([item.goal for item in data.instructions]),
        learner.impl,
        ring,
        real_share=config.combo_real_share,
        horizon=config.combo_horizon,
        rollouts=config.combo_rollouts,
        refresh=config.combo_refresh,
        explore=config.combo_explore,
        rng=derive_rng(seed, "train", "model"),
    )


def _require(config: TrainConfig, dynamics: DynamicsConfig) -> None:
    if dynamics.members < 1:
        raise KalmError("algorithm 'combo' needs forward models: set dynamics.members to 1 or more.")
    if config.batch < 2:
        raise KalmError(f"algorithm 'combo' needs train.batch of 2 or more, not {config.batch}.")


def _ensemble(material: ModelContext, device: str) -> ForwardEnsemble:
    found = models.fitted(
        material.folder / "dynamics",
        material.real,
        material.dynamics,
        (KIND,),
        material.seed,
        device,
        lambda _name, _steps: nullcontext(silent),
    )
    assert found.ensemble is not None
    return found.ensemble


@dataclass(frozen=True)
class DiscreteModules(DQNModules):
    """Networks and optimizer, and the model's transitions, which a checkpoint keeps like weights."""

    ring: ModelBuffer


@dataclass(frozen=True)
class ContinuousModules(CQLModules):
    """As `DiscreteModules`."""

    ring: ModelBuffer


class DiscreteCombo(discrete.CQL):
    """The loss on batches whose first rows are data and whose other rows are the model's."""

    real_share: float

    def hold(self, ring: ModelBuffer, real_share: float) -> None:
        """Keep the model's transitions with the networks; say how much of a batch is data."""
        self._modules, self.real_share = DiscreteModules(**_parts(self._modules), ring=ring), real_share

    def losses(self, batch: TransitionBatch) -> Losses:
        """Return every loss term."""
        count = data_rows(len(batch.rewards), self.real_share)
        seen = batch.observations
        assert isinstance(seen, torch.Tensor)
        values = torch.stack([forward(linears(net), seen) for net in self._modules.q_funcs])  # (M, B, A)
        actions = batch.actions.long()  # (B, 1)
        chosen = values.gather(2, actions.expand(len(values), -1, -1))  # (M, B, 1)
        td_loss = 0.5 * (chosen - self.goal(batch)).square().mean(dim=(1, 2)).sum()
        conservative = values.mean(0).logsumexp(1).mean() - chosen[:, :count].mean()
        return {
            "loss": td_loss + self._alpha * conservative,
            "td_loss": td_loss,
            "conservative_loss": conservative,
        }


class ContinuousCombo(conservative.CQL):
    """The same with an actor; the sum over actions is CQL's, by samples of the policy and uniform ones."""

    real_share: float

    def hold(self, ring: ModelBuffer, real_share: float) -> None:
        """Keep the model's transitions with the networks; say how much of a batch is data."""
        self._modules, self.real_share = ContinuousModules(**_parts(self._modules), ring=ring), real_share

    def critic_losses(self, batch: TransitionBatch) -> Losses:
        """Return the temporal-difference error and the conservative term."""
        count = data_rows(len(batch.rewards), self.real_share)
        seen, then = batch.observations, batch.next_observations
        assert isinstance(seen, torch.Tensor) and isinstance(then, torch.Tensor)
        with torch.no_grad():
            following = gaussian(self._modules.policy, then)
            goal = self.goal(batch, following)
            actions, densities = self.sampled(gaussian(self._modules.policy, seen), following)
        chosen = values(self.critics, seen, batch.actions)  # (M, B, 1)
        others = torch.stack([value(net, seen, actions) for net in self.critics]) - densities
        gap = others.logsumexp(2).mean(1) - chosen[:, :count].mean(dim=(1, 2))  # (M,)
        down = self._conservative_weight * gap.sum()
        td_loss = squared_error(chosen, goal)
        return {"critic_loss": td_loss + down, "td_loss": td_loss, "conservative_loss": down}


def _parts(modules: Any) -> dict[str, Any]:
    return {part.name: getattr(modules, part.name) for part in fields(modules)}
