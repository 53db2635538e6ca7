"""What a policy learns from: which rollouts of those at hand, and whether they can be learnt from at all.

Everything that can be wrong with the rollouts is told before the first gradient step.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from kalm.config import TrainConfig
from kalm.data.checks import require_valid
from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError, unknown
from kalm.runs import derive_rng
from kalm.types import LEVELS, WorldSpec


def select(
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


def require_data(spec: WorldSpec, real: RolloutSet, imagined: RolloutSet | None) -> None:
    """Raise KalmError where rollouts cannot be learnt from; says which part, what is wrong, and where."""
    for name, part in (("real", real), ("imagined", imagined)):
        if part is None:
            continue
        _require_world(name, part.spec, spec)
        if not len(part):
            raise KalmError(f"there are no {name} rollouts. Give at least one, or None for no imagined ones.")
        try:
            require_valid(part)
        except KalmError as error:
            raise KalmError(f"{name} rollouts: {error}") from None


def _require_world(name: str, found: WorldSpec, spec: WorldSpec) -> None:
    """Raise KalmError where rollouts are of another world; says what differs."""
    differing = [
        f"{what} {mine!r} instead of {wanted!r}"
        for what, mine, wanted in (
            ("world", found.name, spec.name),
            ("state width", found.state_size, spec.state_size),
            ("action kind", found.action_kind, spec.action_kind),
            ("action size", found.action_size, spec.action_size),
        )
        if mine != wanted
    ]
    if found != spec:
        reason = ", ".join(differing) or "other names of state numbers, entities or horizon"
        raise KalmError(
            f"the {name} rollouts do not fit the policy's world {spec.name!r}: {reason}. Real and imagined "
            "rollouts have to come from one world; collect or imagine them anew with the same --env."
        )


def digest(part: RolloutSet) -> dict[str, Any]:
    """Return what tells one set of rollouts from another, JSON-ready."""
    digest = hashlib.sha256("\n".join(instruction.text for instruction in part.instructions).encode())
    columns = (part.which, part.lengths, part.states, part.actions, part.rewards, part.success, part.weights)
    for column in columns:
        digest.update(np.ascontiguousarray(column).data)
    return {"rollouts": len(part), "transitions": part.transitions, "sha256": digest.hexdigest()}
