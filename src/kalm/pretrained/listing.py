"""Which models are on this machine: by name, grounded and trained ones, GGUF files. Loads no library."""

from __future__ import annotations

from dataclasses import asdict

from kalm.errors import KalmError
from kalm.pretrained.conversion import cache_folder, conversions
from kalm.pretrained.known import KNOWN
from kalm.pretrained.places import FOLDERS
from kalm.pretrained.shipped import CARD, shipped_folders
from kalm.pretrained.smollm2 import SMOLLM2_SHA256
from kalm.runs.io import read_json
from kalm.types import JsonObject


def list_models() -> JsonObject:
    """Return known models, cards of shipped ones and converted GGUF files, JSON-ready.

    A known model that is not here says why.
    """
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
    cards = [read_json(folder / CARD, "card") for folder in shipped_folders()]
    return {"models": known, "shipped": cards, "gguf": converted, "cache": str(cache_folder())}
