"""Invariants of a rollout set: what every file we write and every stage we start may rely on.

Checked where rollouts enter (collection, imagination, import), not where they are used: a set that passed
once is immutable. Each check is one array operation; the error names the first rollout and the column that
break it.
"""

from __future__ import annotations

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError
from kalm.types import SOURCES, WorldSpec


def require_valid(rollouts: RolloutSet) -> None:
    """Check shapes, dtypes, lengths, indices, finite numbers and action ranges.

    Raises:
        KalmError: names the rollout and the column.
    """
    _lengths(rollouts)
    _columns(rollouts)
    _indices(rollouts)
    _numbers(rollouts)


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
            ("environment", found.name, spec.name),
            ("state width", found.state_size, spec.state_size),
            ("action kind", found.action_kind, spec.action_kind),
            ("action size", found.action_size, spec.action_size),
        )
        if mine != wanted
    ]
    if found != spec:
        reason = ", ".join(differing) or "other names of state numbers, entities or horizon"
        raise KalmError(
            f"the {name} rollouts do not fit the policy's environment {spec.name!r}: {reason}. Real and "
            "imagined rollouts have to come from one environment; collect or imagine them anew with the same "
            "--env."
        )


def layout(spec: WorldSpec, rollouts: int, transitions: int) -> dict[str, tuple[tuple[int, ...], type]]:
    """Shape and dtype of every column of a set of this many rollouts and transitions."""
    return {
        "lengths": ((rollouts,), np.int32),
        "which": ((rollouts,), np.int32),
        "success": ((rollouts,), np.bool_),
        "source": ((rollouts,), np.int8),
        "weights": ((rollouts,), np.float32),
        "states": ((transitions + rollouts, spec.state_size), np.float32),
        "actions": ((transitions, *spec.action_shape), spec.action_dtype),
        "rewards": ((transitions,), np.float32),
    }


def _lengths(rollouts: RolloutSet) -> None:
    """Lengths come first: every other shape and owner follows from them."""
    shape, dtype = rollouts.lengths.shape, rollouts.lengths.dtype
    if len(shape) != 1 or dtype != np.int32:
        raise KalmError(f"column 'lengths' is {dtype} {shape}; it must be int32 with one entry per rollout.")
    _reject(
        rollouts.lengths < 1, np.arange(len(rollouts)), "lengths", rollouts.lengths, "at least one action"
    )


def _columns(rollouts: RolloutSet) -> None:
    total = int(rollouts.lengths.sum(dtype=np.int64))
    for name, (shape, dtype) in layout(rollouts.spec, len(rollouts), total).items():
        column = getattr(rollouts, name)
        if column.shape != shape or column.dtype != dtype:
            raise KalmError(
                f"column {name!r} is {column.dtype} {column.shape}; {len(rollouts)} rollouts with {total} "
                f"actions in environment {rollouts.spec.name!r} need {np.dtype(dtype)} {shape}."
            )


def _indices(rollouts: RolloutSet) -> None:
    rows = np.arange(len(rollouts))
    table = len(rollouts.instructions)
    _reject(_outside(rollouts.which, table), rows, "which", rollouts.which, f"0..{table - 1}")
    _reject(
        _outside(rollouts.source, len(SOURCES)), rows, "source", rollouts.source, f"0..{len(SOURCES) - 1}"
    )


def _numbers(rollouts: RolloutSet) -> None:
    spec, states, actions, weights = rollouts.spec, rollouts.states, rollouts.actions, rollouts.weights
    # NaN is not above 0 either.
    bad = ~(weights > 0) | _not_finite(weights)
    _reject(bad, np.arange(len(rollouts)), "weights", weights, "finite numbers above 0")
    _reject(_not_finite(states), rollouts.state_owner, "states", states, "finite numbers")
    _reject(_not_finite(actions), rollouts.owner, "actions", actions, "finite numbers")
    _reject(_not_finite(rollouts.rewards), rollouts.owner, "rewards", rollouts.rewards, "finite numbers")
    if spec.action_kind == "discrete":
        bad, allowed = _outside(actions, spec.action_size), f"0..{spec.action_size - 1}"
    else:
        bad, allowed = np.any(np.abs(actions) > 1, axis=1), "numbers in [-1, 1]"
    _reject(bad, rollouts.owner, "actions", actions, allowed)


def _not_finite(column: np.ndarray) -> np.ndarray:
    """Rows with a number that is not finite: (M,) or (M, K) -> (M,) bool."""
    bad = ~np.isfinite(column)
    return np.any(bad, axis=1) if bad.ndim == 2 else bad


def _outside(column: np.ndarray, count: int) -> np.ndarray:
    return (column < 0) | (column >= count)


def _reject(bad: np.ndarray, owner: np.ndarray, name: str, column: np.ndarray, allowed: str) -> None:
    """Raise for the first bad row; `owner` says which rollout each row belongs to."""
    if not bad.any():
        return
    row = int(np.argmax(bad))
    rollout = int(owner[row])
    place = row - int(np.searchsorted(owner, rollout))
    raise KalmError(
        f"rollout {rollout}, column {name!r}, row {place}: {column[row].tolist()} is not allowed, "
        f"needs {allowed} ({len(np.unique(owner[bad]))} of {int(owner[-1]) + 1} rollouts break this)."
    )
