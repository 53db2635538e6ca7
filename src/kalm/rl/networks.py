"""The networks of the algorithms: plain MLPs, critics of actions, and normally distributed actions.

Initialised as d3rlpy does it, down to the random numbers drawn on the way, so that equal seeds give equal
weights (d3rlpy measures the width of its hidden layers with a random input). A critic reads
[observation, action]. Its first layer is linear, so the observation's part is computed once for any number
of actions beside it, and a gradient towards the actions need not pass through the observation. The numbers
are those of the joined input, up to the order in which they are added.

::

    first layer   W [obs, a] + b  =  (W_o obs + b)  +  W_a a
                                     once per row      per action
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


class MLP(nn.Module):
    """Linear layers with ReLU in between.

    Args:
        inputs: widths of the parts that the input is joined from.
        hidden: widths of the hidden layers.
        outputs: width of the output.
    """

    def __init__(self, inputs: Sequence[int], hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        widths = [sum(inputs), *hidden]
        self.hidden: nn.ModuleList = nn.ModuleList(map(nn.Linear, widths[:-1], widths[1:]))
        for width in inputs:
            torch.rand(2, width)  # d3rlpy's measurement, see above
        self.head: nn.Linear = nn.Linear(widths[-1], outputs)

    @property
    def layers(self) -> list[nn.Linear]:
        """The linear layers, first to last."""
        return [layer for layer in (*self.hidden, self.head) if isinstance(layer, nn.Linear)]

    def forward(self, x: Tensor) -> Tensor:
        """Return the output: (..., I) -> (..., O)."""
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Return the last hidden layer: (..., I) -> (..., H)."""
        for layer in self.hidden:
            x = layer(x).relu_()
        return x

    def over_actions(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return a critic's value of every action of every observation: (B, I), (B, n, A) -> (B, n)."""
        first, *rest = self.layers
        width = observations.shape[1]
        seen = F.linear(observations, first.weight[:, :width], first.bias)  # (B, H)
        x = F.linear(actions, first.weight[:, width:]).add_(seen.unsqueeze(1))  # (B, n, H)
        for layer in rest:
            x = layer(x.relu_())
        return x.squeeze(2)


class TwinQ(nn.Module):
    """Two critics Q(s, a), of which the lesser is believed."""

    def __init__(self, observation_size: int, action_size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.first: MLP = MLP((observation_size, action_size), hidden, 1)
        self.second: MLP = MLP((observation_size, action_size), hidden, 1)

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return both critics' values of one action per observation: (B, I), (B, A) -> (2, B, 1)."""
        joined = torch.cat([observations, actions], dim=1)  # (B, I + A)
        return torch.stack([self.first(joined), self.second(joined)])

    def over_actions(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return both critics' values of every action: (B, I), (B, n, A) -> (2, B, n)."""
        critics = self.first, self.second
        return torch.stack([critic.over_actions(observations, actions) for critic in critics])


class DiagonalNormal(NamedTuple):
    """A normal distribution of vectors with independent numbers."""

    mean: Tensor  # (B, A)
    log_std: Tensor  # (B, A), or (1, A) where it is the same everywhere

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log density: (..., A) -> (..., 1)."""
        distance = (x - self.mean) * (-self.log_std).exp()
        return (-0.5 * distance**2 - self.log_std - HALF_LOG_TAU).sum(-1, keepdim=True)

    def rsample(self, *shape: int) -> Tensor:
        """Draw vectors, differentiable in both fields: (*shape, B, A)."""
        noise = torch.randn(*shape, *self.mean.shape, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.log_std.exp() * noise

    def rsample_tanh(self, *shape: int) -> tuple[Tensor, Tensor]:
        """Draw tanh of vectors, and its log density: (*shape, B, A), (*shape, B, 1)."""
        raw = self.rsample(*shape)
        log_prob = self.log_prob(raw)
        log_slope = (2 * (math.log(2) - raw - F.softplus(-2 * raw))).sum(-1, keepdim=True)  # of tanh
        return raw.tanh(), log_prob - log_slope


class GaussianPolicy(nn.Module):
    """Actions normally distributed before tanh.

    Args:
        observation_size: width of the input.
        action_size: width A of an action.
        hidden: widths of the hidden layers.
        low: least log of the deviation.
        high: largest log of the deviation.
        free: the deviation depends on the observation; else it is one vector, kept in bounds by a sigmoid.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int],
        low: float,
        high: float,
        free: bool = False,
    ) -> None:
        super().__init__()
        self.low = low
        self.high = high
        self.mean: MLP = MLP((observation_size,), hidden, action_size)
        self.log_std: nn.Linear | nn.Parameter
        if free:
            self.log_std = nn.Linear(self.mean.head.in_features, action_size)
        else:
            self.log_std = nn.Parameter(torch.zeros(1, action_size))

    def forward(self, observations: Tensor) -> DiagonalNormal:
        """Return the distribution before tanh: (B, I) -> (B, A)."""
        features = self.mean.features(observations)  # (B, H)
        mean = self.mean.head(features)
        if isinstance(self.log_std, nn.Linear):
            return DiagonalNormal(mean, self.log_std(features).clamp(self.low, self.high))
        return DiagonalNormal(mean, self.low + torch.sigmoid(self.log_std) * (self.high - self.low))
