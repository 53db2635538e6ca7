"""Grounded models and policies that come with the package, by name; `kalm models pack` made them.

::

    shipped/clevr-smollm2/     grounded.json  modules.safetensors  backbone/  card.json
    shipped/clevr-bc-kalm/     policy.json    policy.safetensors   job.json   card.json

A name is taken wherever the folder of a model or policy is; what is there under that name goes first.
"""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parent / "shipped"
CARD = "card.json"


def shipped_folders() -> list[Path]:
    """Return the folders of all that comes with the package; their names are what it is taken by."""
    return sorted(card.parent for card in SHIPPED.glob(f"*/{CARD}"))


def by_name(place: Path) -> Path:
    """Return the packaged folder of this name; a place that exists, or is no such name, as it is."""
    found = SHIPPED / place.name
    return found if str(place) == place.name and not place.exists() and (found / CARD).exists() else place
