"""The data room: collecting real rollouts, writing and reading a large dataset; one line per measurement.

python benchmarks/bench_data.py [--collect 4000] [--workers 2] [--store 100000]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from kalm import envs
from kalm.data import storage
from kalm.data.collect import collect_rollouts
from kalm.data.scoring import score
from kalm.data.settings import CollectConfig
from kalm.data.validation import require_valid

Result = TypeVar("Result")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--collect", type=int, default=4_000, help="rollouts to collect")
    parser.add_argument("--workers", type=int, default=2, help="processes that collect")
    parser.add_argument("--store", type=int, default=100_000, help="rollouts to write and read")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measure(options, Path(name))


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Collect once, then fill a large set with what came and time each step of its way."""
    world = envs.make("clevr")
    config = CollectConfig(rollouts=options.collect)
    collected = timed(
        f"collect, {options.workers} processes",
        options.collect,
        lambda: collect_rollouts(world, config, 0, folder / "collected", options.workers),
    )
    rows = np.arange(options.store) % len(collected)
    many = timed("take", options.store, lambda: collected.take(rows))
    timed("check", options.store, lambda: require_valid(many))
    timed("score", options.store, lambda: score(many, world))
    timed("write", options.store, lambda: storage.write(many, folder / "many", {}))
    timed("read and verify", options.store, lambda: storage.read(folder / "many"))
    size = sum(path.stat().st_size for path in (folder / "many").iterdir())
    print(f"on disk: {size / options.store:.0f} bytes per rollout")


def timed(what: str, count: int, work: Callable[[], Result]) -> Result:
    """Do the work once and print its rate."""
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    print(f"{what}: {seconds:.2f} s for {count:,} rollouts, {count / seconds:,.0f}/s")
    return result


if __name__ == "__main__":
    main()
