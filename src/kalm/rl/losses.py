"""Loss terms of a batch's real and imagined part, apart."""

from __future__ import annotations

import torch

from kalm.rl.algorithms.base import Learner
from kalm.rl.batch import TransitionBatch
from kalm.rl.buffer import MixedBuffer


def by_source(learner: Learner, buffer: MixedBuffer, batch: TransitionBatch) -> dict[str, float]:
    """Return every loss term on the real and on the imagined rows of a batch, e.g. ``td_loss_imagined``.

    Learning takes no notice: no weight changes, and the random draws are put back. Nothing is reported
    without imagined rows.
    """
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
