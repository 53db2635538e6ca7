"""Loss terms on their way into the metrics: means since the last row, and the real and imagined part apart.

Sums stay tensors, because reading one number of an update makes the processor wait for all of it. A number
that is not finite stays so in the sum and is noticed when the sum is read, at the latest before a checkpoint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from kalm.errors import KalmError
from kalm.rl.algorithms.base import Learner
from kalm.rl.batch import TransitionBatch
from kalm.rl.buffer import MixedBuffer
from kalm.rl.model_buffer import ModelMix


class RunningMean:
    """Sum and count of each loss term since the last row of metrics.

    Counts are kept per term: TD3+BC moves its actor every other step only.
    """

    def __init__(self, saved: Mapping[str, tuple[float, int]] | None = None) -> None:
        self._sums: dict[str, Any] = {name: total for name, (total, _) in (saved or {}).items()}
        self._counts = {name: count for name, (_, count) in (saved or {}).items()}

    def add(self, losses: Mapping[str, torch.Tensor | float]) -> None:
        """Add the terms of one update."""
        for name, value in losses.items():
            number = value.detach().double() if isinstance(value, torch.Tensor) else value
            self._sums[name] = self._sums.get(name, 0.0) + number
            self._counts[name] = self._counts.get(name, 0) + 1

    def state(self, step: int) -> dict[str, tuple[float, int]]:
        """Return what a later `Window` continues from, JSON-ready. Raises KalmError: a sum is not finite."""
        sums = {name: float(total) for name, total in self._sums.items()}
        if not all(map(math.isfinite, sums.values())):
            raise KalmError(f"the losses are no longer finite by step {step}: {sums}. Lower train.lr.")
        return {name: (total, self._counts[name]) for name, total in sums.items()}

    def close(self, step: int) -> dict[str, float]:
        """Return the means and start anew. Raises KalmError: a loss was not finite."""
        means = {name: total / count for name, (total, count) in self.state(step).items()}
        self._sums, self._counts = {}, {}
        return means


def by_source(learner: Learner, buffer: MixedBuffer | ModelMix, batch: TransitionBatch) -> dict[str, float]:
    """Return every loss term on the real and on the imagined rows of a batch, e.g. ``td_loss_imagined``.

    Learning takes no notice: no weight changes, and the random draws are put back. Nothing is reported
    without imagined rows, or for learners that make part of their batches themselves.
    """
    if not isinstance(buffer, MixedBuffer):
        return {}
    parts = buffer.by_source(batch)
    if not all(len(part) for part in parts.values()):
        return {}
    device = buffer.device
    with torch.random.fork_rng([device] if "cuda" in device else []), torch.no_grad():
        return {
            f"{name}_{source}": float(value)
            for source, part in parts.items()
            for name, value in learner.losses(part).items()
        }
