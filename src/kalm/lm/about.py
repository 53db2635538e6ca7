"""What a language model is, before it is used: from its settings and tokenizer, without weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from kalm.errors import KalmError
from kalm.lm.backbone import Backbone
from kalm.lm.loading import describe_backbone, plan_backbone
from kalm.pretrained import locate
from kalm.pretrained.conversion import gguf_source
from kalm.pretrained.weight_files import pickled_files
from kalm.runs.io import file_sha256
from kalm.types import JsonObject

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


def about_model(name: str) -> JsonObject:
    """Return what there is to know of a model, JSON-ready.

    Args:
        name: what `--backbone` takes.

    Raises:
        KalmError: there is no such model, or its settings or tokenizer cannot be read.
    """
    config, tokenizer = describe_backbone(name)
    try:
        plan, refused = plan_backbone(name)[0], None
    except KalmError as error:
        plan, refused = None, str(error)
    return {
        "name": name,
        "architecture": config.model_type,
        "parameters": _parameters(config, plan),
        "layers": getattr(config, "num_hidden_layers", None),
        "width": getattr(config, "hidden_size", None),
        "context": plan.context if plan else getattr(config, "max_position_embeddings", None),
        **_words(tokenizer),
        "grounded": refused is None,
        "why_not": refused,
        "prompt": ("read in both directions" if plan.two_way_prompt else "causal") if plan else None,
        **_place(locate(name, weights=False), config),
    }


def _parameters(config: PretrainedConfig, plan: Backbone | None) -> int | None:
    """Count the weights; None where the settings give no model that transformers can build."""
    from transformers import AutoModel

    if plan is not None:
        return plan.model.num_parameters()
    try:
        with torch.device("meta"):
            return AutoModel.from_config(config).num_parameters()
    except Exception:  # of any kind; why it cannot be grounded is told
        return None


def _words(tokenizer: PreTrainedTokenizerBase) -> JsonObject:
    opening = tokenizer.cls_token or tokenizer.bos_token
    closing = tokenizer.sep_token or tokenizer.eos_token
    return {
        "tokenizer": type(tokenizer).__name__,
        "vocabulary": len(tokenizer),
        "start_token": opening,
        "end_token": closing,
        "chat_template": bool(tokenizer.chat_template),
    }


def _place(place: str, config: PretrainedConfig) -> JsonObject:
    """Return where the weights are, and their SHA-256 or, on the hub, their revision."""
    folder = Path(place)
    if not folder.is_dir():
        return {"place": f"hub: {place}", "revision": config._commit_hash}
    source = gguf_source(folder)
    if source is not None:
        return {"place": place, "gguf": source.path, "stored_as": source.kinds, "sha256": source.sha256}
    files = sorted(folder.glob("*.safetensors")) or pickled_files(folder)
    digests = {file.name: file_sha256(file) for file in files}
    return {"place": place, "sha256": next(iter(digests.values())) if len(digests) == 1 else digests}
