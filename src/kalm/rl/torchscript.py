"""A policy's networks as one TorchScript file, for programs that have torch and nothing of ours.

The module is traced, because it has no branches; the goal vector is an input, because the sentence encoder
stays outside. The file's ``kalm.json`` tells the world, so that a reader need not guess sizes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from kalm.run.io import atomic_write
from kalm.types import WorldSpec

Member = Sequence[tuple[torch.Tensor, torch.Tensor]]


class Networks(nn.Module):
    """Mean output of MLPs on [state, goal vector]; `bounded` ones are actions, kept in [-1, 1]."""

    def __init__(self, members: Sequence[Member], squash: bool, bounded: bool) -> None:
        super().__init__()
        self.squash, self.bounded = squash, bounded
        self.depth = len(members[0])
        self.weights = nn.ParameterList(_still(weight) for layers in members for weight, _ in layers)
        self.biases = nn.ParameterList(_still(bias) for layers in members for _, bias in layers)

    def forward(self, states: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        """Return scores or actions: (N, S), (N, E) -> (N, A)."""
        outputs = []
        for first in range(0, len(self.weights), self.depth):
            x = torch.cat([states, goals], dim=1)  # (N, S + E)
            for index in range(first, first + self.depth):
                x = F.linear(x if index == first else x.relu(), self.weights[index], self.biases[index])
            outputs.append(x)
        mean = torch.stack(outputs).mean(0)
        if not self.bounded:
            return mean
        return mean.tanh() if self.squash else mean.clamp(-1, 1)


def export(members: Sequence[Member], spec: WorldSpec, squash: bool, path: Path) -> None:
    """Write the networks on the CPU as TorchScript; two traced rows stand for any number."""
    networks = Networks(members, squash, spec.action_kind == "continuous").eval()
    goal_size = networks.weights[0].shape[1] - spec.state_size
    example = (torch.zeros(2, spec.state_size), torch.zeros(2, goal_size))
    traced = torch.jit.trace(networks, example)
    with atomic_write(path) as temporary:
        torch.jit.save(traced, str(temporary), _extra_files={"kalm.json": json.dumps(spec.to_json())})


def _still(tensor: torch.Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().cpu().clone(), requires_grad=False)
