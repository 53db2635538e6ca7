"""What all learners share: how an entry of the table looks, and one step of gradient descent.

d3rlpy builds the networks and optimizers from its settings; the arithmetic of an update is ours, a subclass
of d3rlpy's implementation that computes the same losses in fewer passes. Losses come back as tensors: reading
a number makes the processor wait, so that is left to the few steps whose metrics are written down.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import nn

from kalm.rl.mlp import Layers
from kalm.rl.settings import TrainConfig

with redirect_stderr(io.StringIO()):  # d3rlpy imports gym, which prints five lines about its successor
    from d3rlpy.base import LearnableConfig
    from d3rlpy.models import VectorEncoderFactory
    from d3rlpy.optimizers import AdamFactory, OptimizerWrapper

Losses = dict[str, torch.Tensor]


class TransitionBatch(Protocol):
    """What an update reads of d3rlpy's batch, whose own type allows for images beside vectors."""

    observations: torch.Tensor  # (B, S + E)
    actions: torch.Tensor  # (B, 1) numbers or (B, A) vectors
    rewards: torch.Tensor  # (B, 1)
    next_observations: torch.Tensor  # (B, S + E)
    terminals: torch.Tensor  # (B, 1)
    intervals: torch.Tensor  # (B, 1)


@dataclass(frozen=True)
class AlgorithmForm:
    """A learner as it is for one kind of action.

    Attributes:
        configure: d3rlpy's settings from ours.
        update: subclass of d3rlpy's implementation; has `losses(batch)` too, which changes no weight. None
            where `configure` already brings its own.
        acting: the layers of each trained network that acts; their outputs are averaged.
        vectors: reads actions as vectors; on a discrete world these are one-hot.
        squash: the acting network's output goes through tanh.
        scaled: learns from rewards times `TrainConfig.reward_scale`.
    """

    configure: Callable[[TrainConfig], LearnableConfig]
    update: type | None
    acting: Callable[[Any], list[Layers]]
    vectors: bool = False
    squash: bool = False
    scaled: bool = False

    @property
    def output(self) -> Literal["tanh", "none"]:
        """What the policy does with the acting network's output."""
        return "tanh" if self.squash else "none"

    def reward_scale(self, config: TrainConfig) -> float:
        """Return what this form's rewards are multiplied by."""
        return config.reward_scale if self.scaled else 1.0


class FusedAdamFactory(AdamFactory):
    """Adam in one kernel per step instead of a dozen per parameter."""

    def create_optimizer(self, named_modules: Any, lr: float) -> torch.optim.Adam:
        """Return d3rlpy's Adam with the fused implementation, which a group without one would overrule."""
        (group,) = super().create_optimizer(named_modules, lr).param_groups
        settings = {key: group[key] for key in ("lr", "betas", "eps", "weight_decay", "amsgrad")}
        return torch.optim.Adam(group["params"], fused=True, **settings)


def encoders(config: TrainConfig, *roles: str) -> dict[str, Any]:
    """Return the settings of these networks' hidden layers, by d3rlpy's names."""
    return {_name(role, "encoder_factory"): VectorEncoderFactory(list(config.hidden)) for role in roles}


def optimizers(config: TrainConfig, *roles: str) -> dict[str, Any]:
    """Return the settings of these optimizers, by d3rlpy's names."""
    factories = {_name(role, "optim_factory"): FusedAdamFactory() for role in roles}
    return factories | {_name(role, "learning_rate"): config.lr for role in roles}


def _name(role: str, setting: str) -> str:
    return f"{role}_{setting}" if role else setting


def rebuild(stock: Any, update: type) -> Any:
    """Return an implementation of class `update` on the networks and settings of d3rlpy's.

    d3rlpy keeps every argument of an implementation under its name with an underscore in front.
    """
    names = [name for name in inspect.signature(type(stock).__init__).parameters if name != "self"]
    settings = {name: getattr(stock, f"_{name}") for name in names if name != "compiled"}
    return update(**settings, compiled=False)


def param_groups(impl: Any) -> list[dict[str, Any]]:
    """Return what each optimizer of an implementation trains, with the learning rate of its next step."""
    parts = vars(impl.modules).values()
    wrappers = [part for part in parts if isinstance(part, OptimizerWrapper)]
    return [group for wrapper in wrappers for group in wrapper.optim.param_groups]


def descend(optimizer: OptimizerWrapper, loss: torch.Tensor) -> None:
    """Take one step down the loss; nothing but this optimizer's own weights gets a gradient."""
    adam = optimizer.optim
    adam.zero_grad(set_to_none=True)
    loss.backward(inputs=[weight for group in adam.param_groups for weight in group["params"]])
    adam.step()


@torch.no_grad()
def follow(targets: Sequence[nn.Module], nets: Sequence[nn.Module], tau: float) -> None:
    """Move target networks this share of the way towards the trained ones."""
    old: list[torch.Tensor] = [weight for net in targets for weight in net.parameters()]
    new: list[torch.Tensor] = [weight for net in nets for weight in net.parameters()]
    torch._foreach_lerp_(old, new, tau)  # type: ignore[attr-defined]  # torch's own optimizers use it
