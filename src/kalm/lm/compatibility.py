"""Which language models can be grounded: decided by settings and signature, then by a trial of a few tokens.

Grounding hands a model embeddings instead of words, positions that start anew within a row, a mask that says
for every pair of tokens who sees whom, and a key/value cache, and reads words from hidden states. A model
that ignores one of these would train without any error and be wrong, so each is refused by name where the
settings tell, and tried out in any case: hidden states and logits must be those that it finds by itself.

A trial may fail in as many ways as there are models. Whatever is raised in it becomes a refusal in one line.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kalm.errors import KalmError
from kalm.lm.backbone import Backbone

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

NEEDED = ("inputs_embeds", "attention_mask", "position_ids", "past_key_values")
AGAIN = "per_layer_inputs"  # Gemma3n, Gemma4
ATTENTION = ("full_attention", "sliding_attention", "chunked_attention")
OPENING, CLOSING = ("cls_token_id", "bos_token_id"), ("sep_token_id", "eos_token_id")
TRIAL_TOKENS, TRIAL_CACHED = 6, 4
# Share of the size of the model's own numbers by which two ways of computing them may differ.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1}


def refusal(name: str, model_type: str, why: str) -> KalmError:
    """Return the error that a backbone of this architecture cannot be grounded."""
    return KalmError(
        f"backbone {name!r} ({model_type}) cannot be grounded: {why} Needed is a decoder that takes "
        "embeddings, positions, a mask and a key/value cache, such as Llama, Qwen2, Mistral, SmolLM, GPT-2 "
        "or a BERT-style model. Set ground.backbone to one of these."
    )


def in_one_line(error: BaseException) -> str:
    """Return what a library's error says, as the part of a sentence."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}." if lines else f"{type(error).__name__}."


def require_by_config(name: str, config: PretrainedConfig) -> None:
    """Refuse what the settings alone give away: no decoder, not text alone, recurrent layers, quantized."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    kind = config.model_type
    if config.is_encoder_decoder:
        raise refusal(name, kind, "it is an encoder-decoder, whose text does not stand in one sequence.")
    if config.get_text_config() is not config:
        raise refusal(name, kind, "it reads more than text, and its text model is only a part of it.")
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise refusal(name, kind, "it has no form as a causal language model.")
    others = sorted(set(getattr(config, "layer_types", None) or ()) - set(ATTENTION))
    if others:
        raise refusal(name, kind, f"some of its layers are not attention ({', '.join(others)}).")
    if quantized := getattr(config, "quantization_config", None):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized.quant_method
        raise KalmError(
            f"backbone {name!r} ({kind}) is quantized ({getattr(method, 'value', method)}), and such weights "
            "cannot be grounded. Take the model that it was made from; ground.weights=bfloat16 with "
            "ground.tuning=lora saves memory too."
        )


def require_by_signature(name: str, model: PreTrainedModel) -> None:
    """Refuse what the model's own interface gives away."""
    kind = model.config.model_type
    if model.base_model is model:
        raise refusal(name, kind, "its text head cannot be told from its body.")
    taken = inspect.signature(model.base_model.forward).parameters
    if AGAIN in taken:
        raise refusal(name, kind, "every layer of it wants the words anew, and states and actions are none.")
    if lacking := [word for word in NEEDED if word not in taken]:
        raise refusal(name, kind, f"it takes no {', '.join(lacking)}.")


def require_by_tokens(name: str, tokenizer: PreTrainedTokenizerBase, rows: int) -> None:
    """Refuse a tokenizer with ids that the embedding has no row for.

    Special tokens that no sequence of ours holds (padding, images) may lie outside: texts never spell them.
    """
    special = set(tokenizer.all_special_ids) | {
        number for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    used = {number for word in (*OPENING, *CLOSING) if (number := getattr(tokenizer, word, None)) is not None}
    highest = max(used | (set(tokenizer.get_vocab().values()) - special), default=0)
    if highest >= rows:
        raise KalmError(
            f"the tokenizer of backbone {name!r} has ids up to {highest}, its embedding only {rows} rows: "
            "they do not belong together. Take the tokenizer that the weights were trained with, or enlarge "
            "the embedding with transformers (`model.resize_token_embeddings(len(tokenizer))`) and save both."
        )


@torch.inference_mode()
def require_by_trial(backbone: Backbone) -> None:
    """Compare a few tokens as the model reads them by itself with the ways in which we drive it.

    Raises:
        KalmError: positions, mask or cache are not taken as given, words are read otherwise from hidden
            states, or the model cannot run at all this way.
    """
    name, kind = backbone.origin.name, backbone.origin.model_type
    try:
        off = _deviations(backbone)
    except Exception as error:  # anything may happen in a model that is not made for this
        raise refusal(name, kind, f"a trial of a few tokens ended in {in_one_line(error)}") from None
    for what, (share, numbers) in off.items():
        if not share <= TOLERANCE[backbone.word_weight.dtype]:
            raise refusal(
                name, kind, f"given {what} of ours, its {numbers} are off by {share:.2g} of their size."
            )


def _deviations(backbone: Backbone) -> dict[str, tuple[float, str]]:
    """Return by how much our ways of driving the model miss its own numbers, and which numbers."""
    ids, seen = _trial(backbone)
    size = len(ids)
    words = backbone.words(ids)[None]  # (1, L, D)
    at = torch.arange(size)[None]
    plain = backbone.body(input_ids=ids[None], use_cache=False).last_hidden_state
    twice = torch.block_diag(seen.int(), seen.int()).bool()
    found = {
        "embeddings and positions": backbone.run(words, seen[None, None], at),
        "a mask": backbone.run(words.repeat(1, 2, 1), twice[None, None], at.repeat(1, 2))[:, size:],
        "a key/value cache": _cached(backbone, words, seen, at),
    }
    off = {what: (_off(hidden, plain), "hidden states") for what, hidden in found.items()}
    logits = backbone.model(input_ids=ids[None], use_cache=False).logits[0]  # (L, V)
    return {**off, "hidden states": (_off(backbone.logits(plain[0]), logits), "logits")}


def _off(ours: Tensor, own: Tensor) -> float:
    """Return the largest difference as a share of the spread of the model's own numbers."""
    return float((ours - own).float().abs().max()) / float(own.float().std())


def _trial(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """Return a few ordinary token ids (L,) and the causal mask (L, L)."""
    special = {*backbone.tokenizer.all_special_ids, backbone.model.config.pad_token_id}
    ordinary = (token for token in range(len(backbone.word_weight)) if token not in special)
    ids = torch.tensor([next(ordinary) for _ in range(TRIAL_TOKENS)])
    return ids, torch.ones(TRIAL_TOKENS, TRIAL_TOKENS, dtype=torch.bool).tril()


def _cached(backbone: Backbone, words: Tensor, seen: Tensor, at: Tensor) -> Tensor:
    from transformers import DynamicCache

    cache, cut = DynamicCache(config=backbone.model.config), TRIAL_CACHED
    first = backbone.run(words[:, :cut], seen[None, None, :cut, :cut], at[:, :cut], cache)
    rest = backbone.run(words[:, cut:], seen[None, None, cut:], at[:, cut:], cache)
    return torch.cat([first, rest], dim=1)
