"""Progress of long work: a bar on a terminal, a line now and then elsewhere. Both go to standard error.

Unusual: `advance` takes items that a stopped run had finished (`resumed=True`) without counting them in the
rate, so that the time left after a resume is true from the first item on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from kalm.runs import processes

LINE_SHARE = 0.1  # a plain line after this share of the work ...
LINE_SECONDS = (2.0, 30.0)  # ... but never sooner than the first and never later than the second


class Advance(Protocol):
    """Report that n more items are done; fields such as ``loss=0.3`` are shown beside the count."""

    def __call__(self, n: int = 1, *, resumed: bool = False, **fields: object) -> None:
        """Count n items; `resumed` ones were done before this process began."""
        ...


def silent(n: int = 1, *, resumed: bool = False, **fields: object) -> None:
    """Report nothing: what work that nobody watches is given as `advance`."""


@contextmanager
def track(description: str, total: int) -> Iterator[Advance]:
    """Yield the `advance` of work with `total` items; shows count, rate in items/s, time left and fields.

    Of several processes only the main one shows.
    """
    if not processes.is_main():
        yield silent
        return
    meter = _Meter(description, total)
    with _bar(meter) if sys.stderr.isatty() else _lines(meter) as advance:
        yield advance


def announce(text: str) -> None:
    """Say what starts, before libraries load; of several processes only the main one does."""
    if processes.is_main():
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class _Meter:
    """Counts items and knows the rate."""

    def __init__(self, description: str, total: int) -> None:
        self.description = description
        self.total = total
        self.done = 0
        self.resumed = 0
        self.fields: dict[str, object] = {}
        self.started = time.monotonic()

    def count(self, n: int, resumed: bool, fields: dict[str, object]) -> None:
        self.done += n
        self.resumed += n if resumed else 0
        self.fields.update(fields)

    def status(self) -> str:
        """Return e.g. ``52.1/s, 1:40 left, loss 0.31``."""
        elapsed = max(time.monotonic() - self.started, 1e-9)
        rate = (self.done - self.resumed) / elapsed
        parts = [f"{rate:,.1f}/s" if rate >= 0.1 or not rate else f"{60 * rate:,.1f}/min"]
        if rate > 0 and self.done < self.total:
            parts.append(f"{_clock((self.total - self.done) / rate)} left")
        elif self.done >= self.total:
            parts.append(f"took {_clock(elapsed)}")
        return ", ".join(parts + [f"{name} {_short(value)}" for name, value in self.fields.items()])


@contextmanager
def _lines(meter: _Meter) -> Iterator[Advance]:
    shown, shown_at = -1, meter.started

    def show() -> None:
        nonlocal shown, shown_at
        shown, shown_at = meter.done, time.monotonic()
        sys.stderr.write(f"{meter.description}: {meter.done:,}/{meter.total:,} ({meter.status()})\n")
        sys.stderr.flush()

    def advance(n: int = 1, *, resumed: bool = False, **fields: object) -> None:
        meter.count(n, resumed, fields)
        waited = time.monotonic() - shown_at
        enough = meter.done - max(shown, 0) >= LINE_SHARE * meter.total and waited >= LINE_SECONDS[0]
        if enough or waited >= LINE_SECONDS[1]:
            show()

    yield advance
    if shown != meter.done:
        show()


@contextmanager
def _bar(meter: _Meter) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(meter.description, total=meter.total, status="")

        def advance(n: int = 1, *, resumed: bool = False, **fields: object) -> None:
            meter.count(n, resumed, fields)
            progress.update(task, completed=meter.done, status=meter.status())

        yield advance


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
