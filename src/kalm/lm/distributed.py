"""One model trained by all processes of a command: replicated, or sharded by FSDP, through accelerate.

Whether weights are sharded, and how, is said by accelerate's own configuration (`accelerate launch
--config_file`, or the variables `ACCELERATE_USE_FSDP` and `FSDP_*`); without any they are replicated. A
process that works alone passes through here untouched.

Unusual: looking at a sharded model and saving it go through a *twin*, a plain copy in the memory of the
main process that is filled with the gathered weights. Decoding and saving then know nothing of shards, and
the main process decodes as long as it likes while the others wait without a part in it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch

from kalm.errors import KalmError
from kalm.lm.model import GroundedLM, GroundingLosses, autocast
from kalm.lm.packing import PackedBatch
from kalm.runs import processes
from kalm.training.shards import gather, trained

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.utils import FullyShardedDataParallelPlugin


class DistributedTrainer:
    """The processes around one model, and what each of them calls to train its part.

    Attributes:
        model: the model under its own names; its weights are shards where they are sharded.
        runner: what to call for losses, so that gradients are exchanged.
        optimizer: over the weights of `model`.

    Raises:
        KalmError: accelerate is configured for something that is not supported.
    """

    def __init__(
        self, model: GroundedLM, optimizer: torch.optim.Optimizer, precision: str, compiled: bool = False
    ) -> None:
        self.model = model
        self.optimizer: torch.optim.Optimizer = optimizer
        self.runner: Callable[[PackedBatch], GroundingLosses] = model
        self._wrapped: torch.nn.Module = model
        self._accelerator: Accelerator | None = None
        self._twin: GroundedLM | None = None
        self._sharded = False
        self._compiled = compiled
        if compiled:
            compile_layers(model.backbone.body)
        if processes.count() > 1:
            self._join(_sharding(model, precision))

    def _join(self, sharding: FullyShardedDataParallelPlugin | None) -> None:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs

        processes.connect()
        self._sharded = sharding is not None
        if self._sharded and processes.is_main():
            self._twin = copy.deepcopy(self.model).cpu()
        self._accelerator = accelerator = Accelerator(
            cpu=self.model.device.type == "cpu",
            mixed_precision="no",  # `ground.precision` says
            fsdp_plugin=sharding,
            kwargs_handlers=[DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
        kind = accelerator.distributed_type.value
        if kind not in (("FSDP",) if self._sharded else ("MULTI_CPU", "MULTI_GPU")):
            raise KalmError(
                f"accelerate is configured for {kind}{' with FSDP' if self._sharded else ''}; supported are "
                "plain processes on CPUs or GPUs, and FSDP on GPUs."
            )
        self._wrapped, self.optimizer = accelerator.prepare(self.model, self.optimizer)
        self.runner = self._wrapped

    def passing(self, last: bool) -> AbstractContextManager[object]:
        """Return the context of one forward and backward pass; the last one of a step exchanges gradients."""
        if self._accelerator is None or last:
            return nullcontext()
        return self._accelerator.no_sync(self._wrapped)

    @property
    def shown(self) -> GroundedLM:
        """The model in one piece; where weights are sharded it is up to date within `whole` only."""
        return self._twin or self.model

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Let the main process look at `shown` or save it; nothing is compiled for what happens inside.

        Every process has to come here, also where it does nothing inside.
        """
        if self._sharded:
            for name, shard in trained(self.model).items():
                full = gather(shard)
                if self._twin is not None:
                    self._twin.get_parameter(name).data.copy_(full)
        if self._twin is not None:
            self._twin.to(self.model.device)
        # Caches and few rows have other shapes every time.
        with torch.compiler.set_stance("force_eager") if self._compiled else nullcontext():
            yield
        if self._twin is not None:
            self._twin.cpu()
        processes.wait()


def compile_layers(body: torch.nn.Module) -> None:
    """Compile the layers that a transformer repeats, in place: their code is compiled once for all."""
    for stack in body.modules():
        if isinstance(stack, torch.nn.ModuleList) and len({type(layer) for layer in stack}) == 1:
            for layer in stack:
                layer.compile()


def shards_weights() -> bool:
    """Whether accelerate is configured to cut weights into shards."""
    from accelerate.utils import parse_flag_from_env

    return processes.count() > 1 and bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def _sharding(model: GroundedLM, precision: str) -> FullyShardedDataParallelPlugin | None:
    """Return accelerate's FSDP settings as configured from outside, or None; computing precision is ours."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy

    if not shards_weights():
        return None
    halved = not isinstance(autocast(model.device, precision), nullcontext)
    # Gathered for computing in bfloat16, which halves what is sent; summed and kept in float32.
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    plugin = FullyShardedDataParallelPlugin(mixed_precision_policy=policy if halved else None)
    refused = {
        "fsdp_version: 1": plugin.fsdp_version != 2,
        "fsdp_cpu_ram_efficient_loading: true": plugin.cpu_ram_efficient_loading,
        "fsdp_activation_checkpointing: true": plugin.activation_checkpointing,
    }
    if wrong := [setting for setting, found in refused.items() if found]:
        raise KalmError(
            f"accelerate is configured with {', '.join(wrong)}. Use fsdp_version: 2, "
            "fsdp_cpu_ram_efficient_loading: false, and ground.gradient_checkpointing instead of FSDP's."
        )
    if not plugin.transformer_cls_names_to_wrap:
        plugin.transformer_cls_names_to_wrap = list(getattr(model.lm, "_no_split_modules", None) or ())
    return plugin
