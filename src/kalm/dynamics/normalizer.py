"""Numbers in units of their spread: the one normaliser of language model, policies and dynamics.

States of real rollouts say what a state number is measured from and by. Entities of one kind share both, so
that what is learnt of one ball holds for another. Changes of states are divided by their root mean square
and nothing is subtracted, for no change must stay 0.

A network whose first layer is linear need not know of it: that layer can take the division in (`folded`)::

    W ((x - mean) / std) + b  =  (W / std) x  +  (b - W (mean / std))
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from kalm.data.rollouts import RolloutSet
from kalm.types import WorldSpec


class Normalizer(nn.Module):
    """Brings numbers to mean 0 and deviation 1, and back. Its buffers are saved, never trained.

    Args:
        shape: of one row of numbers, (F,); nothing for single numbers.

    Attributes:
        mean: (F,) what numbers are measured from; 0 before it is fitted.
        std: (F,) what they are divided by; 1 before it is fitted.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def fit(self, values: Tensor, constant: float = 1.0) -> Self:
        """Take both from rows of numbers, (N, F); `constant` is the deviation of what never varies."""
        self.mean.copy_(values.mean(dim=0))
        self.std.copy_(deviation(values, constant))
        return self

    def fit_states(self, rollouts: RolloutSet) -> Self:
        """Take both from the states of real rollouts: (S,)."""
        self.mean.copy_(share_among_kinds(rollouts.spec, rollouts.states.mean(0)))
        self.std.copy_(state_deviations(rollouts.spec, rollouts.states))
        return self

    def fit_changes(self, rollouts: RolloutSet) -> Self:
        """Take the root mean square change of states from real rollouts: (S,); the mean stays 0."""
        self.mean.zero_()
        self.std.copy_(usual_changes(rollouts.spec, rollouts))
        return self

    def normal(self, values: Tensor) -> Tensor:
        """Return numbers in units of their spread: (..., F) -> (..., F)."""
        return (values - self.mean) / self.std

    def denormal(self, values: Tensor) -> Tensor:
        """Return numbers as they were before `normal`: (..., F) -> (..., F)."""
        return values * self.std + self.mean

    def folded(self, layers: Sequence[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Let the first of some layers do the measuring.

        Args:
            layers: weight and bias of each; the first F numbers that the first one takes are normal.

        Returns:
            The same layers, for numbers as they were before `normal`.
        """
        (weight, bias), *rest = layers
        size = len(self.mean)
        measured = weight[:, :size].double() / self.std.double()  # (H, F)
        shifted = bias.double() - measured @ self.mean.double()
        return [(torch.cat([measured.to(weight), weight[:, size:]], dim=1), shifted.to(bias)), *rest]


def deviation(values: Tensor, constant: float = 1.0) -> Tensor:
    """Return the standard deviation of each column, `constant` where it never varies: (N, F) -> (F,)."""
    spread = values.std(dim=0, correction=0)
    return torch.where(spread > 1e-6, spread, torch.full_like(spread, constant))


def share_among_kinds(spec: WorldSpec, values: np.ndarray) -> Tensor:
    """Average a number per state number, (S,), over the entities of one kind; NaN, if all are, is 1."""
    shared = np.array(values, dtype=np.float32)
    for kind in {entity.kind for entity in spec.entities}:
        columns = np.array([entity.columns for entity in spec.entities if entity.kind == kind])
        known = (~np.isnan(shared[columns])).sum(0)
        shared[columns] = np.where(known, np.nansum(shared[columns], axis=0) / np.maximum(known, 1), 1)
    return torch.from_numpy(shared)


def state_deviations(spec: WorldSpec, states: np.ndarray) -> Tensor:
    """Return what to divide state numbers by: (M, S) -> (S,) deviations, 1 where the data never vary.

    A number that is constant in real data may be another constant elsewhere: divided by a deviation of
    nothing, it would drown all others.
    """
    deviations = share_among_kinds(spec, states.std(0)) + 1e-6
    return torch.where(deviations > 1e-5, deviations, torch.ones_like(deviations))


def usual_changes(spec: WorldSpec, rollouts: RolloutSet) -> Tensor:
    """Return the root mean square change of each state number while its entity is there: (S,).

    An entity that a goal does not have is all zeros. Counting it would make every movement look huge.
    """
    before = rollouts.states[rollouts.before]
    squares = (rollouts.states[rollouts.before + 1] - before) ** 2
    usual = squares.mean(0)
    for entity in spec.entities:
        columns = list(entity.columns)
        there = before[:, columns].any(axis=1)
        usual[columns] = squares[there][:, columns].mean(0) if there.any() else np.nan
    return share_among_kinds(spec, np.sqrt(usual)) + 1e-6


def present_names(tensors: Mapping[str, Tensor], earlier: Mapping[str, str]) -> dict[str, Tensor]:
    """Name the tensors of a file as they are named now.

    Args:
        tensors: by name.
        earlier: the present name of each earlier one; a deviation that had no mean gets one of 0.
    """
    renamed = {earlier.get(name, name): tensor for name, tensor in tensors.items()}
    for name in earlier.values():
        mean = f"{name.removesuffix('.std')}.mean"
        if name.endswith(".std") and name in renamed and mean not in renamed:
            renamed[mean] = torch.zeros_like(renamed[name])
    return renamed
