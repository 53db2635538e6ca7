"""Which language models can be grounded: decided by settings and signature, then by a trial of a few tokens.

Grounding hands a model embeddings instead of words, positions that start anew within a row, a mask that says
for every pair of tokens who sees whom, and a key/value cache. A model that ignores one of these would train
without any error and be wrong, so each is refused by name where the settings tell, and tried out in any case.

Layers that see only a window or chunk of what came before are right as long as nothing is longer than the
window: the mask is the same then. So the window is the context (`context`), not a reason for refusal.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from kalm.errors import KalmError

if TYPE_CHECKING:
    from kalm.lm.backbone import Backbone

NEEDED = ("inputs_embeds", "attention_mask", "position_ids", "past_key_values")
ATTENTION = ("full_attention", "sliding_attention", "chunked_attention")
TRIAL_TOKENS, TRIAL_CACHED = 6, 4
# Share of the size of hidden states by which two ways of computing them may differ.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


def refusal(name: str, config: Any, why: str) -> KalmError:
    """Return the error that a backbone of this architecture cannot be grounded."""
    return KalmError(
        f"backbone {name!r} ({config.model_type}) cannot be grounded: {why} Needed is a decoder that takes "
        "embeddings, positions, a mask and a key/value cache, such as Llama, Qwen2, Mistral, SmolLM, GPT-2 "
        "or a BERT-style model. Set ground.backbone to one of these."
    )


def require_by_config(name: str, config: Any) -> None:
    """Refuse what the settings alone give away: no decoder, an encoder before it, recurrent layers."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    if config.is_encoder_decoder:
        raise refusal(name, config, "it is an encoder-decoder, whose text does not stand in one sequence.")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise refusal(name, config, "it has no form as a causal language model.")
    others = sorted(set(getattr(config, "layer_types", None) or ()) - set(ATTENTION))
    if others:
        raise refusal(name, config, f"some of its layers are not attention ({', '.join(others)}).")


def require_by_signature(name: str, model: Any) -> None:
    """Refuse what the model's own interface gives away."""
    if model.base_model is model:
        raise refusal(name, model.config, "its text head cannot be told from its body.")
    lacking = [word for word in NEEDED if word not in inspect.signature(model.base_model.forward).parameters]
    if lacking:
        raise refusal(name, model.config, f"it takes no {', '.join(lacking)}.")


def context(config: Any, tokenizer: Any) -> int:
    """Return the largest number of positions at which every layer sees all that came before."""
    limits = [getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length]
    kinds = getattr(config, "layer_types", None)
    if kinds is None or "sliding_attention" in kinds:
        limits.append(getattr(config, "sliding_window", None))
    if kinds is not None and "chunked_attention" in kinds:
        limits.append(getattr(config, "attention_chunk_size", None))
    return int(min(limit for limit in limits if limit))


@torch.inference_mode()
def require_by_trial(backbone: Backbone) -> None:
    """Compare a few tokens as the model reads them by itself with the three ways in which we drive it.

    Raises:
        KalmError: positions, mask or cache are not taken as given.
    """
    ids, seen = _trial(backbone)
    size = len(ids)
    words = backbone.model.get_input_embeddings()(ids)[None]  # (1, L, D)
    at = torch.arange(size)[None]
    plain = backbone.body(input_ids=ids[None], use_cache=False).last_hidden_state
    twice = torch.block_diag(seen.int(), seen.int()).bool()
    found = {
        "embeddings and positions": backbone.run(words, seen[None, None], at),
        "a mask": backbone.run(words.repeat(1, 2, 1), twice[None, None], at.repeat(1, 2))[:, size:],
        "a key/value cache": _cached(backbone, words, seen, at),
    }
    spread = float(plain.float().std())
    for what, hidden in found.items():
        off = float((hidden - plain).float().abs().max()) / spread
        if not off <= TOLERANCE[plain.dtype]:
            raise refusal(
                backbone.origin.name,
                backbone.model.config,
                f"given {what} of ours, its hidden states are off by {off:.2g} of their size.",
            )


def _trial(backbone: Backbone) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a few ordinary token ids (L,) and the causal mask (L, L)."""
    special = {*backbone.tokenizer.all_special_ids, backbone.model.config.pad_token_id}
    ordinary = (token for token in range(backbone.model.config.vocab_size) if token not in special)
    ids = torch.tensor([next(ordinary) for _ in range(TRIAL_TOKENS)])
    return ids, torch.ones(TRIAL_TOKENS, TRIAL_TOKENS, dtype=torch.bool).tril()


def _cached(backbone: Backbone, words: torch.Tensor, seen: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
    from transformers import DynamicCache

    cache, cut = DynamicCache(config=backbone.model.config), TRIAL_CACHED
    first = backbone.run(words[:, :cut], seen[None, None, :cut, :cut], at[:, :cut], cache)
    rest = backbone.run(words[:, cut:], seen[None, None, cut:], at[:, cut:], cache)
    return torch.cat([first, rest], dim=1)
