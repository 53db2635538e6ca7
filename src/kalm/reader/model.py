"""The language model that reads: a backbone, what it is shown, and the few words that a plan may hold next.

Nothing but plain sentences may come, so nothing but their words is ever scored: of a vocabulary of 49,152 a
plan's next word is one of two to fifteen. For a plain linear head only those rows are multiplied, which is
what makes teaching and reading cheap; any other head is asked as a whole (`WordScores` tries which it is).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kalm.errors import KalmError
from kalm.lm.backbone import Backbone
from kalm.lm.lora import inject
from kalm.lm.prompts import PromptBuilder
from kalm.reader.prompts import OWN_WORDS, SEPARATOR, Menu
from kalm.reader.settings import TeachConfig
from kalm.reader.tree import PlanTree

LONGEST = 8  # sentences in a plan
LAYER = re.compile(r"\.(\d+)\.")
TRIED = 8  # hidden states on which a head is tried


class WordScores:
    """Logits of a few words: (n, H) and U token ids -> (n, U).

    Args:
        backbone: whose words.
    """

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        head = backbone.model.get_output_embeddings()
        self._linear = head if isinstance(head, nn.Linear) and self._is_all(head) else None

    def _is_all(self, head: nn.Linear) -> bool:
        """Whether nothing is done behind the body but to multiply by this layer."""
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            hidden = torch.randn(TRIED, head.in_features).to(head.weight)
            return torch.allclose(self.backbone.logits(hidden), head(hidden).float(), rtol=1e-4, atol=1e-4)

    def __call__(self, hidden: Tensor, words: Tensor) -> Tensor:
        """Score these words only."""
        if self._linear is None:
            return self.backbone.logits(hidden)[:, words]
        bias = None if self._linear.bias is None else self._linear.bias[words]
        return nn.functional.linear(hidden, self._linear.weight[words], bias).float()


@dataclass(frozen=True)
class Spelling:
    """How one backbone spells scenes, requests and plans.

    Attributes:
        builder: its tokens.
    """

    builder: PromptBuilder

    def prompt(self, menu: Menu) -> list[int]:
        """Tokens of what all requests about a scene share."""
        return self.builder.prompt(menu.scene_text).value.tolist()

    def request(self, request: str) -> list[int]:
        """Tokens of one request, up to where its plan begins."""
        return self.builder.ids(Menu.request_text(request))

    def tree(self, menu: Menu) -> PlanTree:
        """Return the tree of plans.

        Raises:
            KalmError: the sentences cannot be told apart by this tokenizer.
        """
        sentences = [self.builder.ids(f" {text}") for text in menu.short]
        separator = self.builder.ids(SEPARATOR)
        return PlanTree(sentences, self.builder.ids(OWN_WORDS), separator[0], self.builder.end, LONGEST)


def spelling(backbone: Backbone) -> Spelling:
    """Return how a backbone spells."""
    return Spelling(PromptBuilder(backbone.tokenizer, backbone.context))


def add_adapters(backbone: Backbone, config: TeachConfig) -> None:
    """Put fresh adapters beside the linear layers of the upper layers; all else stays as it is.

    Raises:
        KalmError: there is no such layer.
    """
    from peft import LoraConfig

    names = linear_layers(backbone, config.first_layer)
    if not names:
        raise KalmError(
            f"{backbone.origin.name!r} has no linear layer from layer {config.first_layer} on. "
            "Lower teach.first_layer."
        )
    for weight in backbone.model.parameters():
        weight.requires_grad_(False)
    inject(backbone, LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=list(names)))


def linear_layers(backbone: Backbone, first: int) -> Sequence[str]:
    """Return the names of the linear layers from this layer of the body on."""
    body = {id(module) for module in backbone.body.modules()}
    found = []
    for name, module in backbone.model.named_modules():
        number = LAYER.search(f"{name}.")
        if isinstance(module, nn.Linear) and id(module) in body and number and int(number[1]) >= first:
            found.append(name)
    return found
