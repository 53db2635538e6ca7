"""A taught reader on disk: adapters in half precision, and a page of facts about them.

::

    adapter.safetensors    the adapters' weights, float16
    reader.json            base model and its fingerprint, settings, grammar, calibration, what was measured

The base model is not stored: it is what the name gives (``smollm2``), and has to have the same fingerprint.
The adapters are added into its weights when they are loaded, so that reading costs nothing more than the
base.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kalm.errors import KalmError
from kalm.lm.backbone import Backbone
from kalm.lm.loading import load_backbone
from kalm.lm.lora import is_adapter, merge_adapters
from kalm.reader.model import add_adapters
from kalm.reader.plans import Calibration
from kalm.reader.settings import TeachConfig
from kalm.runs.io import atomic_write, read_json, write_json
from kalm.types import JsonObject

FORMAT = "kalm-reader-1"
FACTS, WEIGHTS = "reader.json", "adapter.safetensors"
PACKAGED = Path(__file__).parent / "adapter"


@dataclass(frozen=True)
class AdapterFacts:
    """What is known of a taught reader.

    Attributes:
        base: name of the base model.
        digest: fingerprint of its weights.
        grammar: version of the grammar that taught it.
        seed: root of the lessons.
        settings: of the teaching.
        calibration: of its confidence.
        measured: shares of right plans on held-out wordings, by kind.
    """

    base: str
    digest: str
    grammar: int
    seed: int
    settings: TeachConfig
    calibration: Calibration
    measured: JsonObject

    def to_json(self) -> JsonObject:
        """Return JSON-ready values."""
        return {
            "format": FORMAT,
            **{name: getattr(self, name) for name in ("base", "digest", "grammar", "seed", "measured")},
            "settings": self.settings.model_dump(),
            "calibration": asdict(self.calibration),
        }

    @classmethod
    def from_json(cls, data: JsonObject) -> AdapterFacts:
        """Inverse of `to_json`."""
        fields: dict[str, Any] = {name: value for name, value in data.items() if name != "format"}
        fields["settings"] = TeachConfig(**fields["settings"])
        fields["calibration"] = Calibration(**fields["calibration"])
        return cls(**fields)


def is_adapter_folder(folder: Path) -> bool:
    """Whether a folder holds a taught reader."""
    return (folder / FACTS).is_file()


def read_facts(folder: Path) -> AdapterFacts:
    """Read what is known of a taught reader. Raises KalmError: the file is missing or not of this version."""
    data = read_json(folder / FACTS, "reader")
    try:
        if data["format"] != FORMAT:
            raise KalmError(f"{folder}: format {data['format']!r} is not known. Known: {FORMAT}.")
        return AdapterFacts.from_json(data)
    except (KeyError, TypeError, ValidationError) as error:
        raise KalmError(
            f"{folder / FACTS} does not fit this version of kalm ({str(error).splitlines()[0]}). "
            "Teach the reader anew: kalm reader teach --out FOLDER."
        ) from None


def save_adapter(backbone: Backbone, facts: AdapterFacts, folder: Path) -> None:
    """Write a taught reader."""
    weights = {
        name: weight.detach().half().cpu().contiguous() for name, weight in adapter_weights(backbone).items()
    }
    with atomic_write(folder / WEIGHTS) as temporary:
        save_file(weights, temporary)
    write_json(folder / FACTS, facts.to_json())  # last: it says that the reader is whole


def adapter_weights(backbone: Backbone) -> dict[str, Tensor]:
    """Return the weights of a backbone's adapters by name."""
    return {name: weight for name, weight in backbone.model.named_parameters() if is_adapter(name)}


def load_adapter(folder: Path, device: str = "cpu") -> tuple[Backbone, AdapterFacts]:
    """Load a taught reader's language model, its adapters merged.

    Raises:
        KalmError: a file is missing or damaged, the base model cannot be had, or it is another one.
    """
    facts = read_facts(folder)
    backbone = load_backbone(facts.base)
    if backbone.origin.digest != facts.digest:
        raise KalmError(
            f"{folder} was taught on {facts.base!r} with fingerprint {facts.digest}, but that model has "
            f"{backbone.origin.digest} here. Put the model back, or teach the reader anew."
        )
    add_adapters(backbone, facts.settings)
    fill_adapters(backbone, folder)
    merge_adapters(backbone)
    cast("nn.Module", backbone.model).to(device)
    backbone.model.eval()
    return backbone, facts


def fill_adapters(backbone: Backbone, folder: Path) -> None:
    """Give fresh adapters the weights of a folder. Raises KalmError: missing, damaged, of another shape."""
    file = folder / WEIGHTS
    try:
        stored = load_file(file)
    except Exception as error:  # of any kind: files are damaged in many ways
        raise KalmError(f"{file} is missing or damaged: {str(error).splitlines()[0]}.") from None
    weights = adapter_weights(backbone)
    if {name: weight.shape for name, weight in weights.items()} != {n: w.shape for n, w in stored.items()}:
        raise KalmError(f"{file} holds adapters of other settings than {FACTS} beside it says.")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(stored[name])
