"""Means of loss terms between two rows of metrics.

Sums stay tensors, because reading one number of an update makes the processor wait for all of it. A number
that is not finite stays so in the sum and is noticed when the sum is read, at the latest before a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from kalm.errors import KalmError


class RunningMean:
    """Sum and count of each loss term since the last row of metrics.

    Counts are kept per term: TD3+BC moves its actor every other step only.

    Args:
        saved: the `state` to continue from.
        remedy: what to do when a loss is not finite, a sentence.
    """

    def __init__(self, saved: Mapping[str, tuple[float, int]] | None = None, remedy: str = "") -> None:
        self._sums: dict[str, Tensor | float] = {name: total for name, (total, _) in (saved or {}).items()}
        self._counts = {name: count for name, (_, count) in (saved or {}).items()}
        self._remedy = remedy

    def add(self, losses: Mapping[str, Tensor | float]) -> None:
        """Add the terms of one update."""
        for name, value in losses.items():
            number = value.detach().double() if isinstance(value, Tensor) else value
            self._sums[name] = self._sums.get(name, 0.0) + number
            self._counts[name] = self._counts.get(name, 0) + 1

    def state(self, step: int) -> dict[str, tuple[float, int]]:
        """Return what a later one continues from, JSON-ready. Raises KalmError: a sum is not finite."""
        sums = {name: float(total) for name, total in self._sums.items()}
        if not all(map(math.isfinite, sums.values())):
            raise KalmError(f"the losses are no longer finite by step {step}: {sums}. {self._remedy}".strip())
        return {name: (total, self._counts[name]) for name, total in sums.items()}

    def close(self, step: int) -> dict[str, float]:
        """Return the means and start anew. Raises KalmError: a loss was not finite."""
        means = {name: total / count for name, (total, count) in self.state(step).items()}
        self._sums, self._counts = {}, {}
        return means
