"""What a policy learns from: which rollouts of those at hand."""

from __future__ import annotations

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError, unknown
from kalm.rl.settings import TrainConfig
from kalm.runs.seeding import derive_rng
from kalm.types import LEVELS


def select_rollouts(
    real: RolloutSet, imagined: RolloutSet | None, config: TrainConfig, seed: int, level: str | None = None
) -> tuple[RolloutSet, RolloutSet | None]:
    """Return the rollouts that a policy of this seed (and level) learns from.

    The choice of real rollouts depends on the seed alone, so policies with and without imagined ones compare.

    Raises:
        KalmError: unknown level, or no imagined rollout is left.
    """
    if config.real_rollouts is not None and config.real_rollouts < len(real):
        order = derive_rng(seed, "train", "real").permutation(len(real))
        real = real.take(np.sort(order[: config.real_rollouts]))
    if imagined is None:
        return real, None
    if level is not None and level not in LEVELS:
        raise unknown("level", level, LEVELS)
    kept = np.ones(len(imagined), dtype=bool) if level is None else imagined.levels == level
    at_level = int(kept.sum())
    kept &= imagined.success if config.imagined == "successful" else True
    if not kept.any():
        raise KalmError(
            f"no imagined rollout to learn from: of {len(imagined)} given, {at_level} are of level "
            f"{level or 'any'}, 0 pass train.imagined={config.imagined}. Imagine more, set "
            "train.imagined=all, or train without imagined rollouts."
        )
    return real, imagined.take(kept)
