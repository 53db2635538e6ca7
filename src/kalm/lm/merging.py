"""Adapters folded into the weights that they stand beside: faster to imagine with, and rounded once more.

How far that moves the model is measured each time, on the sentences that are imagined for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kalm.lm.decoding import prompt_embeddings
from kalm.lm.lora import merge_adapters
from kalm.lm.model import GroundedLM


@torch.no_grad()
def merge_for_imagining(model: GroundedLM, texts: Sequence[str]) -> float:
    """Fold the adapters in, in place; from then on the model is for inference, and not to be saved.

    Args:
        model: grounded with any tuning; without adapters nothing happens.
        texts: sentences to measure by.

    Returns:
        The largest distance that the embedding of a sentence was moved by, as a share of its length.
    """
    before = prompt_embeddings(model, texts)
    merge_adapters(model.backbone)
    moved = (prompt_embeddings(model, texts) - before).norm(dim=1)
    return float((moved / before.norm(dim=1)).max())
