"""The table of learners: a name, the actions it is for, its d3rlpy settings, and the networks that act.

A new algorithm is one entry. Sizes come from the world's spec: d3rlpy would otherwise take the largest action
in the data for the last one. Two things differ from stock d3rlpy, neither in what is computed: Adam runs
fused, and CQL evaluates Q(s, .) once per update where d3rlpy evaluates it twice (temporal-difference and
conservative term), which halves its backward pass. Both agree with stock to rounding (tests).
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from kalm.config import TrainConfig
from kalm.errors import KalmError, unknown
from kalm.types import WorldSpec

with redirect_stderr(io.StringIO()):  # d3rlpy imports gym, which prints five lines about its successor
    from d3rlpy.algos import DiscreteBCConfig, DiscreteCQL, DiscreteCQLConfig
    from d3rlpy.algos.qlearning.torch.cql_impl import DiscreteCQLImpl, DiscreteCQLLoss
    from d3rlpy.base import DeviceArg, LearnableConfig
    from d3rlpy.models import VectorEncoderFactory
    from d3rlpy.models.torch.q_functions.utility import compute_huber_loss
    from d3rlpy.optimizers import AdamFactory
    from d3rlpy.torch_utility import TorchMiniBatch


@dataclass(frozen=True)
class Algorithm:
    """One learner.

    Attributes:
        action_kind: the kind of `WorldSpec.action_kind` it is for.
        configure: d3rlpy's settings from ours.
        networks: the trained networks whose averaged output is maximised to act.
    """

    action_kind: str
    configure: Callable[[TrainConfig], LearnableConfig]
    networks: Callable[[Any], list[nn.Module]]


class FusedAdamFactory(AdamFactory):
    """Adam in one kernel per step instead of a dozen per parameter."""

    def create_optimizer(self, named_modules: Any, lr: float) -> torch.optim.Adam:
        """Return d3rlpy's Adam with the fused implementation."""
        optimizer = super().create_optimizer(named_modules, lr)
        return torch.optim.Adam(optimizer.param_groups, fused=True)


class OnePassCQLConfig(DiscreteCQLConfig):
    """d3rlpy's settings; only the class they create differs."""

    def create(self, device: DeviceArg = False, enable_ddp: bool = False) -> OnePassCQL:
        """Return the learner."""
        return OnePassCQL(self, device, enable_ddp)


class OnePassCQL(DiscreteCQL):
    """Discrete CQL that evaluates Q(s, .) once per update."""

    def inner_create_impl(self, observation_shape: Any, action_size: int) -> None:
        """Build d3rlpy's networks and optimizer, and train them in one pass."""
        super().inner_create_impl(observation_shape, action_size)
        stock = self._impl
        assert stock is not None
        self._impl = OnePassCQLImpl(
            observation_shape=observation_shape,
            action_size=action_size,
            modules=stock.modules,  # type: ignore[arg-type]  # DQNModules, typed as its base by d3rlpy
            q_func_forwarder=stock._q_func_forwarder,
            targ_q_func_forwarder=stock._targ_q_func_forwarder,
            target_update_interval=self.config.target_update_interval,
            gamma=self.config.gamma,
            alpha=self.config.alpha,
            compiled=self.compiled,
            device=self._device,
        )


class OnePassCQLImpl(DiscreteCQLImpl):
    """The loss of `DiscreteCQLImpl` with both terms on the same Q values."""

    def compute_loss(self, batch: TorchMiniBatch, q_tpn: torch.Tensor) -> DiscreteCQLLoss:
        """Return Huber TD error + alpha * (log-sum-exp of Q - Q of the data's action); q_tpn: (B, 1)."""
        values = self._q_func_forwarder.compute_expected_q(batch.observations, reduction="none")  # (M, B, A)
        actions = batch.actions.long()  # (B, 1)
        chosen = values.gather(2, actions.expand(len(values), -1, -1))  # (M, B, 1)
        goal = batch.rewards + self._gamma**batch.intervals * q_tpn * (1 - batch.terminals)  # (B, 1)
        td_loss = compute_huber_loss(chosen, goal).mean(dim=(1, 2)).sum()
        conservative = (values.mean(0).logsumexp(1, keepdim=True) - chosen.mean(0)).mean()
        return DiscreteCQLLoss(td_loss + self._alpha * conservative, td_loss, conservative)


def _bc(config: TrainConfig) -> LearnableConfig:
    # d3rlpy's default adds a penalty on the squared outputs; behaviour cloning is the cross-entropy alone.
    return DiscreteBCConfig(learning_rate=config.lr, beta=0.0, **_shared(config))


def _cql(config: TrainConfig) -> LearnableConfig:
    return OnePassCQLConfig(learning_rate=config.lr, alpha=config.cql_alpha, **_shared(config))


def _shared(config: TrainConfig) -> dict[str, Any]:
    return {
        "batch_size": config.batch,
        "gamma": config.gamma,
        "encoder_factory": VectorEncoderFactory(list(config.hidden)),
        "optim_factory": FusedAdamFactory(),
    }


ALGORITHMS: dict[str, Algorithm] = {
    "bc": Algorithm("discrete", _bc, lambda modules: [modules.imitator]),
    "cql": Algorithm("discrete", _cql, lambda modules: list(modules.q_funcs)),
}


def require(name: str, spec: WorldSpec) -> Algorithm:
    """Return the algorithm of this name. Raises KalmError: unknown, or not for this world's actions."""
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    algorithm = ALGORITHMS[name]
    if algorithm.action_kind != spec.action_kind:
        fitting = sorted(key for key, value in ALGORITHMS.items() if value.action_kind == spec.action_kind)
        raise KalmError(
            f"algorithm {name!r} is for {algorithm.action_kind} actions, but world {spec.name!r} has "
            f"{spec.action_kind} ones. For them: {', '.join(fitting) or 'none yet'}."
        )
    return algorithm


def create(name: str, spec: WorldSpec, observation_size: int, config: TrainConfig, device: str) -> Any:
    """Return d3rlpy's learner, its networks built for (observation_size,) inputs and the spec's actions."""
    learner = require(name, spec).configure(config).create(device=device)
    learner.create_impl((observation_size,), spec.action_size)
    return learner


def acting_networks(name: str, learner: Any) -> list[list[nn.Linear]]:
    """Return the linear layers, first to last, of each network that acts."""
    networks = ALGORITHMS[name].networks(learner.impl.modules)
    return [[layer for layer in network.modules() if isinstance(layer, nn.Linear)] for network in networks]
