"""From the name of a model to the place of its weights: a known name, a folder, a GGUF file, or a hub name.

Nothing unnamed is fetched. This is the only place that tells kinds of names apart: whatever takes a model by
name asks `locate`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kalm.errors import KalmError
from kalm.pretrained.conversion import convert_settings, convert_weights
from kalm.pretrained.known import MINILM, SMOLLM2
from kalm.pretrained.minilm import minilm_folder
from kalm.pretrained.smollm2 import smollm2_folder
from kalm.pretrained.weight_files import pickled_files

FOLDERS: dict[str, Callable[[], Path]] = {MINILM: minilm_folder, SMOLLM2: smollm2_folder}
GGUF = ".gguf"


def locate(name: str, weights: bool = True) -> str:
    """Return what `from_pretrained` takes: a folder, or for a hub name the name itself.

    Args:
        name: ``minilm``, ``smollm2``, a folder in the Hugging Face layout, a GGUF file or a folder that holds
            one, or a hub name.
        weights: False is content with settings and tokenizer, which of a GGUF file are had in less time.

    Raises:
        KalmError: nothing there, or not fetched; altered, damaged, or of a kind that cannot be read.
    """
    if name in FOLDERS:
        return str(FOLDERS[name]())
    if file := gguf_file(name):
        return str(convert_weights(file) if weights else convert_settings(file))
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or name.endswith(GGUF):
        raise KalmError(
            f"no model folder and no GGUF file at {name!r}. Give one of these, a hub name such as org/model, "
            "'minilm' or 'smollm2'."
        )
    return name


def recorded_name(name: str) -> str:
    """Return the name by which the same weights are found later, from whatever folder."""
    if name in FOLDERS:
        return name
    folder = Path(name).expanduser()
    place = gguf_file(name) or (folder if folder.is_dir() else None)
    return name if place is None else str(place.resolve())


def gguf_file(name: str) -> Path | None:
    """Return the GGUF file that a name means: itself, or the only one in a folder without other weights.

    Raises:
        KalmError: a folder holds several.
    """
    path = Path(name).expanduser()
    if name in FOLDERS or not path.exists():
        return None
    if path.is_file():
        return path if path.suffix.lower() == GGUF else None
    if any(path.glob("*.safetensors")) or pickled_files(path):
        return None
    files = sorted(file for file in path.iterdir() if file.suffix.lower() == GGUF)
    if len(files) > 1:
        raise KalmError(
            f"{path} holds {len(files)} GGUF files ({', '.join(file.name for file in files[:8])}). "
            "Give one of them."
        )
    return files[0] if files else None
