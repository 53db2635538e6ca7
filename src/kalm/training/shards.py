"""Tensors that several processes hold in shards (FSDP): in one piece for a file, and back."""

from __future__ import annotations

import torch
from torch import Tensor


def gather(tensor: Tensor) -> Tensor:
    """Return a tensor in one piece, on the CPU; of a shard every process has to ask for it."""
    from torch.distributed.tensor import DTensor

    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()


def scatter(full: Tensor, like: Tensor) -> Tensor:
    """Return this process's part of a tensor, laid out and placed as another: the inverse of `gather`."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return full.to(like.device)
    # Every process holds the same tensor, so nothing has to be sent.
    return distribute_tensor(full.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def trained(module: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the weights that are trained, by name."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
