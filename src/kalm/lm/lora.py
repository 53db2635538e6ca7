"""What of a language model learns: all of it, low-rank adapters (LoRA), or nothing. Decided here alone.

| | body | words (token embedding, text head's weights) | not in the checkpoint |
|---|---|---|---|
| `full` | learns | with `train_embeddings` | learns, as new as the state head |
| `lora` | adapters learn | with `train_embeddings` | learns |
| `frozen` | stays | stays | learns |

The last column is for encoders without a text head of their own, such as MiniLM: what was never trained must
be. Adapters are injected into the model in place, so nothing else has to know of them. They stand beside
every linear layer and every expert that peft can adapt; what it cannot (some routers and shared experts) is
named in the log and by a dry run (`reach`).

A grounded model is saved with its base weights only where they differ from what the backbone's name gives
(`Origin.stored`): always for `full`; for `lora` and `frozen` only when words or new parts learnt, or when the
body was random. Llama-2-7b with adapters is 0.2 GB on disk that way, not 13. Adapters are never saved merged
into the base: merging rounds, and a loaded model would not be the trained one. For imagining they can be
merged (`kalm.lm.merging`).
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kalm.errors import KalmError
from kalm.lm.backbone import Backbone, Origin
from kalm.lm.loading import load_backbone
from kalm.lm.settings import GroundConfig

if TYPE_CHECKING:
    from peft import LoraConfig

log: logging.Logger = logging.getLogger(__name__)

ADAPTER = "adapter"  # folder of LoRA weights inside a saved backbone
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."  # in front of every name in peft's own layout
WRAPPED = re.compile(r"\.base_layer(?=\.)")  # once per adapter around a weight


class Reach(NamedTuple):
    """Which matrices of a body have adapters; embeddings do not count."""

    share: float  # of the numbers in them
    left_alone: tuple[str, ...]  # names of the others, layer numbers as *


def prepare(config: GroundConfig) -> Backbone:
    """Load the backbone that these settings name, and settle what of it learns.

    Raises:
        KalmError: it cannot be had or grounded, or it lacks what the tuning needs.
    """
    base = load_backbone(config.backbone, config.attention, config.weights, config.pretrained)
    return tuned(base, config)


def tuned(backbone: Backbone, config: GroundConfig) -> Backbone:
    """Give a loaded (or planned) backbone its adapters, and set `requires_grad` of all its weights."""
    named = dict(backbone.model.named_parameters())
    words = {id(p) for p in _words(backbone)}
    for name, parameter in named.items():
        if id(parameter) in words:
            learns = config.train_embeddings
        else:
            learns = config.tuning == "full" or name in backbone.unfound
        parameter.requires_grad_(learns)
    if config.tuning == "lora":
        inject(backbone, _lora(backbone, config))
        if (found := reach(backbone)).left_alone:
            log.warning(
                "LoRA reaches %.1f %% of the body of %s; these stay as they are: %s",
                100 * found.share,
                backbone.origin.name,
                ", ".join(found.left_alone),
            )
    if config.gradient_checkpointing:
        if not backbone.model.supports_gradient_checkpointing:
            raise KalmError(
                f"{backbone.origin.name!r} has no gradient checkpointing. "
                "Set ground.gradient_checkpointing=false."
            )
        backbone.model.activation_checkpointing_enable({"use_reentrant": False})
    changed = any(parameter.requires_grad for parameter in named.values()) or not config.pretrained
    return replace(backbone, origin=replace(backbone.origin, tuning=config.tuning, stored=changed))


def groups(model: nn.Module, backbone: Backbone) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Split what learns of a grounded model: pre-trained weights and adapters, and all that is new."""
    old = {id(p) for n, p in backbone.model.named_parameters() if n not in backbone.unfound}
    old |= {id(p) for p in _words(backbone)}
    learning = [p for p in model.parameters() if p.requires_grad]
    return [p for p in learning if id(p) in old], [p for p in learning if id(p) not in old]


def reach(backbone: Backbone) -> Reach:
    """Return what of the body the adapters reach."""
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import ParamWrapper

    adapted: set[int] = set()
    embeddings: set[int] = set()
    for module in backbone.body.modules():
        if isinstance(module, ParamWrapper):
            adapted.add(id(module.get_param()))
        elif isinstance(module, LoraLayer):
            adapted.add(id(module.get_base_layer().weight))
        elif isinstance(module, nn.Embedding):
            embeddings |= {id(weight) for weight in module.parameters()}
    reached, missed, names = 0, 0, {}
    for name, weight in backbone.body.named_parameters():
        if is_adapter(name) or weight.dim() < 2 or id(weight) in embeddings:
            continue
        if id(weight) in adapted:
            reached += weight.numel()
        else:
            missed += weight.numel()
            names[re.sub(r"\.\d+\.", ".*.", WRAPPED.sub("", name))] = None
    return Reach(reached / max(reached + missed, 1), tuple(names))


def inject(backbone: Backbone, config: LoraConfig) -> None:
    """Put LoRA layers into the body in place. They learn in float32, however the body is stored."""
    from peft import inject_adapter_in_model

    learning = {n for n, p in backbone.model.named_parameters() if p.requires_grad}
    inject_adapter_in_model(config, cast("nn.Module", backbone.model))
    for name, parameter in backbone.model.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.float()
        else:  # peft freezes everything else
            parameter.requires_grad_(WRAPPED.sub("", name) in learning)


def merge_adapters(backbone: Backbone) -> None:
    """Add adapters into the weights beside which they stand, in place; what is merged learns no more."""
    from peft.tuners.lora import LoraLayer

    for module in list(backbone.model.modules()):
        if isinstance(module, LoraLayer):
            module.merge(safe_merge=True)  # raises where the sum is not finite
    for weight in backbone.model.parameters():
        weight.requires_grad_(False)


def is_adapter(name: str) -> bool:
    """Whether this is the name of a weight that LoRA added."""
    return ".lora_" in name


def save_backbone(backbone: Backbone, folder: Path, half: bool = False) -> None:
    """Write settings, adapters (in peft's layout; `half`: in bfloat16), and what the name does not give."""
    state = {
        WRAPPED.sub("", name): tensor
        for name, tensor in backbone.model.state_dict().items()
        if not is_adapter(name)
    }
    if backbone.origin.stored:
        backbone.model.save_pretrained(folder, state_dict=state)
        backbone.tokenizer.save_pretrained(folder)
    else:
        backbone.model.config.save_pretrained(folder)
    if backbone.origin.tuning == "lora":
        _save_adapter(backbone, folder / ADAPTER, half)


def restore_backbone(folder: Path, origin: Origin, two_way_prompt: bool) -> Backbone:
    """Load what `save_backbone` wrote.

    Args:
        folder: the saved backbone.
        origin: what `grounded.json` says of it.
        two_way_prompt: how it reads prompts.

    Raises:
        KalmError: a file is missing or damaged, or the backbone is not the one that was grounded.
    """
    attention = "prefix" if two_way_prompt else "causal"
    place = str(folder) if origin.stored else origin.name
    base = load_backbone(place, attention, origin.weights)
    if base.origin.model_type != origin.model_type or (
        not origin.stored and base.origin.digest != origin.digest
    ):
        raise KalmError(
            f"{place} holds a {base.origin.model_type} model with fingerprint {base.origin.digest}; "
            f"grounded was {origin.name!r}, {origin.model_type} with {origin.digest}. "
            "Put that backbone back in its place."
        )
    if origin.stored and base.unfound:
        raise KalmError(f"{folder} lacks the weights {', '.join(sorted(base.unfound))}: it is damaged.")
    loaded = replace(base, origin=origin)
    if origin.tuning == "lora":
        _load_adapter(loaded, folder / ADAPTER)
    return loaded


def _save_adapter(backbone: Backbone, folder: Path, half: bool) -> None:
    config = backbone.model.peft_config["default"]
    config.base_model_name_or_path = backbone.origin.name
    config.save_pretrained(str(folder))
    dtype = torch.bfloat16 if half else torch.float32
    weights = {name: weight.detach().to(dtype).contiguous() for name, weight in _adapters(backbone).items()}
    save_file(weights, folder / ADAPTER_WEIGHTS)


def _adapters(backbone: Backbone) -> dict[str, nn.Parameter]:
    """Return the weights of the adapters by their names in peft's own layout."""
    named = backbone.model.named_parameters()
    return {PEFT_PREFIX + n.replace(".default.", "."): weight for n, weight in named if is_adapter(n)}


def _load_adapter(backbone: Backbone, folder: Path) -> None:
    from peft import LoraConfig

    try:
        inject(backbone, cast("LoraConfig", LoraConfig.from_pretrained(str(folder))))
        tensors: dict[str, Tensor] = load_file(folder / ADAPTER_WEIGHTS)
    except Exception as error:
        raise KalmError(f"{folder} is damaged: {str(error).splitlines()[0]}") from None
    adapters = _adapters(backbone)
    if {n: w.shape for n, w in adapters.items()} != {n: t.shape for n, t in tensors.items()}:
        raise KalmError(f"{folder} holds adapters of another backbone.")
    with torch.no_grad():
        for name, weight in adapters.items():
            weight.copy_(tensors[name])


def _lora(backbone: Backbone, config: GroundConfig) -> LoraConfig:
    """Return peft's settings: every linear layer and every expert of the body, none of the text head."""
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    body = {id(module) for module in backbone.body.modules()}
    outside = [name for name, module in backbone.model.named_modules() if name and id(module) not in body]
    # Mixtures of experts hold theirs stacked, as one tensor and no layer.
    experts = [n for n, p in backbone.model.named_parameters() if p.dim() == 3 and ".experts." in n]
    if experts and config.lora.dropout:
        raise KalmError(
            f"{backbone.origin.name!r} is a mixture of experts, whose adapters take no dropout. "
            "Set ground.lora.dropout=0."
        )
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules="all-linear",
        exclude_modules=outside or None,
        target_parameters=experts or None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in backbone.body.modules()),  # GPT-2
    )


def _words(backbone: Backbone) -> list[nn.Parameter]:
    spoken = backbone.model.get_output_embeddings()
    assert spoken is not None, backbone.origin
    return [*backbone.words.parameters(), *spoken.parameters()]
