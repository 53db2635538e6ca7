"""Load a backbone, or plan one without its weights; either way it is tried out before it is used.

A plan has all shapes and no memory. So that a dry run refuses what a real run would refuse, the trial is then
made on a *miniature*: the same settings with two layers, few words and random weights, which for a 7B model
takes seconds.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import torch

from kalm.errors import KalmError
from kalm.lm import compatibility
from kalm.lm.backbone import ENCODER_STYLE, Backbone, Origin, digest
from kalm.lm.compatibility import in_one_line
from kalm.lm.text_head import TextHead
from kalm.pretrained import locate, recorded_name
from kalm.pretrained.weight_files import pickled_files, require_sound_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Weights = Literal["float32", "bfloat16"]
MINIATURE_WORDS = 512
MINIATURE_LIMIT = 1_000_000_000  # weights; above, a dry run goes without a trial


def load_backbone(
    name: str, attention: str = "auto", weights: Weights = "float32", pretrained: bool = True
) -> Backbone:
    """Load a backbone on the CPU.

    Args:
        name: ``minilm``, ``smollm2``, a hub name, a folder or a GGUF file.
        attention: ``prefix``, ``causal`` or ``auto`` (prefix for BERT-style models).
        weights: storage type.
        pretrained: False draws random weights (from torch's generator) instead of those of the checkpoint.

    Raises:
        KalmError: the weights cannot be had, or the architecture cannot be grounded.
    """
    config, tokenizer = describe_backbone(name)
    build_on_meta(name, config)
    model, unfound = _with_weights(name, config, weights, pretrained)
    compatibility.require_by_tokens(name, tokenizer, _rows(model))
    origin = Origin(recorded_name(name), config.model_type, digest(model), weights=weights)
    return _tried(model, tokenizer, _two_way(attention, config), origin, unfound)


def plan_backbone(name: str, attention: str = "auto", weights: Weights = "float32") -> tuple[Backbone, bool]:
    """Return a backbone without numbers, from `config.json` and tokenizer alone, and whether one was tried.

    Raises:
        KalmError: there is no such model, its files are damaged, or its architecture cannot be grounded.
    """
    config, tokenizer = describe_backbone(name)
    model = build_on_meta(name, config).to(getattr(torch, weights))
    compatibility.require_by_tokens(name, tokenizer, _rows(model))
    origin = Origin(name, config.model_type, "", weights=weights)
    two_way = _two_way(attention, config)
    tried = _miniature(name, config)
    width = config.hidden_size
    if tried is not None:
        width = _tried(tried, tokenizer, two_way, origin).hidden_size
    return Backbone(model, tokenizer, TextHead(model), two_way, origin, width), tried is not None


def describe_backbone(name: str) -> tuple[PretrainedConfig, PreTrainedTokenizerBase]:
    """Load a backbone's settings, made those of a decoder without dropout, and its tokenizer.

    Raises:
        KalmError: they cannot be read, or the weights beside them are damaged.
    """
    from transformers import AutoConfig, AutoTokenizer

    place = locate(name, weights=False)
    if Path(place).is_dir():
        require_sound_files(Path(place))
    try:
        config = AutoConfig.from_pretrained(place)
        tokenizer = AutoTokenizer.from_pretrained(place)
    except Exception as error:  # of any kind: files are damaged in many ways
        raise _nothing(name, error) from None
    if config.model_type in ENCODER_STYLE:
        config.is_decoder = True
    # Dropout off: one pass over plenty of data does not overfit, and runs stay exactly repeatable.
    for field in vars(config):
        if field.endswith(("dropout", "dropout_prob", "pdrop")):
            setattr(config, field, 0.0)
    return config, tokenizer


def build_on_meta(name: str, config: PretrainedConfig) -> PreTrainedModel:
    """Build the model of these settings on the device that has no memory, or refuse its architecture."""
    from transformers import AutoModelForCausalLM

    compatibility.require_by_config(name, config)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=torch.float32)
    except Exception as error:
        why = in_one_line(error)
        raise compatibility.refusal(name, config.model_type, f"its settings give no model ({why})") from None
    compatibility.require_by_signature(name, model)
    return model


def _tried(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    two_way: bool,
    origin: Origin,
    unfound: frozenset[str] = frozenset(),
) -> Backbone:
    """Take a model apart and try it out."""
    model.eval()
    try:
        with torch.inference_mode():
            hidden = model.base_model(input_ids=torch.zeros(1, 1, dtype=torch.int64)).last_hidden_state
    except Exception as error:
        why = f"reading one token, it ended in {in_one_line(error)}"
        raise compatibility.refusal(origin.name, origin.model_type, why) from None
    backbone = Backbone(model, tokenizer, TextHead(model), two_way, origin, hidden.shape[-1], unfound)
    compatibility.require_by_trial(backbone)
    return backbone


def _miniature(name: str, config: PretrainedConfig) -> PreTrainedModel | None:
    """Return a small model of this architecture with random weights; None where even one layer is too big."""
    from transformers import AutoModelForCausalLM

    for layers in (2, 1):
        small = _shrunk(config, layers)
        if sum(p.numel() for p in build_on_meta(name, small).parameters()) > MINIATURE_LIMIT:
            continue
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            model = AutoModelForCausalLM.from_config(small, attn_implementation="sdpa", dtype=torch.float32)
            for weight in model.parameters():
                if not weight.any():
                    weight.normal_(std=0.2)  # what begins at nothing would show nothing
        return model
    return None


def _shrunk(config: PretrainedConfig, layers: int) -> PretrainedConfig:
    """Return settings with few layers and words; what is said per layer is cut alike."""
    small, whole = copy.deepcopy(config), config.num_hidden_layers
    for field, value in vars(config).items():
        if isinstance(value, list) and len(value) == whole:
            setattr(small, field, value[:layers])
    small.num_hidden_layers = min(layers, whole)
    small.vocab_size = min(MINIATURE_WORDS, config.vocab_size)
    for field in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if isinstance(number := getattr(config, field, None), int) and number >= small.vocab_size:
            setattr(small, field, None)
    return small


def _with_weights(
    name: str, config: PretrainedConfig, weights: Weights, pretrained: bool
) -> tuple[PreTrainedModel, frozenset[str]]:
    """Return the model, and the names of weights that its checkpoint does not hold."""
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, weights)
    if not pretrained:
        random = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa", dtype=dtype)
        return random, frozenset()
    place = locate(name)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            place, config=config, output_loading_info=True, attn_implementation="sdpa", dtype=dtype
        )
    except Exception as error:
        if pickled := pickled_files(Path(place)):
            raise KalmError(
                f"{pickled[0]} holds no tensors that can be read without running code of its own "
                f"({type(error).__name__}). Get the model's safetensors files; nothing of it was run."
            ) from None
        raise _nothing(name, error) from None
    model, about = cast("tuple[PreTrainedModel, dict[str, set[str]]]", loaded)
    return model, frozenset(about["missing_keys"])


def _rows(model: PreTrainedModel) -> int:
    weight = model.get_input_embeddings().weight
    assert isinstance(weight, torch.Tensor), type(weight)
    return len(weight)


def _two_way(attention: str, config: PretrainedConfig) -> bool:
    return attention == "prefix" or (attention == "auto" and config.model_type in ENCODER_STYLE)


def _nothing(name: str, error: Exception) -> KalmError:
    return KalmError(
        f"no causal language model at {name!r}: {in_one_line(error)} "
        "Give 'minilm', 'smollm2', a folder in the Hugging Face layout, a GGUF file, or a hub name that is "
        "cached or reachable."
    )
