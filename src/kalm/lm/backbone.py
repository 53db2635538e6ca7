"""The pre-trained language model: any Hugging Face causal LM by name or folder, by default MiniLM.

BERT-style encoders are loaded as decoders. Their pre-training read text in both directions, so by default the
prompt keeps that (`attention: prefix`) and only what follows it is causal; the key/value cache is unaffected,
because the prompt never looks at what follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kalm.errors import KalmError
from kalm.weights import locate

ENCODER_STYLE = ("bert", "roberta", "electra", "camembert", "xlm-roberta")


@dataclass(frozen=True)
class Backbone:
    """A causal LM taken apart into what grounding needs."""

    model: Any  # the transformers model
    tokenizer: Any
    two_way_prompt: bool

    @property
    def width(self) -> int:
        """Size D of token embeddings."""
        return self.model.get_input_embeddings().weight.shape[1]

    @property
    def context(self) -> int:
        """Largest number of positions."""
        return int(
            getattr(self.model.config, "max_position_embeddings", None) or self.tokenizer.model_max_length
        )

    @property
    def body(self) -> Any:
        """The transformer without its text head: embeddings in, hidden states out."""
        return self.model.base_model

    @property
    def text_head(self) -> nn.Module:
        """Hidden states in, logits over the vocabulary out."""
        output = self.model.get_output_embeddings()
        for child in self.model.children():
            if child is not self.body and any(module is output for module in child.modules()):
                return child
        raise KalmError(f"{type(self.model).__name__} has no text head that could be found.")

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), settings and tokenizer in the Hugging Face layout."""
        self.model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)


def load(name: str, attention: str = "auto") -> Backbone:
    """Load a backbone in float32 on the CPU.

    Args:
        name: ``minilm``, a hub name, or a folder.
        attention: ``prefix``, ``causal`` or ``auto`` (prefix for BERT-style models).

    Raises:
        KalmError: the weights cannot be had, or the architecture is not a causal LM.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    place = locate(name)
    try:
        config = AutoConfig.from_pretrained(place)
        encoder = config.model_type in ENCODER_STYLE
        extra = {"is_decoder": True} if encoder else {}
        # Dropout off: one pass over plenty of data does not overfit, and runs stay exactly repeatable.
        dropout = {n: 0.0 for n in vars(config) if n.endswith(("dropout", "dropout_prob", "pdrop"))}
        model = AutoModelForCausalLM.from_pretrained(
            place, attn_implementation="sdpa", dtype=torch.float32, **extra, **dropout
        )
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError, KeyError) as error:
        raise KalmError(
            f"no causal language model at {name!r}: {str(error).splitlines()[0]} "
            "Give 'minilm', a folder in the Hugging Face layout, or a hub name that is cached or reachable."
        ) from None
    two_way = attention == "prefix" or (attention == "auto" and encoder)
    return Backbone(model, tokenizer, two_way)
