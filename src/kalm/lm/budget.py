"""What a grounding costs before it starts: size, memory per device, tokens and steps.

Nothing heavy is loaded. The backbone is built from its `config.json` on the device that has no memory, so the
figures of a 7B model need neither its weights nor a machine that could hold them. What a forward pass keeps
for the backward pass is not a formula per architecture: the body is run on that device for one batch, and the
sizes of what autograd saves are added up.

Left out: what the runtime itself takes (about 1 GB on a GPU), fragmentation, and attention matrices, which
fused kernels never keep. Expect a tenth more than estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from typing import cast

import torch
from torch.overrides import TorchFunctionMode

from kalm.data.rollouts import RolloutSet
from kalm.envs.base import World
from kalm.lm import lora, packing
from kalm.lm.backbone import Backbone
from kalm.lm.dataset import GroundingDataset
from kalm.lm.loading import plan_backbone
from kalm.lm.model import GroundedLM, autocast
from kalm.lm.settings import GroundConfig
from kalm.lm.sft import assemble, divide
from kalm.types import JsonObject

GB = 1e9


@dataclass(frozen=True)
class Memory:
    """Memory of one device, in bytes."""

    weights: float
    gradients: float
    moments: float  # AdamW's two averages
    copies: float  # weights rounded to bfloat16 for computing
    activations: float  # what one pass keeps for its backward pass

    @classmethod
    def of(cls, model: GroundedLM, halved: bool, activations: float) -> Memory:
        """Memory of a whole model that computes in bfloat16 (`halved`) or float32."""
        weights = list(model.parameters())
        learning = _size(p for p in weights if p.requires_grad)
        copies = _size(p for p in weights if p.dtype == torch.float32) / 2 if halved else 0.0
        return cls(_size(weights), learning, 2 * learning, copies, activations)

    def sharded(self, processes: int) -> Memory:
        """Memory where every weight, and what belongs to it, is cut into as many parts."""
        parts = {name: value / processes for name, value in asdict(self).items()}
        return Memory(**{**parts, "activations": self.activations})

    def readable(self) -> dict[str, float]:
        """Return all numbers and their sum in GB, JSON-ready."""
        values = asdict(self)
        values["total"] = sum(values.values())
        return {name: float(f"{value / GB:.4g}") for name, value in values.items()}


def estimate(
    config: GroundConfig, rollouts: RolloutSet, world: World, seed: int, device: str, processes: int
) -> JsonObject:
    """Return what grounding in these rollouts would cost, JSON-ready.

    Args:
        config: settings.
        rollouts: real rollouts.
        world: where they come from.
        seed: root of the order of examples.
        device: decides whether `ground.precision: auto` is bfloat16.
        processes: devices that share each batch.

    Raises:
        KalmError: the backbone cannot be grounded, or the data does not fit it.
    """
    plan, tried = plan_backbone(config.backbone, config.attention, config.weights)
    # Checkpointing is worked out below; the plan itself does without.
    plain = config.changed(gradient_checkpointing=False)
    model = assemble(lora.tuned(plan, plain), world.spec, config)
    data, held_out = divide(rollouts, config, seed)
    for part in (data, held_out):
        model.prompt_builder().require_room(part)
    curriculum = GroundingDataset(data, model.prompt_builder(), config, seed)
    halved = not isinstance(autocast(torch.device(device), config.precision), nullcontext)
    total = sum(p.numel() for p in model.parameters())
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    memory = Memory.of(model, halved, 0.0)
    reach = lora.reach(plan)._asdict() if config.tuning == "lora" else None
    kept = activations(model, curriculum, config, halved, processes)  # last: rounds the plan's weights
    memory = replace(memory, activations=kept)
    return {
        "backbone": config.backbone,
        "model_type": model.backbone.origin.model_type,
        "tried_out": tried,
        "tuning": config.tuning,
        "precision": "bfloat16" if halved else "float32",
        "parameters": total,
        "trainable": trainable,
        "trainable_share": round(trainable / total, 5),
        "lora_reach": reach,
        "examples_per_epoch": dict(curriculum.examples()),
        "tokens_per_epoch": curriculum.tokens(),
        "steps": curriculum.steps,
        "processes": processes,
        "gb_per_device": memory.readable(),
        "gb_per_device_sharded": memory.sharded(processes).readable(),
    }


def activations(
    model: GroundedLM, curriculum: GroundingDataset, config: GroundConfig, halved: bool, processes: int
) -> float:
    """Return the bytes that the pass over a device's part of the first batch keeps.

    With gradient checkpointing a layer keeps its input, and one layer at a time keeps everything.
    """
    rows = curriculum.groups(0, 0, processes * config.accumulate)
    batch = packing.batch(rows, curriculum.rollouts, model.backbone.two_way_prompt)
    dtype = torch.bfloat16 if halved else torch.float32
    count, length = batch.position.shape
    kept = _saved(model.backbone, count, length, dtype)
    layers = model.lm.config.num_hidden_layers
    if config.gradient_checkpointing:
        kept = kept / layers + layers * batch.position.numel() * model.backbone.width * dtype.itemsize
    # The softmax over the vocabulary: logits, the same in float32, and their gradient.
    return kept + len(batch.want_text) * model.lm.config.vocab_size * (dtype.itemsize + 8)


def _saved(backbone: Backbone, rows: int, length: int, dtype: torch.dtype) -> float:
    """Add up what autograd saves when the planned body runs over (rows, length) tokens."""
    merged = _without_expert_adapters(backbone.body)
    if dtype == torch.float32 and any(p.dim() == 3 for p in backbone.body.parameters()):
        # Without memory, experts compute in bfloat16 only; every number saved is then half as wide.
        return 2 * _saved(backbone, rows, length, torch.bfloat16) + merged * dtype.itemsize
    body = cast("torch.nn.Module", backbone.model).to(dtype).train()
    found: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        attention = tensor.dim() > 2 and tensor.shape[-2:] == (length, length)
        if tensor.is_floating_point() and not attention:
            found[tensor.untyped_storage()._cdata] = tensor  # kept, so that no address comes twice
        return tensor

    with (
        torch.device("meta"),
        CountingExperts(),
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
    ):
        embedded = torch.zeros(rows, length, backbone.width, dtype=dtype, requires_grad=True)
        visible = torch.ones(rows, 1, length, length, dtype=torch.bool)
        hidden = backbone.run(embedded, visible, torch.zeros(rows, length, dtype=torch.int64))
    own = {p.untyped_storage()._cdata for p in body.parameters()}
    sizes = {at: tensor.untyped_storage().nbytes() for at, tensor in found.items() if at not in own}
    return float(sum(sizes.values()) + hidden.nbytes) + merged * dtype.itemsize


class CountingExperts(TorchFunctionMode):
    """Lets experts run without memory: how many tokens each of them gets is made up there."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: Iterable[type],
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Return what a function of torch returns, but for the count of tokens."""
        if func is torch.histc:
            bins = (kwargs or {})["bins"]
            assert isinstance(bins, int), bins
            return torch.empty(bins, device="meta")
        return func(*args, **(kwargs or {}))


def _without_expert_adapters(body: torch.nn.Module) -> int:
    """Take peft's wrappers off all experts; return the count of numbers that they merge and keep."""
    from peft.tuners.lora.layer import ParamWrapper

    merged = 0
    for parent in list(body.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ParamWrapper) and not isinstance(parent, ParamWrapper):
                wrappers = [module for module in child.modules() if isinstance(module, ParamWrapper)]
                merged += sum(wrapper.get_param().numel() for wrapper in wrappers)
                setattr(parent, name, child.get_base_layer())
    return merged


def _size(tensors: Iterable[torch.Tensor]) -> float:
    return float(sum(tensor.nbytes for tensor in tensors))
