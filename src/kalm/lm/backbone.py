"""The pre-trained language model taken apart: any Hugging Face causal LM, by default MiniLM.

BERT-style encoders are run as decoders. Their pre-training read text in both directions, so by default the
prompt keeps that (`attention: prefix`) and only what follows it is causal; the key/value cache is unaffected,
because the prompt never looks at what follows.

Grounding drives a model with embeddings, positions, a mask and a cache of its own. `kalm.lm.loading`
loads one, `kalm.lm.compatibility` decides which can be driven so, `kalm.lm.lora` which parts learn.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from kalm.lm.text_head import TextHead

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.cache_utils import Cache

ENCODER_STYLE = ("bert", "roberta", "electra", "camembert", "xlm-roberta")
SAMPLE = 16  # words by which the factor of the word embedding is measured


@dataclass(frozen=True)
class Origin:
    """Where a backbone's weights come from, as `grounded.json` records it.

    Attributes:
        name: ``minilm``, ``smollm2``, a hub name, or an absolute folder or GGUF file.
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
    """A causal LM taken apart into what grounding needs.

    Attributes:
        model: the transformers model; adapters, if any, are inside.
        tokenizer: its tokenizer.
        head: its own way from hidden states to logits.
        two_way_prompt: whether prompts are read in both directions.
        origin: where its weights come from.
        hidden_size: size H of its last hidden states; ELECTRA's is not that of its embeddings.
        unfound: names of weights that the checkpoint did not hold.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    head: TextHead
    two_way_prompt: bool
    origin: Origin
    hidden_size: int
    unfound: frozenset[str] = frozenset()

    @property
    def words(self) -> nn.Module:
        """Token ids in, embeddings (D) out, multiplied where the model multiplies them (Gemma, BioGPT)."""
        return self.model.get_input_embeddings()

    @property
    def word_weight(self) -> Tensor:
        """Matrix of the token embeddings, as stored: (V, D)."""
        weight = self.words.weight
        assert isinstance(weight, Tensor), type(weight)
        return weight

    @property
    def width(self) -> int:
        """Size D of token embeddings."""
        return self.word_weight.shape[1]

    @property
    def scale(self) -> float:
        """Spread of what the transformer is given for a word; 1 where the model has no numbers.

        New tokens have to get this size. It is that of the matrix times the factor that the embedding applies
        on top of it; a factor that the body applies to all it is given (Granite) is no part of it.
        """
        weight = self.word_weight.detach()
        if weight.is_meta:
            return 1.0
        with torch.no_grad():
            ids = weight[: 64 * SAMPLE].float().norm(dim=1).topk(min(SAMPLE, len(weight))).indices
            factor = float(self.words(ids).float().norm() / weight[ids].float().norm())
        return float(weight.float().std()) * factor

    @property
    def first_position(self) -> int:
        """Number of the first position: RoBERTa-style models begin behind the padding's."""
        for name, module in self.body.named_modules():
            if not name.endswith("position_embeddings") or not isinstance(module, nn.Embedding):
                continue
            if module.padding_idx is not None:
                return module.padding_idx + 1
        return 0

    @property
    def context(self) -> int:
        """Largest number of positions at which every layer sees all that came before, and that were trained.

        Layers that see only a window or chunk of what came before are right as long as nothing is longer: the
        mask is the same then.
        """
        config = self.model.config
        limits = [getattr(config, "max_position_embeddings", None) or self.tokenizer.model_max_length]
        kinds = getattr(config, "layer_types", None)
        if kinds is None or "sliding_attention" in kinds:
            limits.append(getattr(config, "sliding_window", None))
        if kinds is not None and "chunked_attention" in kinds:
            limits.append(getattr(config, "attention_chunk_size", None))
        return int(min(limit for limit in limits if limit)) - self.first_position

    @property
    def body(self) -> nn.Module:
        """The transformer without its text head: embeddings in, hidden states out."""
        return self.model.base_model

    def run(self, embedded: Tensor, visible: Tensor, position: Tensor, cache: Cache | None = None) -> Tensor:
        """Run the transformer: (B, L, D), (B, 1, L, K) bool, (B, L) from 0 -> hidden states (B, L, H)."""
        output = self.body(
            inputs_embeds=embedded.to(self.word_weight.dtype),
            attention_mask=visible,
            position_ids=position + self.first_position,
            past_key_values=cache,
            use_cache=cache is not None,
        )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Read words from hidden states: (n, H) -> (n, V), wide enough for a softmax."""
        return to_float32(self.head(hidden.to(self.word_weight.dtype)))


def to_float32(output: Tensor) -> Tensor:
    """Give half-precision numbers the range that a softmax needs, and a form that NumPy knows."""
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output


def digest(model: nn.Module) -> str:
    """Return a fingerprint of weights: names, shapes, and both ends of every tensor."""
    hasher = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        hasher.update(f"{name}{tuple(parameter.shape)}".encode())
        hasher.update(torch.cat([flat[:512], flat[-512:]]).float().cpu().numpy().tobytes())
    return hasher.hexdigest()[:16]
