"""torch's random numbers while something is trained: a stream of its own, and its state for checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

CPU, CUDA = "rng/cpu", "rng/cuda"


@contextmanager
def own_random_stream(device: str | torch.device, seed: int) -> Iterator[None]:
    """Seed torch for the block; its random stream is the caller's again afterwards."""
    device = torch.device(device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def random_state(device: str | torch.device) -> dict[str, Tensor]:
    """Return the state of torch's generators that a training on this device draws from."""
    device = torch.device(device)
    states = {CPU: torch.get_rng_state()}
    if device.type == "cuda":
        states[CUDA] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: Mapping[str, Tensor], device: str | torch.device) -> None:
    """Put torch's generators where `random_state` found them."""
    torch.set_rng_state(states[CPU].cpu())
    if CUDA in states and torch.device(device).type == "cuda":
        torch.cuda.set_rng_state(states[CUDA].cpu(), torch.device(device))
