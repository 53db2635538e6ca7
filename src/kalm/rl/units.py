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
from torch import Tensor

from kalm.data.rollouts import RolloutSet
from kalm.dynamics.normalizer import share_among_kinds, state_deviations


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
        mean = share_among_kinds(real.spec, real.states.mean(0))
        return cls(mean.to(device), state_deviations(real.spec, real.states).to(device))

    def __call__(self, states: Tensor) -> Tensor:
        """Measure states: (n, S) -> (n, S)."""
        return (states - self.mean) / self.spread

    def folded(self, layers: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Return (weight, bias) of layers on [state, goal vector], the first of which does the measuring."""
        (weight, bias), *rest = layers
        size = len(self.mean)
        measured = weight[:, :size].double() / self.spread.double()  # (H, S)
        shifted = bias.double() - measured @ self.mean.double()
        return [(torch.cat([measured.to(weight), weight[:, size:]], dim=1), shifted.to(bias)), *rest]
