"""The text head of a causal LM by itself: hidden states in, logits over the vocabulary out.

Unusual: the head is not searched for among the parts. Families do more behind the body than one linear
layer: Granite, Cohere and MiniCPM3 scale their logits, Gemma 2 bends them, BERT and ELECTRA pass through a
dense layer and a norm. So the model's own `forward` is run, on a shallow copy whose body only hands on what
it is given. Weights are shared with the model, and gradients reach them.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class GivenHidden(NamedTuple):
    """What a body returns, in the words of all families; only the hidden states are there."""

    last_hidden_state: Tensor  # (1, n, H)
    past_key_values: None = None
    hidden_states: None = None
    attentions: None = None
    cross_attentions: None = None
    router_logits: None = None
    pooler_output: None = None


class HandOn(nn.Module):
    """Stands in the place of a body: returns the embeddings that it is given as its hidden states."""

    def __init__(self, body: nn.Module) -> None:
        from transformers import PreTrainedModel

        super().__init__()
        # Some families ask the decoder within the body (OPT).
        inner = (name for name, child in body.named_children() if isinstance(child, PreTrainedModel))
        for name in inner:
            object.__setattr__(self, name, self)

    def forward(self, *_: object, inputs_embeds: Tensor, **__: object) -> GivenHidden:
        """Hand on (1, n, H)."""
        return GivenHidden(last_hidden_state=inputs_embeds)


class TextHead(nn.Module):
    """A model's own way from hidden states to logits: (n, H) -> (n, V).

    Args:
        model: a causal LM whose `base_model` is its body.
    """

    head: PreTrainedModel

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        # nn.Module shares parameters, buffers and hooks between shallow copies; only the children are ours.
        head = copy.copy(model)
        head._modules = {**model._modules, model.base_model_prefix: HandOn(model.base_model)}
        object.__setattr__(self, "head", head)  # no child: its weights are the model's

    def forward(self, hidden: Tensor) -> Tensor:
        """Read words from hidden states: (n, H) -> (n, V)."""
        return self.head.forward(inputs_embeds=hidden[None], use_cache=False).logits[0]
