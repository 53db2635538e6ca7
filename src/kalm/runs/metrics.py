"""Numbers over time: JSON lines on disk, mirrored to TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from kalm.runs.io import atomic_write


class Metrics:
    """Numbers over time, one JSON line each (``metrics.jsonl``), mirrored to TensorBoard.

    Opening with `step` drops what a stopped run wrote after that step, so that a resumed curve
    has no double part.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.path: Path = folder / "metrics.jsonl"
        kept = [row for row in read_metrics(folder) if row["step"] <= step]
        with atomic_write(self.path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self.stream: TextIO = self.path.open("a")
        self.board: SummaryWriter = SummaryWriter(
            str(folder / "tensorboard"), purge_step=step + 1 if step else None
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one row; it is on disk when this returns."""
        self.stream.write(json.dumps({"step": step, **{k: float(v) for k, v in values.items()}}) + "\n")
        self.stream.flush()
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close both files."""
        self.stream.close()
        self.board.close()


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """Return the rows of ``metrics.jsonl``; a last line cut off by a kill is left out."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
