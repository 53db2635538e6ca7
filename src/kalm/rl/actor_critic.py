"""Learners with an actor and two critics: TD3+BC, AWAC and IQL, and behaviour cloning of action vectors.

All follow d3rlpy's losses, networks and order of random draws, so their weights are d3rlpy's to rounding.
What stock d3rlpy does besides is left out: gradients of the critics' weights in the actor's step, second
passes through networks that have not changed since the first, and one kernel per parameter.

::

    critics   y = r + gamma * (1 - terminal) * Q'(s', a')      a' of TD3+BC, AWAC; IQL has V(s')
    actor     TD3+BC  -Q(s, pi(s)) / mean|Q| * alpha + (a - pi(s))^2
              AWAC    -log pi(a|s) * softmax(A(s, a) / lambda)      A = Q(s, a) - Q(s, a~pi)
              IQL     -log pi(a|s) * min(exp(beta * A(s, a)), 100)  A = Q'(s, a) - V(s)
"""

from __future__ import annotations

import io
import math
from contextlib import redirect_stderr
from typing import Any

import torch
from torch.nn import functional as F

from kalm.rl.learner import Losses, TransitionBatch, descend, encoders, follow, optimizers
from kalm.rl.mlp import Layers, forward, linears, value, values
from kalm.rl.settings import TrainConfig

with redirect_stderr(io.StringIO()):  # d3rlpy imports gym, which prints five lines about its successor
    from d3rlpy.algos import AWACConfig, BCConfig, IQLConfig, TD3PlusBCConfig
    from d3rlpy.algos.qlearning.torch.awac_impl import AWACImpl
    from d3rlpy.algos.qlearning.torch.bc_impl import BCImpl
    from d3rlpy.algos.qlearning.torch.iql_impl import IQLImpl
    from d3rlpy.algos.qlearning.torch.td3_plus_bc_impl import TD3PlusBCImpl
    from d3rlpy.models.torch import DeterministicPolicy, NormalPolicy

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def bc(config: TrainConfig) -> BCConfig:
    """Return the settings of behaviour cloning by squared error."""
    return BCConfig(batch_size=config.batch, **encoders(config, ""), **optimizers(config, ""))


def td3bc(config: TrainConfig) -> TD3PlusBCConfig:
    """Return the settings of TD3+BC."""
    return TD3PlusBCConfig(alpha=config.td3bc_alpha, **_shared(config))


def awac(config: TrainConfig) -> AWACConfig:
    """Return the settings of AWAC."""
    return AWACConfig(lam=config.awac_lambda, **_shared(config))


def iql(config: TrainConfig) -> IQLConfig:
    """Return the settings of IQL."""
    return IQLConfig(
        expectile=config.iql_expectile,
        weight_temp=config.iql_temperature,
        **_shared(config),
        **encoders(config, "value"),
    )


def _shared(config: TrainConfig) -> dict[str, Any]:
    roles = ("actor", "critic")
    settings = {"batch_size": config.batch, "gamma": config.gamma}
    return {**settings, **encoders(config, *roles), **optimizers(config, *roles)}


def mean_layers(policy: DeterministicPolicy | NormalPolicy) -> Layers:
    """Return the layers from the observation to the mean action before tanh."""
    head = policy._mu if isinstance(policy, NormalPolicy) else policy._fc
    return linears(policy._encoder, head)


def gaussian(policy: NormalPolicy, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean before tanh and log of the deviation: (B, I) -> (B, A), (B, A) or (1, A)."""
    *hidden, head = mean_layers(policy)
    for layer in hidden:
        observations = F.linear(observations, layer.weight, layer.bias).relu_()
    mean = F.linear(observations, head.weight, head.bias)  # (B, A)
    low, high = policy._min_logstd, policy._max_logstd
    if isinstance(policy._logstd, torch.nn.Parameter):
        return mean, low + torch.sigmoid(policy._logstd) * (high - low)
    return mean, policy._logstd(observations).clamp(low, high)


def log_density(x: torch.Tensor, mean: torch.Tensor, log_deviation: torch.Tensor) -> torch.Tensor:
    """Return the log density of a normal vector: (..., A) -> (..., 1)."""
    distance = (x - mean) * (-log_deviation).exp()
    return (-0.5 * distance**2 - log_deviation - HALF_LOG_TAU).sum(-1, keepdim=True)


def log_slope(raw: torch.Tensor) -> torch.Tensor:
    """Return the log of tanh's derivative, summed over the action: (..., A) -> (..., 1)."""
    return (2 * (math.log(2) - raw - F.softplus(-2 * raw))).sum(-1, keepdim=True)


def squared_error(found: torch.Tensor, goal: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of each critic, summed over critics: (M, B, 1), (B, 1) -> ()."""
    return ((found - goal) ** 2).mean(dim=(1, 2)).sum()


class BC(BCImpl):
    """Squared error between tanh of the network and the data's actions."""

    def losses(self, batch: TransitionBatch) -> Losses:
        """Return every loss term."""
        mean = forward(mean_layers(self._modules.imitator), batch.observations)
        return {"loss": F.mse_loss(mean.tanh(), batch.actions)}

    def inner_update(self, batch: TransitionBatch, grad_step: int) -> Losses:  # type: ignore[override]
        """Take one step."""
        losses = self.losses(batch)
        descend(self._modules.optim, losses["loss"])
        return losses


class ActorCritic:
    """What the learners below share: d3rlpy's networks as lists of layers, and the critics' goal.

    Each has the same three parts: `critic_losses`, `actor_losses` and the update that takes both steps.
    """

    _modules: Any
    _gamma: float
    _tau: float

    @property
    def critics(self) -> list[Layers]:
        """The layers of each critic."""
        return [linears(net) for net in self._modules.q_funcs]

    @property
    def targets(self) -> list[Layers]:
        """The layers of each target critic."""
        return [linears(net) for net in self._modules.targ_q_funcs]

    def discounted(self, batch: TransitionBatch, following: torch.Tensor) -> torch.Tensor:
        """Return r + gamma * what follows (B, 1); a terminal has nothing after it, a time-out has."""
        return batch.rewards + self._gamma**batch.intervals * following * (1 - batch.terminals)

    def critic_losses(self, batch: TransitionBatch) -> Losses:
        """Return the terms of the critics' step; `critic_loss` is what is descended."""
        raise NotImplementedError

    def actor_losses(self, batch: TransitionBatch) -> Losses:
        """Return the terms of the actor's step; `actor_loss` is what is descended."""
        raise NotImplementedError

    def losses(self, batch: TransitionBatch) -> Losses:
        """Return every loss term."""
        return self.critic_losses(batch) | self.actor_losses(batch)

    def inner_update(self, batch: TransitionBatch, grad_step: int) -> Losses:  # type: ignore[override]
        """Take the critics' step, then the actor's; move the targets."""
        critic = self.critic_losses(batch)
        descend(self._modules.critic_optim, critic["critic_loss"])
        actor = self.actor_losses(batch)
        descend(self._modules.actor_optim, actor["actor_loss"])
        follow(self._modules.targ_q_funcs, self._modules.q_funcs, self._tau)
        return critic | actor


class TD3BC(ActorCritic, TD3PlusBCImpl):
    """Twin critics, a deterministic actor that is moved every other step and pulled towards the data."""

    def critic_losses(self, batch: TransitionBatch) -> Losses:
        """Return the temporal-difference error."""
        found = values(self.critics, batch.observations, batch.actions)  # (M, B, 1)
        return {"critic_loss": squared_error(found, self._goal(batch))}

    @torch.no_grad()
    def _goal(self, batch: TransitionBatch) -> torch.Tensor:
        mean = forward(mean_layers(self._modules.targ_policy), batch.next_observations).tanh()  # (B, A)
        noise = (self._target_smoothing_sigma * torch.randn_like(mean)).clamp_(
            -self._target_smoothing_clip, self._target_smoothing_clip
        )
        action = (mean + noise).clamp_(-1, 1)
        return self.discounted(batch, values(self.targets, batch.next_observations, action).amin(0))

    def actor_losses(self, batch: TransitionBatch) -> Losses:
        """Return the first critic's value of the actor's own actions against their distance from the data."""
        action = forward(mean_layers(self._modules.policy), batch.observations).tanh()  # (B, A)
        quality = value(self.critics[0], batch.observations, action.unsqueeze(1))  # (B, 1)
        bc_loss = F.mse_loss(action, batch.actions)
        pull = self._alpha / quality.abs().mean().detach()
        return {"actor_loss": bc_loss - pull * quality.mean(), "bc_loss": bc_loss}

    def inner_update(self, batch: TransitionBatch, grad_step: int) -> Losses:  # type: ignore[override]
        """Take the critics' step; every other time the actor's, and move all targets."""
        critic = self.critic_losses(batch)
        descend(self._modules.critic_optim, critic["critic_loss"])
        if grad_step % self._update_actor_interval:
            return critic
        actor = self.actor_losses(batch)
        descend(self._modules.actor_optim, actor["actor_loss"])
        trained = [*self._modules.q_funcs, self._modules.policy]
        follow([*self._modules.targ_q_funcs, self._modules.targ_policy], trained, self._tau)
        return critic | actor


class AWAC(ActorCritic, AWACImpl):  # type: ignore[misc]  # updates return tensors
    """Twin critics of the actor's own actions; the actor copies the data in proportion to advantage.

    Unusual: d3rlpy's target also pays for the actor's entropy, at weight 1. AWAC has no such term (Nair et
    al. 2020, eq. 9), and over forty numbers it outweighs rewards of scale 1 by far.
    """

    entropy = 0.0  # weight of the entropy in the critics' target; d3rlpy: 1

    def critic_losses(self, batch: TransitionBatch) -> Losses:
        """Return the temporal-difference error."""
        found = values(self.critics, batch.observations, batch.actions)  # (M, B, 1)
        return {"critic_loss": squared_error(found, self._goal(batch))}

    @torch.no_grad()
    def _goal(self, batch: TransitionBatch) -> torch.Tensor:
        """Return the target: the value of the actor's own next action."""
        mean, log_deviation = gaussian(self._modules.policy, batch.next_observations)
        raw = mean + log_deviation.exp() * torch.randn_like(mean)  # (B, A)
        entropy = log_density(raw, mean, log_deviation) - log_slope(raw)  # (B, 1)
        best = values(self.targets, batch.next_observations, raw.tanh()).amin(0)  # (B, 1)
        return self.discounted(batch, best - self.entropy * entropy)

    def actor_losses(self, batch: TransitionBatch) -> Losses:
        """Return the weighted log density of the data's actions, summed over the batch as d3rlpy does."""
        mean, log_deviation = gaussian(self._modules.policy, batch.observations)
        density = log_density(batch.actions, mean.tanh(), log_deviation)  # (B, 1)
        weights = self._weights(batch, mean.detach().tanh(), log_deviation.detach())
        return {"actor_loss": -(density * weights).sum()}

    @torch.no_grad()
    def _weights(
        self, batch: TransitionBatch, mean: torch.Tensor, log_deviation: torch.Tensor
    ) -> torch.Tensor:
        """Return B * softmax of the advantage over the actor's own action: (B, 1)."""
        drawn = torch.randn(self._n_action_samples, *mean.shape, device=mean.device)
        own = (mean + log_deviation.exp() * drawn).clamp_(-1, 1).transpose(0, 1)  # (B, n, A)
        both = torch.cat([batch.actions.unsqueeze(1), own], dim=1)  # (B, 1 + n, A)
        least = torch.stack([value(net, batch.observations, both) for net in self.critics]).amin(0)
        advantage = least[:, :1] - least[:, 1:].mean(1, keepdim=True)  # (B, 1)
        return len(advantage) * (advantage / self._lam).softmax(0)


class IQL(ActorCritic, IQLImpl):  # type: ignore[misc]  # updates return tensors
    """A value between mean and best of the data's actions; the actor copies the better ones."""

    def critic_losses(self, batch: TransitionBatch) -> Losses:
        """Return the critics' and the value network's errors."""
        net = linears(self._modules.value_func)
        with torch.no_grad():
            goal = self.discounted(batch, forward(net, batch.next_observations))  # (B, 1)
            self._aim = values(self.targets, batch.observations, batch.actions).amin(0)  # (B, 1)
        q_loss = squared_error(values(self.critics, batch.observations, batch.actions), goal)
        gap = self._aim - forward(net, batch.observations)  # (B, 1)
        side = (self._expectile - (gap.detach() < 0).float()).abs()
        v_loss = (side * gap**2).mean()
        return {"critic_loss": q_loss + v_loss, "q_loss": q_loss, "v_loss": v_loss}

    def actor_losses(self, batch: TransitionBatch) -> Losses:
        """Return the weighted log density of the data's actions.

        The targets' values are those of the critics' step on the same batch: nothing moved them since.
        """
        with torch.no_grad():
            advantage = self._aim - forward(linears(self._modules.value_func), batch.observations)
            weight = (self._weight_temp * advantage).exp().clamp(max=self._max_weight)  # (B, 1)
        mean, log_deviation = gaussian(self._modules.policy, batch.observations)
        return {"actor_loss": -(weight * log_density(batch.actions, mean.tanh(), log_deviation)).mean()}
