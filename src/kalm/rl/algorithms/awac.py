"""AWAC (Nair et al. 2020): copy the data in proportion to how much better it is than the actor's own action.

::

    critics   (r + gamma min Q'(s', a' ~ pi) - Q(s, a))^2, the sum over both
    actor     - log pi(a|s) * softmax over the batch of (min Q(s, a) - min Q(s, b ~ pi)) / lambda

Discrete actions are read as one-hot vectors. As d3rlpy computes it, but for one deliberate difference: its
target also pays for the actor's entropy, at weight 1. AWAC has no such term (eq. 9), and over forty numbers
it outweighs rewards of scale 1 by far.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

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
from kalm.rl.networks import MLP, DiagonalNormal, GaussianPolicy, TwinQ
from kalm.runs.section import Section

LOG_STD = (-6.0, 0.0)  # bounds of the actor's log deviation


class AWACConfig(Section):
    """Advantage-weighted actor-critic."""

    lam: float = Field(default=1.0, gt=0, description="temperature lambda of the advantage")


class AWAC(Learner):
    """Twin critics of the actor's own actions; the actor copies the data in proportion to advantage."""

    vectors = True
    output: ClassVar[Output] = "tanh"
    scaled = True
    entropy: float = 0.0  # weight of the entropy in the critics' target; d3rlpy: 1

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: LearnerSettings,
        device: str,
        settings: AWACConfig,
    ) -> None:
        super().__init__(observation_size, action_size, config, device)
        self.lam: float = settings.lam
        self.actor: GaussianPolicy = GaussianPolicy(observation_size, action_size, config.hidden, *LOG_STD)
        self.critics: TwinQ = TwinQ(observation_size, action_size, config.hidden)
        self.target_critics: TwinQ = TwinQ(observation_size, action_size, config.hidden)
        frozen_copy(self.target_critics, self.critics)
        self.to(device)
        self.optimizers: dict[str, torch.optim.Adam] = {
            "actor": fused_adam(self.actor.parameters(), config.lr),
            "critics": fused_adam(self.critics.parameters(), config.lr),
        }

    @property
    def acting(self) -> MLP:
        """The mean action before tanh."""
        return self.actor.mean

    def losses(self, batch: TransitionBatch) -> LossTerms:
        """Return every loss term."""
        return self.critic_losses(batch) | self.actor_losses(batch)

    def critic_losses(self, batch: TransitionBatch) -> LossTerms:
        """Return the temporal-difference error."""
        found = self.critics(batch.observations, batch.actions)  # (2, B, 1)
        return {"critic_loss": squared_error(found, self.target(batch))}

    @torch.no_grad()
    def target(self, batch: TransitionBatch) -> Tensor:
        """Return r + gamma * the lesser target critic of the actor's own next action: (B, 1)."""
        action, log_prob = self.actor(batch.next_observations).rsample_tanh()  # (B, A), (B, 1)
        least = self.target_critics(batch.next_observations, action).amin(0)  # (B, 1)
        return bellman_target(batch, self.gamma, least - self.entropy * log_prob)

    def actor_losses(self, batch: TransitionBatch) -> LossTerms:
        """Return the weighted log density of the data's actions, summed over the batch as d3rlpy does."""
        raw = self.actor(batch.observations)
        policy = DiagonalNormal(raw.mean.tanh(), raw.log_std)
        return {"actor_loss": -(policy.log_prob(batch.actions) * self.weights(batch, policy)).sum()}

    @torch.no_grad()
    def weights(self, batch: TransitionBatch, policy: DiagonalNormal) -> Tensor:
        """Return B * softmax of the advantage over the actor's own action: (B, 1)."""
        own = policy.rsample().clamp_(-1, 1)  # (B, A)
        both = torch.stack([batch.actions, own], dim=1)  # (B, 2, A)
        least = self.critics.over_actions(batch.observations, both).amin(0)  # (B, 2)
        advantage = least[:, :1] - least[:, 1:]  # (B, 1)
        return len(advantage) * (advantage / self.lam).softmax(0)

    def update(self, batch: TransitionBatch, step: int) -> LossTerms:
        """Take the critics' step, then the actor's; move the targets."""
        critic = self.critic_losses(batch)
        descend(self.optimizers["critics"], critic["critic_loss"])
        actor = self.actor_losses(batch)
        descend(self.optimizers["actor"], actor["actor_loss"])
        soft_update([self.target_critics], [self.critics])
        return critic | actor
