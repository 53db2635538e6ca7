"""TD3+BC (Fujimoto & Gu 2021): a deterministic actor follows its critic, and stays near the data.

::

    critics   (r + gamma min Q'(s', pi'(s') + clipped noise) - Q(s, a))^2, the sum over both
    actor     (pi(s) - a)^2  -  alpha Q(s, pi(s)) / mean |Q|

Discrete actions are read as one-hot vectors. As d3rlpy computes it, without gradients of the critics' weights
in the actor's step.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from kalm.rl.algorithms.base import (
    Learner,
    LearnerSettings,
    LossTerms,
    Output,
    bellman_target,
    descend,
    frozen_copy,
    fused_adam,
    soft_update,
    squared_error,
)
from kalm.rl.batch import TransitionBatch
from kalm.rl.networks import MLP, TwinQ
from kalm.runs.section import Section

NOISE, NOISE_CLIP = 0.2, 0.5  # deviation and bound of the noise on the target's actions
ACTOR_EVERY = 2  # updates between steps of the actor and the targets


class TD3BCConfig(Section):
    """TD3+BC."""

    alpha: float = Field(default=2.5, gt=0, description="weight of value against copying")


class TD3BC(Learner):
    """Twin critics, a deterministic actor that is moved every other step and pulled towards the data."""

    vectors = True
    output: ClassVar[Output] = "tanh"
    scaled = True

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: LearnerSettings,
        device: str,
        settings: TD3BCConfig,
    ) -> None:
        super().__init__(observation_size, action_size, config, device)
        self.alpha: float = settings.alpha
        self.actor: MLP = MLP((observation_size,), config.hidden, action_size)
        self.target_actor: MLP = MLP((observation_size,), config.hidden, action_size)
        self.critics: TwinQ = TwinQ(observation_size, action_size, config.hidden)
        self.target_critics: TwinQ = TwinQ(observation_size, action_size, config.hidden)
        frozen_copy(self.target_actor, self.actor)
        frozen_copy(self.target_critics, self.critics)
        self.to(device)
        self.optimizers: dict[str, torch.optim.Adam] = {
            "actor": fused_adam(self.actor.parameters(), config.lr),
            "critics": fused_adam(self.critics.parameters(), config.lr),
        }

    @property
    def acting(self) -> MLP:
        """The action before tanh."""
        return self.actor

    def losses(self, batch: TransitionBatch) -> LossTerms:
        """Return every loss term."""
        return self.critic_losses(batch) | self.actor_losses(batch)

    def critic_losses(self, batch: TransitionBatch) -> LossTerms:
        """Return the temporal-difference error."""
        found = self.critics(batch.observations, batch.actions)  # (2, B, 1)
        return {"critic_loss": squared_error(found, self.target(batch))}

    @torch.no_grad()
    def target(self, batch: TransitionBatch) -> Tensor:
        """Return r + gamma * the lesser target critic of the target actor's action, shaken: (B, 1)."""
        mean = self.target_actor(batch.next_observations).tanh()  # (B, A)
        noise = (NOISE * torch.randn_like(mean)).clamp_(-NOISE_CLIP, NOISE_CLIP)
        action = (mean + noise).clamp_(-1, 1)
        return bellman_target(batch, self.gamma, self.target_critics(batch.next_observations, action).amin(0))

    def actor_losses(self, batch: TransitionBatch) -> LossTerms:
        """Return the first critic's value of the actor's own actions against their distance from the data."""
        action = self.actor(batch.observations).tanh()  # (B, A)
        value = self.critics.first.over_actions(batch.observations, action.unsqueeze(1))  # (B, 1)
        bc_loss = F.mse_loss(action, batch.actions)
        weight = self.alpha / value.abs().mean().detach()
        return {"actor_loss": bc_loss - weight * value.mean(), "bc_loss": bc_loss}

    def update(self, batch: TransitionBatch, step: int) -> LossTerms:
        """Take the critics' step; every other time the actor's, and move all targets."""
        critic = self.critic_losses(batch)
        descend(self.optimizers["critics"], critic["critic_loss"])
        if step % ACTOR_EVERY:
            return critic
        actor = self.actor_losses(batch)
        descend(self.optimizers["actor"], actor["actor_loss"])
        soft_update([self.target_critics, self.target_actor], [self.critics, self.actor])
        return critic | actor
