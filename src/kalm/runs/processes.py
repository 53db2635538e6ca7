"""The processes of one command: how many there are, which one this is, and how they wait for each other.

A launcher (`torchrun --nproc-per-node 8 -m kalm ...`, `accelerate launch -m kalm ...`) starts the same
command several times and says so in the environment. Grounding and imagining are then done together;
everything else, and everything that is written or shown, is done by the main process while the others wait.

Unusual: processes wait, count and sum numbers through the CPU (gloo), also where GPUs compute. A sum of three
counts then never stops a GPU, and a process may wait for hours while the main one collects.

Apart from these, a process may hand work to processes of its own (`each`), which never outlive it.

Unusual: threads that wait for each other sleep (`share_cores`) instead of spinning. Where two commands share
two cores, spinning threads hold the cores that the others wait for: each is then four times slower, asleep it
is not. The number of threads is that of the cores that this process may use, however busy they are, because
sums, and so results in their last digits, depend on it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from datetime import timedelta
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import TypeVar

from kalm.errors import KalmError

# As long as the longest work that one process does alone; a process that dies is noticed by the launcher.
PATIENCE = timedelta(days=7)
GROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
CHOSEN = "KALM_OMP_NUM_THREADS"  # the number of threads, where `share_cores` chose it and nobody else

T = TypeVar("T")
R = TypeVar("R")


def count() -> int:
    """Return the number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def index() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("RANK", 0))


def local_index() -> int:
    """Return the number of this process on its machine: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK", 0))


def is_main() -> bool:
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


def cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its group's quota."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        allowed = os.cpu_count() or 1
    return max(1, min(allowed, _quota(GROUP_QUOTA) or allowed))


def _quota(file: Path) -> int | None:
    """Return the cores that a control group gets, rounded down; None: no limit, or no such groups here."""
    try:
        granted, period = file.read_text().split()
        return None if granted == "max" else max(1, int(granted) // int(period))
    except (OSError, ValueError):
        return None


def share_cores() -> None:
    """Set how the threads of numerical libraries wait and how many there are, before any is loaded.

    What the environment says already stays (``OMP_WAIT_POLICY``, ``OMP_NUM_THREADS``).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = os.environ[CHOSEN] = str(cores())


def each(work: Callable[[T], R], tasks: Sequence[T], count: int) -> Iterator[tuple[T, R]]:
    """Do tasks in `count` processes; yield each with its result once it is done.

    With one process or one task that is this one, which need not load its libraries twice.

    The processes end with the caller's loop, at once where that is left early or a task raises.

    Raises:
        KalmError: a process died.
    """
    if min(count, len(tasks)) <= 1:
        yield from ((task, work(task)) for task in tasks)
        return
    others = set(active_children())
    # Spawned, not forked: the simulator and the numerical libraries of this process may hold threads.
    pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_begin_work, initargs=(count,))
    try:
        running = {pool.submit(work, task): task for task in tasks}
        for future in as_completed(running):
            yield running[future], future.result()
    except BaseException as error:
        for child in set(active_children()) - others:
            child.terminate()
        if isinstance(error, BrokenProcessPool):
            raise KalmError(
                "a worker process died, perhaps for want of memory. The same command goes on where this one "
                "ended; with --workers 1 no process is started. A script has to start its work under: "
                "if __name__ == '__main__'."
            ) from None
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin_work(count: int) -> None:
    """Workers share the cores, leave the keyboard to their parent, and do not outlive it."""
    # Read when torch is first imported, which a worker has not done yet.
    if os.environ.get("OMP_NUM_THREADS") == os.environ.get(CHOSEN):  # not by the user
        os.environ["OMP_NUM_THREADS"] = str(max(1, cores() // count))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
