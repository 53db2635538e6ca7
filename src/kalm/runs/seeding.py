"""Seeds derived from (run, stage, index): independent of order, of processes and of each other."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed from (run seed, stage, index, ...): the one way seeds are made."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def derive_rng(*parts: int | str) -> np.random.Generator:
    """Return a generator seeded by `derive_seed`."""
    return np.random.default_rng(derive_seed(*parts))
