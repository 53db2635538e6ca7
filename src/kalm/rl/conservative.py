"""CQL for action vectors, as d3rlpy computes it: many sampled actions beside each of the data's.

They are three times `train.cql_samples`, and the critics on them are nearly all of an update. Here one pass
takes the data's action and all sampled ones together, and the first layer sees each observation once for all
of them. The actor's outputs at s' serve both the target and the samples.
"""

from __future__ import annotations

import io
import math
from contextlib import redirect_stderr

import torch

from kalm.rl.actor_critic import ActorCritic, gaussian, log_density, log_slope, squared_error
from kalm.rl.learner import Losses, TransitionBatch, descend, encoders, follow, optimizers
from kalm.rl.mlp import value, values
from kalm.rl.settings import TrainConfig

with redirect_stderr(io.StringIO()):  # d3rlpy imports gym, which prints five lines about its successor
    from d3rlpy.algos import CQLConfig
    from d3rlpy.algos.qlearning.torch.cql_impl import CQLImpl
    from d3rlpy.models.torch import get_parameter

Gaussian = tuple[torch.Tensor, torch.Tensor]  # mean before tanh (B, A), log of the deviation (B, A)


def cql(config: TrainConfig) -> CQLConfig:
    """Return the settings of CQL with a fixed weight of the conservative term.

    With a fixed weight the threshold would only shift the written loss, so it is nothing.
    """
    return CQLConfig(
        conservative_weight=config.cql_alpha,
        alpha_learning_rate=0.0,
        alpha_threshold=0.0,
        n_action_samples=config.cql_samples,
        gamma=config.gamma,
        batch_size=config.batch,
        **encoders(config, "actor", "critic"),
        **optimizers(config, "actor", "critic", "temp"),
    )


class CQL(ActorCritic, CQLImpl):
    """Twin critics pushed down on sampled actions and up on the data's; an actor with temperature."""

    def critic_losses(self, batch: TransitionBatch) -> Losses:
        """Return the temporal-difference error and the conservative term."""
        with torch.no_grad():
            here = gaussian(self._modules.policy, batch.observations)
            then = gaussian(self._modules.policy, batch.next_observations)
            goal = self.goal(batch, then)
            actions, log_densities = self.sampled(here, then)  # (B, 3n, A), (B, 3n)
        together = torch.cat([batch.actions.unsqueeze(1), actions], dim=1)  # (B, 1 + 3n, A)
        found = torch.stack([value(net, batch.observations, together) for net in self.critics])
        data, others = found[..., :1], found[..., 1:]  # (M, B, 1), (M, B, 3n)
        gap = (others - log_densities).logsumexp(2, keepdim=True) - data  # (M, B, 1)
        conservative = self._conservative_weight * gap.mean(dim=(1, 2)).sum()
        td_loss = squared_error(data, goal)
        return {"critic_loss": td_loss + conservative, "td_loss": td_loss, "conservative_loss": conservative}

    def goal(self, batch: TransitionBatch, then: Gaussian) -> torch.Tensor:
        """Return r + gamma * the lesser target critic of the actor's mean action: (B, 1)."""
        following = values(self.targets, batch.next_observations, then[0].tanh()).amin(0)
        return self.discounted(batch, following)

    def sampled(self, here: Gaussian, then: Gaussian) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw n actions at s, n at s' and n uniform ones: (B, 3n, A), their log densities (B, 3n)."""
        n, (rows, width) = self._n_action_samples, here[0].shape
        drawn = [self._drawn(policy, n) for policy in (here, then)]
        uniform = torch.empty(rows * n, width, device=here[0].device).uniform_(-1, 1).view(rows, n, width)
        even = torch.full((rows, n), -width * math.log(2), device=uniform.device)
        actions, densities = zip(*drawn, (uniform, even), strict=True)
        return torch.cat(actions, dim=1), torch.cat(densities, dim=1)

    def _drawn(self, policy: Gaussian, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_deviation = policy
        raw = mean + log_deviation.exp() * torch.randn(n, *mean.shape, device=mean.device)  # (n, B, A)
        density = log_density(raw, mean, log_deviation) - log_slope(raw)  # (n, B, 1)
        return raw.tanh().transpose(0, 1), density.squeeze(2).T

    def actor_losses(self, batch: TransitionBatch) -> Losses:
        """Return the lesser critic of a drawn action against its log density; and the temperature's loss."""
        density, least = self._judged(batch)
        return self._actor_terms(density, least) | {"temp_loss": self._temp_loss(density)}

    def _judged(self, batch: TransitionBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw an action per observation: its log density (B, 1), the lesser critic's value of it (B, 1)."""
        mean, log_deviation = gaussian(self._modules.policy, batch.observations)
        raw = mean + log_deviation.exp() * torch.randn_like(mean)  # (B, A)
        density = log_density(raw, mean, log_deviation) - log_slope(raw)
        action = raw.tanh().unsqueeze(1)  # (B, 1, A)
        return density, torch.stack([value(net, batch.observations, action) for net in self.critics]).amin(0)

    def _actor_terms(self, density: torch.Tensor, least: torch.Tensor) -> Losses:
        temp = get_parameter(self._modules.log_temp).exp().detach()  # (1, 1)
        return {"actor_loss": (temp * density - least).mean(), "temp": temp[0, 0]}

    def _temp_loss(self, density: torch.Tensor) -> torch.Tensor:
        excess = density.detach() - self._action_size  # (B, 1)
        return -(get_parameter(self._modules.log_temp).exp() * excess).mean()

    def inner_update(self, batch: TransitionBatch, grad_step: int) -> Losses:  # type: ignore[override]
        """Take the critics' step, the temperature's, then the actor's with the new temperature."""
        critic = self.critic_losses(batch)
        descend(self._modules.critic_optim, critic["critic_loss"])
        density, least = self._judged(batch)
        temp_loss = self._temp_loss(density)
        descend(self._modules.temp_optim, temp_loss)
        actor = self._actor_terms(density, least)
        descend(self._modules.actor_optim, actor["actor_loss"])
        follow(self._modules.targ_q_funcs, self._modules.q_funcs, self._tau)
        return critic | actor | {"temp_loss": temp_loss}
