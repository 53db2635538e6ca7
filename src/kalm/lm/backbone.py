"""The pre-trained language model: any Hugging Face causal LM by name or folder, by default MiniLM.

BERT-style encoders are loaded as decoders. Their pre-training read text in both directions, so by default the
prompt keeps that (`attention: prefix`) and only what follows it is causal; the key/value cache is unaffected,
because the prompt never looks at what follows.

Grounding drives a model with embeddings, positions, a mask and a cache of its own. Which models can be driven
so is decided in `kalm.lm.compatibility`, which parts of them learn in `kalm.lm.lora`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kalm.errors import KalmError
from kalm.lm import compatibility
from kalm.pretrained import MINILM, locate

ENCODER_STYLE = ("bert", "roberta", "electra", "camembert", "xlm-roberta")
ADAPTER = "adapter"  # folder of LoRA weights inside a saved backbone


@dataclass(frozen=True)
class Origin:
    """Where a backbone's weights come from, as `grounded.json` records it.

    Attributes:
        name: ``minilm``, a hub name, or an absolute folder.
        model_type: the architecture, in the words of its `config.json`.
        digest: fingerprint of the weights before grounding.
        tuning: what learnt: ``full``, ``lora`` or ``frozen``.
        weights: storage type.
        stored: a saved folder holds the weights themselves; else they are what `name` gives.
    """

    name: str
    model_type: str
    digest: str
    tuning: Literal["full", "lora", "frozen"] = "full"
    weights: Literal["float32", "bfloat16"] = "float32"
    stored: bool = True


@dataclass(frozen=True)
class Backbone:
    """A causal LM taken apart into what grounding needs."""

    model: Any  # the transformers model; adapters, if any, are inside
    tokenizer: Any
    two_way_prompt: bool
    origin: Origin
    unfound: frozenset[str] = frozenset()  # names of weights that the checkpoint did not hold

    @property
    def width(self) -> int:
        """Size D of token embeddings."""
        return self.model.get_input_embeddings().weight.shape[1]

    @property
    def scale(self) -> float:
        """Spread of the token embeddings; 1 where the model is a mere plan without numbers."""
        weight = self.model.get_input_embeddings().weight.detach()
        return 1.0 if weight.is_meta else float(weight.float().std())

    @property
    def context(self) -> int:
        """Largest number of positions that all layers treat alike, and that were trained."""
        return compatibility.context(self.model.config, self.tokenizer) - self.first_position

    @property
    def first_position(self) -> int:
        """Number of the first position: RoBERTa-style models begin behind the padding's."""
        for name, module in self.body.named_modules():
            if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
                return module.padding_idx + 1
        return 0

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

    def run(self, embedded: Tensor, visible: Tensor, position: Tensor, cache: Any = None) -> Tensor:
        """Run the transformer: (B, L, D), (B, 1, L, K) bool, (B, L) from 0 -> hidden states (B, L, D)."""
        output = self.body(
            inputs_embeds=embedded.to(self.model.get_input_embeddings().weight.dtype),
            attention_mask=visible,
            position_ids=position + self.first_position,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Read words from hidden states: (n, D) -> (n, V), wide enough for a softmax."""
        head = self.text_head
        return to_float32(head(hidden.to(next(head.parameters()).dtype)))


def to_float32(output: Tensor) -> Tensor:
    """Give half-precision numbers the range that a softmax needs, and a form that NumPy knows."""
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output


def load_backbone(
    name: str,
    attention: str = "auto",
    weights: Literal["float32", "bfloat16"] = "float32",
    pretrained: bool = True,
) -> Backbone:
    """Load a backbone on the CPU.

    Args:
        name: ``minilm``, a hub name, or a folder.
        attention: ``prefix``, ``causal`` or ``auto`` (prefix for BERT-style models).
        weights: storage type.
        pretrained: False draws random weights (from torch's generator) instead of those of the checkpoint.

    Raises:
        KalmError: the weights cannot be had, or the architecture cannot be grounded.
    """
    place = locate(name)
    config, tokenizer = described(name)
    plan(name, config)
    model, unfound = _weights(name, place, config, weights, pretrained)
    origin = Origin(
        str(Path(place).resolve()) if Path(place).is_dir() and name != MINILM else name,
        config.model_type,
        digest(model),
        weights=weights,
    )
    backbone = Backbone(model.eval(), tokenizer, _two_way(attention, config), origin, frozenset(unfound))
    compatibility.require_by_trial(backbone)
    return backbone


def planned(
    name: str, attention: str = "auto", weights: Literal["float32", "bfloat16"] = "float32"
) -> Backbone:
    """Return a backbone without numbers, from `config.json` and tokenizer alone: all shapes, no memory.

    Raises:
        KalmError: there is no such model, or its architecture cannot be grounded.
    """
    config, tokenizer = described(name)
    model = plan(name, config).to(getattr(torch, weights))
    return Backbone(
        model, tokenizer, _two_way(attention, config), Origin(name, config.model_type, "", weights=weights)
    )


def described(name: str) -> tuple[Any, Any]:
    """Load a backbone's settings, made those of a decoder without dropout, and its tokenizer."""
    from transformers import AutoConfig, AutoTokenizer

    place = locate(name)
    try:
        config = AutoConfig.from_pretrained(place)
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _nothing(name, error) from None
    if config.model_type in ENCODER_STYLE:
        config.is_decoder = True
    # Dropout off: one pass over plenty of data does not overfit, and runs stay exactly repeatable.
    for field in vars(config):
        if field.endswith(("dropout", "dropout_prob", "pdrop")):
            setattr(config, field, 0.0)
    return config, tokenizer


def plan(name: str, config: Any) -> Any:
    """Build the model of these settings on the device that has no memory, or refuse its architecture."""
    from transformers import AutoModelForCausalLM

    compatibility.require_by_config(name, config)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    except ValueError as error:
        raise compatibility.refusal(name, config, str(error).splitlines()[0]) from None
    compatibility.require_by_signature(name, model)
    return model


def digest(model: nn.Module) -> str:
    """Return a fingerprint of weights: names, shapes, and both ends of every tensor."""
    hasher = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        hasher.update(f"{name}{tuple(parameter.shape)}".encode())
        hasher.update(torch.cat([flat[:512], flat[-512:]]).float().cpu().numpy().tobytes())
    return hasher.hexdigest()[:16]


def _weights(name: str, place: str, config: Any, weights: str, pretrained: bool) -> tuple[Any, set[str]]:
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"attn_implementation": "sdpa", "dtype": getattr(torch, weights)}
    if not pretrained:
        return AutoModelForCausalLM.from_config(config, **options), set()
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            place, config=config, output_loading_info=True, **options
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _nothing(name, error) from None
    model, about = loaded
    return model, set(about["missing_keys"])


def _two_way(attention: str, config: Any) -> bool:
    return attention == "prefix" or (attention == "auto" and config.model_type in ENCODER_STYLE)


def _nothing(name: str, error: Exception) -> KalmError:
    return KalmError(
        f"no causal language model at {name!r}: {str(error).strip().splitlines()[0]} "
        "Give 'minilm', a folder in the Hugging Face layout, or a hub name that is cached or reachable."
    )
