"""CQL, conservative Q-learning (Kumar et al. 2020): values pushed up on the data's actions, down on others.

::

    discrete     Huber( r + gamma Q'(s', argmax Q(s', .)) - Q(s, a) )
                 + alpha ( log sum_b exp Q(s, b)  -  Q(s, a) )

    continuous   sum over both critics of  (r + gamma min Q'(s', mean action) - Q(s, a))^2
                 + alpha ( log sum_b exp( Q(s, b) - log p(b) )  -  Q(s, a) )
                 b: n actions of the policy at s, n of it at s', n uniform ones; p: what each was drawn from
    actor        temperature * log pi(b|s) - min Q(s, b),  the temperature keeping the entropy near A

As d3rlpy computes it, in fewer passes. Stock evaluates Q(s, .) twice per update, for either term; here one
pass takes the data's action and all others together, and the first layer sees each observation once for all
of them. The actor's outputs at s' serve both the target and the samples. The weight alpha is fixed.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
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
from kalm.rl.networks import MLP, DiagonalNormal, GaussianPolicy, TwinQ
from kalm.runs.section import Section

TARGET_EVERY = 8_000  # discrete actions: updates between copies to the target network
LOG_STD = (-20.0, 2.0)  # bounds of the actor's log deviation


class CQLConfig(Section):
    """Conservative Q-learning."""

    alpha: float = Field(default=10.0, ge=0, description="weight of the conservative term (paper: 10)")
    samples: int = Field(
        default=10,
        gt=0,
        description="continuous actions: how many the conservative term draws per state from the policy, "
        "from the policy one step later, and uniformly; time grows with it",
    )


class DiscreteCQL(Learner):
    """Double Q-learning with one network and the conservative term."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: LearnerSettings,
        device: str,
        settings: CQLConfig,
    ) -> None:
        super().__init__(observation_size, action_size, config, device)
        self.alpha: float = settings.alpha
        self.target_every = TARGET_EVERY
        self.q: MLP = MLP((observation_size,), config.hidden, action_size)
        self.target_q: MLP = MLP((observation_size,), config.hidden, action_size)
        frozen_copy(self.target_q, self.q)
        self.to(device)
        self.optimizers: dict[str, torch.optim.Adam] = {"q": fused_adam(self.q.parameters(), config.lr)}

    @property
    def acting(self) -> MLP:
        """Q values of the actions."""
        return self.q

    @torch.no_grad()
    def sample_action(self, observations: Tensor) -> Tensor:
        """Act as the policy does now: (B, I) -> (B,)."""
        return self.q(observations).argmax(1)

    def losses(self, batch: TransitionBatch) -> LossTerms:
        """Return the temporal-difference error and the conservative term."""
        values = self.q(batch.observations)  # (B, A)
        chosen = values.gather(1, batch.actions.long())  # (B, 1)
        td_loss = F.huber_loss(chosen, self.target(batch))
        conservative = (values.logsumexp(1, keepdim=True) - chosen).mean()
        return self.weighed(td_loss, conservative)

    def weighed(self, td_loss: Tensor, conservative: Tensor) -> LossTerms:
        """Return both terms and the loss that they make up."""
        loss = td_loss + self.alpha * conservative
        return {"loss": loss, "td_loss": td_loss, "conservative_loss": conservative}

    @torch.no_grad()
    def target(self, batch: TransitionBatch) -> Tensor:
        """Return r + gamma * Q'(s', argmax Q(s', .)): (B, 1)."""
        best = self.q(batch.next_observations).argmax(1, keepdim=True)  # (B, 1)
        return bellman_target(batch, self.gamma, self.target_q(batch.next_observations).gather(1, best))

    def update(self, batch: TransitionBatch, step: int) -> LossTerms:
        """Take one step; replace the target network when it is due."""
        losses = self.losses(batch)
        descend(self.optimizers["q"], losses["loss"])
        if step % self.target_every == 0:
            soft_update([self.target_q], [self.q], tau=1)
        return losses


class CQL(Learner):
    """Twin critics pushed down on sampled actions and up on the data's; an actor with temperature."""

    vectors = True
    output: ClassVar[Output] = "tanh"

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: LearnerSettings,
        device: str,
        settings: CQLConfig,
    ) -> None:
        super().__init__(observation_size, action_size, config, device)
        self.alpha: float = settings.alpha
        self.samples: int = settings.samples
        self.actor: GaussianPolicy = GaussianPolicy(
            observation_size, action_size, config.hidden, *LOG_STD, free=True
        )
        self.critics: TwinQ = TwinQ(observation_size, action_size, config.hidden)
        self.target_critics: TwinQ = TwinQ(observation_size, action_size, config.hidden)
        self.log_temp: nn.Parameter = nn.Parameter(torch.zeros(1, 1))
        frozen_copy(self.target_critics, self.critics)
        self.to(device)
        self.optimizers: dict[str, torch.optim.Adam] = {
            "actor": fused_adam(self.actor.parameters(), config.lr),
            "critics": fused_adam(self.critics.parameters(), config.lr),
            "temp": fused_adam([self.log_temp], config.lr),
        }

    @property
    def acting(self) -> MLP:
        """The mean action before tanh."""
        return self.actor.mean

    @torch.no_grad()
    def sample_action(self, observations: Tensor) -> Tensor:
        """Draw an action as the policy would now: (B, I) -> (B, A)."""
        return self.actor(observations).rsample().tanh()

    def losses(self, batch: TransitionBatch) -> LossTerms:
        """Return every loss term."""
        critic = self.critic_losses(batch)
        log_prob, least = self.judged(batch)
        return critic | self.actor_losses(log_prob, least) | {"temp_loss": self.temp_loss(log_prob)}

    def critic_losses(self, batch: TransitionBatch) -> LossTerms:
        """Return the temporal-difference error and the conservative term."""
        target, actions, log_probs = self.target_and_samples(batch)
        together = torch.cat([batch.actions.unsqueeze(1), actions], dim=1)  # (B, 1 + 3n, A)
        found = self.critics.over_actions(batch.observations, together)  # (2, B, 1 + 3n)
        data, others = found[..., :1], found[..., 1:]
        gap = (others - log_probs).logsumexp(2, keepdim=True) - data  # (2, B, 1)
        conservative = self.alpha * gap.mean(dim=(1, 2)).sum()
        td_loss = squared_error(data, target)
        return {"critic_loss": td_loss + conservative, "td_loss": td_loss, "conservative_loss": conservative}

    @torch.no_grad()
    def target_and_samples(self, batch: TransitionBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the critics' target (B, 1), sampled actions (B, 3n, A), their log densities (B, 3n)."""
        here, then = self.actor(batch.observations), self.actor(batch.next_observations)
        least = self.target_critics(batch.next_observations, then.mean.tanh()).amin(0)  # (B, 1)
        return bellman_target(batch, self.gamma, least), *self.sampled(here, then)

    def sampled(self, here: DiagonalNormal, then: DiagonalNormal) -> tuple[Tensor, Tensor]:
        """Draw n actions at s, n at s' and n uniform ones: (B, 3n, A), their log densities (B, 3n)."""
        n, (rows, width) = self.samples, here.mean.shape
        drawn = [policy.rsample_tanh(n) for policy in (here, then)]  # (n, B, A), (n, B, 1)
        uniform = torch.empty(rows * n, width, device=here.mean.device).uniform_(-1, 1)
        even = torch.full((rows, n), -width * math.log(2), device=uniform.device)
        actions = [*(action.transpose(0, 1) for action, _ in drawn), uniform.view(rows, n, width)]
        log_probs = [*(log_prob.squeeze(2).T for _, log_prob in drawn), even]
        return torch.cat(actions, dim=1), torch.cat(log_probs, dim=1)

    def judged(self, batch: TransitionBatch) -> tuple[Tensor, Tensor]:
        """Draw an action per observation: its log density (B, 1), the lesser critic's value of it (B, 1)."""
        action, log_prob = self.actor(batch.observations).rsample_tanh()  # (B, A), (B, 1)
        return log_prob, self.critics.over_actions(batch.observations, action.unsqueeze(1)).amin(0)

    def actor_losses(self, log_prob: Tensor, least: Tensor) -> LossTerms:
        """Return the lesser critic of a drawn action against its log density, weighed by the temperature."""
        temp = self.log_temp.exp().detach()  # (1, 1)
        return {"actor_loss": (temp * log_prob - least).mean(), "temp": temp[0, 0]}

    def temp_loss(self, log_prob: Tensor) -> Tensor:
        """Return what makes the temperature rise where the entropy falls below A."""
        return -(self.log_temp.exp() * (log_prob.detach() - self.action_size)).mean()

    def update(self, batch: TransitionBatch, step: int) -> LossTerms:
        """Take the critics' step, the temperature's, then the actor's with the new temperature."""
        critic = self.critic_losses(batch)
        descend(self.optimizers["critics"], critic["critic_loss"])
        log_prob, least = self.judged(batch)
        temp_loss = self.temp_loss(log_prob)
        descend(self.optimizers["temp"], temp_loss)
        actor = self.actor_losses(log_prob, least)
        descend(self.optimizers["actor"], actor["actor_loss"])
        soft_update([self.target_critics], [self.critics])
        return critic | actor | {"temp_loss": temp_loss}
