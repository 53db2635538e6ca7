"""Forward passes through d3rlpy's networks, written so that nothing is computed twice.

A critic reads [observation, action]. Its first layer is linear, so the observation's part can be computed
once for any number of actions beside it, and a gradient towards the actions need not pass through the
observation. The numbers are those of the joined input, up to the order in which they are added.

::

    first layer   W [obs, a] + b  =  (W_o obs + b)  +  W_a a
                                     once per row      per action
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

Layers = list[nn.Linear]


def linears(*modules: nn.Module) -> Layers:
    """Return the linear layers of these modules, first to last."""
    return [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)]


def forward(layers: Sequence[nn.Linear], x: torch.Tensor) -> torch.Tensor:
    """Apply the layers with ReLU in between: (..., I) -> (..., O)."""
    for layer in layers[:-1]:
        x = F.linear(x, layer.weight, layer.bias).relu_()
    return F.linear(x, layers[-1].weight, layers[-1].bias)


def value(layers: Sequence[nn.Linear], observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Apply a critic to every action of every observation: (B, I), (B, n, A) -> (B, n)."""
    first, width = layers[0], observations.shape[1]
    seen = F.linear(observations, first.weight[:, :width], first.bias)  # (B, H)
    hidden = F.linear(actions, first.weight[:, width:]).add_(seen.unsqueeze(1)).relu_()  # (B, n, H)
    return forward(layers[1:], hidden).squeeze(2)


def values(critics: Sequence[Layers], observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """Apply every critic to one action per observation: (B, I), (B, A) -> (M, B, 1)."""
    joined = torch.cat([observations, actions], dim=1)  # (B, I + A)
    return torch.stack([forward(layers, joined) for layers in critics])
