"""States in units of their spread, for learners; and policies that need not know of it.

Goal vectors have numbers of size 1. States of centimetres beside them are hardly heard, and what is hardly
heard is learnt last (docs/log.md). So observations hold ``(s - mean) / spread``, taken from the real
rollouts, and once a policy is stored its first layer takes the division in::

    W ((s - mean) / spread) + b  =  (W / spread) s  +  (b - W (mean / spread))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kalm.data.rollouts import RolloutSet
from kalm.dynamics.network import share, spreads


@dataclass(frozen=True)
class Units:
    """What states are measured from and by; entities of one kind share both.

    Attributes:
        mean: (S,) of the real states.
        spread: (S,) their deviation, 1 where they never vary.
    """

    mean: Tensor
    spread: Tensor

    @classmethod
    def of(cls, real: RolloutSet, device: str) -> Units:
        """Take them from real rollouts."""
        mean = share(real.spec, real.states.mean(0))
        return cls(mean.to(device), spreads(real.spec, real.states).to(device))

    def __call__(self, states: Tensor) -> Tensor:
        """Measure states: (n, S) -> (n, S)."""
        return (states - self.mean) / self.spread

    @torch.no_grad()
    def folded(self, layers: Sequence[nn.Linear]) -> list[nn.Linear]:
        """Return layers on [state, goal vector] of which the first does the measuring itself."""
        first, size = layers[0], len(self.mean)
        layer = nn.Linear(first.in_features, first.out_features, device=first.weight.device)
        weight, mean = first.weight.double(), self.mean.double()
        measured = weight[:, :size] / self.spread.double()  # (H, S)
        layer.weight.copy_(torch.cat([measured, weight[:, size:]], dim=1))
        layer.bias.copy_(first.bias.double() - measured @ mean)
        return [layer, *layers[1:]]
