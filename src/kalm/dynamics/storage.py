"""A fitted model as two files: weights (safetensors) and what they mean (JSON), replaced together."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from kalm.errors import KalmError
from kalm.runs.io import atomic_folder, read_json, recover_folder, write_json
from kalm.types import JsonObject

ABOUT, WEIGHTS = "model.json", "weights.safetensors"


def save(folder: Path, module: nn.Module, about: Mapping[str, object]) -> None:
    """Write a module's weights and the JSON-ready facts that rebuild it; an old folder is replaced."""
    with atomic_folder(folder) as place:
        save_file(
            {name: part.contiguous().cpu() for name, part in module.state_dict().items()}, place / WEIGHTS
        )
        write_json(place / ABOUT, about)


def facts(folder: Path, kind: str) -> JsonObject:
    """Return the facts of a saved model.

    Raises:
        KalmError: no model of this kind there.
    """
    recover_folder(folder)
    about = read_json(folder / ABOUT, f"{kind} model")
    if about.get("kind") != kind:
        raise KalmError(f"{folder} holds a model of kind {about.get('kind')!r}; needed is {kind!r}.")
    return about


def load_weights(folder: Path, module: nn.Module) -> None:
    """Load the weights of a saved model into a module of the same shape.

    Raises:
        KalmError: the file is missing, damaged or does not fit; says what to do.
    """
    try:
        module.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise KalmError(
            f"{folder / WEIGHTS} cannot be used ({error}). Delete {folder} to fit it anew."
        ) from None
