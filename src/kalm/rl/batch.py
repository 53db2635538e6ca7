"""A batch of transitions, as every learner reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TransitionBatch:
    """B transitions as float tensors on one device; an observation is [state, goal vector]."""

    observations: Tensor  # (B, S + E)
    actions: Tensor  # (B, 1) numbers of discrete actions, or (B, A) vectors
    rewards: Tensor  # (B, 1)
    next_observations: Tensor  # (B, S + E)
    terminals: Tensor  # (B, 1) 1 where the goal was reached; after a time-out, what follows still has value

    def __len__(self) -> int:
        return len(self.rewards)

    def columns(self) -> tuple[Tensor, ...]:
        """Return the columns in the order of the fields."""
        return self.observations, self.actions, self.rewards, self.next_observations, self.terminals

    def rows(self, rows: slice) -> TransitionBatch:
        """Return some of the transitions, without copying them."""
        return TransitionBatch(*(column[rows] for column in self.columns()))

    @classmethod
    def concat(cls, parts: Sequence[TransitionBatch]) -> TransitionBatch:
        """Return the transitions of all parts, in their order."""
        return cls(*map(torch.cat, zip(*(part.columns() for part in parts), strict=True)))
