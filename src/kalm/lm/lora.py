"""What of a language model learns: all of it, low-rank adapters (LoRA), or nothing. Decided here alone.

| | body | words (token embedding, text head's weights) | not in the checkpoint |
|---|---|---|---|
| `full` | learns | with `train_embeddings` | learns, as new as the state head |
| `lora` | adapters learn | with `train_embeddings` | learns |
| `frozen` | stays | stays | learns |

The last column is for encoders without a text head of their own, such as MiniLM: what was never trained must
be. Adapters are injected into the model in place, so nothing else has to know of them.

A grounded model is saved with its base weights only where they differ from what the backbone's name gives
(`Origin.stored`): always for `full`; for `lora` and `frozen` only when words or new parts learnt, or when the
body was random. Llama-2-7b with adapters is 0.2 GB on disk that way, not 13. Adapters are never merged into
the base: merging rounds, and a loaded model would not be the trained one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from kalm.errors import KalmError
from kalm.lm.backbone import Backbone, Origin
from kalm.lm.loading import load_backbone
from kalm.lm.settings import GroundConfig

ADAPTER = "adapter"  # folder of LoRA weights inside a saved backbone
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."  # in front of every name in peft's own layout


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


def inject(backbone: Backbone, config: Any) -> None:
    """Put LoRA layers into the body in place. They learn in float32, however the body is stored."""
    from peft import inject_adapter_in_model

    learning = {n for n, p in backbone.model.named_parameters() if p.requires_grad}
    inject_adapter_in_model(config, backbone.model)
    for name, parameter in backbone.model.named_parameters():
        if is_adapter(name):
            parameter.data = parameter.data.float()
        else:  # peft freezes everything else
            parameter.requires_grad_(name.replace(".base_layer.", ".") in learning)


def is_adapter(name: str) -> bool:
    """Whether this is the name of a weight that LoRA added."""
    return ".lora_" in name


def save(backbone: Backbone, folder: Path) -> None:
    """Write settings, tokenizer, weights unless the name gives them, and adapters (in peft's layout)."""
    state = {
        name.replace(".base_layer.", "."): tensor
        for name, tensor in backbone.model.state_dict().items()
        if not is_adapter(name)
    }
    if backbone.origin.stored:
        backbone.model.save_pretrained(folder, state_dict=state)
    else:
        backbone.model.config.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    if backbone.origin.tuning == "lora":
        _save_adapter(backbone, folder / ADAPTER)


def load(folder: Path, origin: Origin, two_way_prompt: bool) -> Backbone:
    """Load what `save` wrote.

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


def _save_adapter(backbone: Backbone, folder: Path) -> None:
    from peft import get_peft_model_state_dict

    config = backbone.model.peft_config["default"]
    config.base_model_name_or_path = backbone.origin.name
    config.save_pretrained(str(folder))
    tensors = get_peft_model_state_dict(backbone.model, save_embedding_layers=False)
    save_file(
        {PEFT_PREFIX + name: tensor.contiguous() for name, tensor in tensors.items()},
        folder / ADAPTER_WEIGHTS,
    )


def _load_adapter(backbone: Backbone, folder: Path) -> None:
    from peft import LoraConfig, set_peft_model_state_dict

    try:
        inject(backbone, LoraConfig.from_pretrained(str(folder)))
        tensors = load_file(folder / ADAPTER_WEIGHTS)
    except Exception as error:
        raise KalmError(f"{folder} is damaged: {str(error).splitlines()[0]}") from None
    set_peft_model_state_dict(backbone.model, {k.removeprefix(PEFT_PREFIX): v for k, v in tensors.items()})
    held = {n.replace(".default.", ".") for n, _ in backbone.model.named_parameters() if is_adapter(n)}
    if held != {name.removeprefix(PEFT_PREFIX) for name in tensors}:
        raise KalmError(f"{folder} holds adapters of another backbone.")


def _lora(backbone: Backbone, config: GroundConfig) -> Any:
    """Return peft's settings: every linear layer of the body, none of the text head."""
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    body = {id(module) for module in backbone.body.modules()}
    outside = [name for name, module in backbone.model.named_modules() if name and id(module) not in body]
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        lora_dropout=config.lora.dropout,
        target_modules="all-linear",
        exclude_modules=outside or None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in backbone.body.modules()),  # GPT-2
    )


def _words(backbone: Backbone) -> list[nn.Parameter]:
    model = backbone.model
    return [*model.get_input_embeddings().parameters(), *model.get_output_embeddings().parameters()]
