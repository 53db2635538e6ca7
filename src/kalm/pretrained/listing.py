"""Which models are on this machine: those known by name, and GGUF files in the cache. Loads no library."""

from __future__ import annotations

from dataclasses import asdict

from kalm.errors import KalmError
from kalm.pretrained.conversion import cache_folder, conversions
from kalm.pretrained.known import KNOWN
from kalm.pretrained.places import FOLDERS
from kalm.pretrained.smollm2 import SMOLLM2_SHA256
from kalm.types import JsonObject


def list_models() -> JsonObject:
    """Return the known models and the converted GGUF files, JSON-ready; what is not here says why."""
    known = []
    for model in KNOWN:
        try:
            place, missing = str(FOLDERS[model.name]()), ""
        except KalmError as error:
            place, missing = None, str(error)
        known.append({**asdict(model), "here": place is not None, "place": place, "missing": missing})
    converted = [
        {**asdict(one), "folder": str(one.folder)} for one in conversions() if one.sha256 != SMOLLM2_SHA256
    ]
    return {"models": known, "gguf": converted, "cache": str(cache_folder())}
