"""IQL, implicit Q-learning (Kostrikov et al. 2022): learn from the data's own actions, weigh the better ones.

::

    value     |tau - 1(u < 0)| u^2,   u = min Q'(s, a) - V(s)      tau: the expectile
    critics   (r + gamma V(s') - Q(s, a))^2, the sum over both
    actor     - log pi(a|s) * min(exp(beta u), 100)                beta: the temperature

Discrete actions are read as one-hot vectors. As d3rlpy computes it; the targets' values of the batch serve
the critics' step and the actor's, since nothing moves them in between.
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

LOG_STD = (-5.0, 2.0)  # bounds of the actor's log deviation
MAX_WEIGHT = 100.0  # of one transition in the actor's step


class IQLConfig(Section):
    """Implicit Q-learning."""

    expectile: float = Field(default=0.7, gt=0, lt=1, description="0.5 values the mean, 1 the best")
    temperature: float = Field(default=3.0, gt=0, description="weight of the advantage")


class IQL(Learner):
    """A value between mean and best of the data's actions; the actor copies the better ones."""

    vectors = True
    output: ClassVar[Output] = "tanh"
    scaled = True

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: LearnerSettings,
        device: str,
        settings: IQLConfig,
    ) -> None:
        super().__init__(observation_size, action_size, config, device)
        self.expectile: float = settings.expectile
        self.temperature: float = settings.temperature
        self.actor: GaussianPolicy = GaussianPolicy(observation_size, action_size, config.hidden, *LOG_STD)
        self.critics: TwinQ = TwinQ(observation_size, action_size, config.hidden)
        self.target_critics: TwinQ = TwinQ(observation_size, action_size, config.hidden)
        self.value: MLP = MLP((observation_size,), config.hidden, 1)
        frozen_copy(self.target_critics, self.critics)
        self.to(device)
        self.optimizers: dict[str, torch.optim.Adam] = {
            "actor": fused_adam(self.actor.parameters(), config.lr),
            "critics": fused_adam([*self.critics.parameters(), *self.value.parameters()], config.lr),
        }

    @property
    def acting(self) -> MLP:
        """The mean action before tanh."""
        return self.actor.mean

    def losses(self, batch: TransitionBatch) -> LossTerms:
        """Return every loss term."""
        least = self.least(batch)
        return self.critic_losses(batch, least) | self.actor_losses(batch, least)

    @torch.no_grad()
    def least(self, batch: TransitionBatch) -> Tensor:
        """Return the lesser target critic's value of the data's actions: (B, 1)."""
        return self.target_critics(batch.observations, batch.actions).amin(0)

    def critic_losses(self, batch: TransitionBatch, least: Tensor) -> LossTerms:
        """Return the critics' and the value network's errors."""
        with torch.no_grad():
            target = bellman_target(batch, self.gamma, self.value(batch.next_observations))  # (B, 1)
        q_loss = squared_error(self.critics(batch.observations, batch.actions), target)
        gap = least - self.value(batch.observations)  # (B, 1)
        side = (self.expectile - (gap.detach() < 0).float()).abs()
        v_loss = (side * gap**2).mean()
        return {"critic_loss": q_loss + v_loss, "q_loss": q_loss, "v_loss": v_loss}

    def actor_losses(self, batch: TransitionBatch, least: Tensor) -> LossTerms:
        """Return the weighted log density of the data's actions."""
        with torch.no_grad():
            advantage = least - self.value(batch.observations)
            weight = (self.temperature * advantage).exp().clamp(max=MAX_WEIGHT)  # (B, 1)
        raw = self.actor(batch.observations)
        policy = DiagonalNormal(raw.mean.tanh(), raw.log_std)
        return {"actor_loss": -(weight * policy.log_prob(batch.actions)).mean()}

    def update(self, batch: TransitionBatch, step: int) -> LossTerms:
        """Take the critics' step, then the actor's with the new value network; move the targets."""
        least = self.least(batch)
        critic = self.critic_losses(batch, least)
        descend(self.optimizers["critics"], critic["critic_loss"])
        actor = self.actor_losses(batch, least)
        descend(self.optimizers["actor"], actor["actor_loss"])
        soft_update([self.target_critics], [self.critics])
        return critic | actor
