"""The processes of one command: how many there are, which one this is, and how they wait for each other.

A launcher (`torchrun --nproc-per-node 8 -m kalm ...`, `accelerate launch -m kalm ...`) starts the same
command several times and says so in the environment. Grounding and imagining are then done together;
everything else, and everything that is written or shown, is done by the main process while the others wait.

Unusual: processes wait, count and sum numbers through the CPU (gloo), also where GPUs compute. A sum of three
counts then never stops a GPU, and a process may wait for hours while the main one collects.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta

# As long as the longest work that one process does alone; a process that dies is noticed by the launcher.
PATIENCE = timedelta(days=7)


def count() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def index() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def local_index() -> int:
    """Return the number of this process on its machine: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def main() -> bool:
    """Whether this process writes and shows."""
    return index() == 0


def wait() -> None:
    """Return when every process has come here."""
    total([0])


def total(numbers: Sequence[float]) -> list[float]:
    """Return the sums of these numbers over all processes."""
    if count() == 1:
        return list(numbers)
    import torch

    connect()
    sums = torch.tensor(numbers, dtype=torch.float64)
    torch.distributed.all_reduce(sums)
    return sums.tolist()


def connect() -> None:
    """Join the other processes, once."""
    import torch

    if not torch.distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, timeout=PATIENCE)


def leave() -> None:
    """Part from the other processes at the end of a command."""
    if count() > 1:
        import torch

        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
