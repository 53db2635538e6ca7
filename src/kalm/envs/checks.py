"""What simulators and experts of every world check alike."""

from __future__ import annotations

import numpy as np

from kalm.errors import KalmError


def which_rows(rows: np.ndarray | None, n: int) -> np.ndarray:
    """Return the rows of n that are meant, each once; None means all: -> (len(rows),)."""
    if rows is None:
        return np.arange(n)
    rows = np.asarray(rows)
    assert rows.ndim == 1 and (rows.size == 0 or rows.dtype.kind in "iu"), (rows.dtype, rows.shape)
    assert len(np.unique(rows)) == len(rows), "a row can take one action at a time"
    return rows


def require_noise(noise: float) -> None:
    """Raise KalmError where an expert's noise is not a probability."""
    if not 0.0 <= noise <= 1.0:
        raise KalmError(f"an expert's noise is a probability from 0 to 1, got {noise!r}.")
