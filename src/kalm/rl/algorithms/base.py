"""What every algorithm has: networks, optimizers, `losses` and `update`; and the steps all of them take.

Losses come back as tensors: reading a number makes the processor wait, so that is left to the few steps whose
metrics are written down. A learner is a module, so `state_dict` is all that it has learnt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from kalm.rl.batch import TransitionBatch
from kalm.rl.networks import MLP
from kalm.runs.section import Section

TAU = 0.005  # share of the way that target networks go per update

LossTerms = dict[str, Tensor]
Output = Literal["tanh", "none"]


class LearnerSettings(Protocol):
    """Settings that every algorithm reads (`kalm.rl.settings.TrainConfig` has them)."""

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers of every network."""
        ...

    @property
    def lr(self) -> float:
        """Learning rate of every optimizer."""
        ...

    @property
    def gamma(self) -> float:
        """Discount."""
        ...


class Learner(nn.Module, ABC):
    """One algorithm in training.

    Attributes:
        vectors: reads actions as vectors; on a discrete world these are one-hot.
        output: what a policy does with the acting network's output.
        scaled: learns from rewards times `train.reward_scale`.
        optimizers: by name, each over the parameters of one loss.
    """

    vectors: ClassVar[bool] = False
    output: ClassVar[Output] = "none"
    scaled: ClassVar[bool] = False
    optimizers: dict[str, torch.optim.Adam]

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: LearnerSettings,
        device: str,
        settings: Section | None = None,
    ) -> None:
        """Build networks and optimizers.

        Args:
            observation_size: width I of an observation.
            action_size: number of discrete actions, or width A of an action.
            config: what every algorithm reads.
            device: torch device.
            settings: the algorithm's own.
        """
        super().__init__()
        self.action_size = action_size
        self.gamma: float = config.gamma

    @property
    @abstractmethod
    def acting(self) -> MLP:
        """The network whose output chooses actions."""

    @abstractmethod
    def losses(self, batch: TransitionBatch) -> LossTerms:
        """Return every loss term; no weight changes."""

    @abstractmethod
    def update(self, batch: TransitionBatch, step: int) -> LossTerms:
        """Learn from a batch, `step` updates having gone before; return the loss terms."""


def fused_adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Adam:
    """Return Adam in one kernel per step instead of a dozen per parameter."""
    return torch.optim.Adam(parameters, lr=lr, fused=True)


def descend(optimizer: torch.optim.Adam, loss: Tensor) -> None:
    """Take one step down the loss; nothing but this optimizer's own weights gets a gradient."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward(inputs=[weight for group in optimizer.param_groups for weight in group["params"]])
    optimizer.step()


def bellman_target(batch: TransitionBatch, gamma: float, next_values: Tensor) -> Tensor:
    """Return r + gamma * what follows: (B, 1); a terminal has nothing after it, a time-out has."""
    return batch.rewards + gamma * next_values * (1 - batch.terminals)


def squared_error(found: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each critic, summed over critics: (M, B, 1), (B, 1) -> ()."""
    return ((found - target) ** 2).mean(dim=(1, 2)).sum()


def frozen_copy(target: nn.Module, source: nn.Module) -> None:
    """Give a new target network the weights of the trained one; it gets no gradients."""
    target.load_state_dict(source.state_dict())
    target.requires_grad_(False)


@torch.no_grad()
def soft_update(targets: Sequence[nn.Module], sources: Sequence[nn.Module], tau: float = TAU) -> None:
    """Move target networks this share of the way towards the trained ones; 1: copy them."""
    old: list[Tensor] = [weight for net in targets for weight in net.parameters()]
    new: list[Tensor] = [weight for net in sources for weight in net.parameters()]
    torch._foreach_lerp_(old, new, tau)  # type: ignore[attr-defined]  # torch's own optimizers use it
