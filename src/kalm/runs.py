"""The run folder: resolved settings, seeds, versions, metrics, stage markers.

Everything is written atomically: a file is first written beside its place under a temporary name and then
renamed, so that a kill leaves either the old file or the new one. A stage is done when its marker exists and
holds the fingerprint of what the stage was made from.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from kalm.errors import KalmError

# Names inside a run folder.
SETTINGS = "config.json"
REAL, GROUNDED, IMAGINED, POLICIES = "real", "grounded", "imagined", "policies"
INSPECTION, EVALUATION, REPORT = "inspection", "evaluation", "report"
ROUNDS, COLLECTED = "rounds", "collected"  # rounds/1/collected/, ... of the online loop
RAW, DYNAMICS = "raw", "dynamics"  # inside IMAGINED, where rollouts are refined
REFINED = ("raw", "chosen", "kept")  # steps of refining whose quality is told
ROWS = "rows.csv"
LOOKS = "looks.csv"  # rows of the episodes played while a policy was trained
INSPECTED = "inspect.json"
STAGES = {
    "collect": REAL,
    "ground": GROUNDED,
    "inspect": INSPECTION,
    "imagine": IMAGINED,
    "train": POLICIES,
    "evaluate": EVALUATION,
    "report": REPORT,
}
JOB = "job.json"

PACKAGES = ("kalm", "torch", "transformers", "d3rlpy", "mujoco", "gymnasium", "numpy", "pyarrow")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is renamed to `path`, else removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, else it is removed.

    A folder cannot be renamed onto a full one, so the old folder steps aside for a moment. A kill in that
    moment leaves it aside; whoever reads a folder that is replaced in this way calls `recover_folder` first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.new."))
    try:
        yield temporary
        temporary.chmod(0o755)
        if path.exists():
            os.replace(path, _aside(path))
        os.replace(temporary, path)
    finally:
        recover_folder(path)


def recover_folder(path: Path) -> None:
    """Undo what a kill left of an `atomic_folder`: the old folder comes back unless the new one is there."""
    for unfinished in path.parent.glob(f".{glob.escape(path.name)}.new.*"):
        shutil.rmtree(unfinished)
    old = _aside(path)
    if old.exists() and path.exists():
        shutil.rmtree(old)
    elif old.exists():
        os.replace(old, path)


def _aside(path: Path) -> Path:
    return path.parent / f".{path.name}.old"


def write_json(path: Path, data: Any) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, what: str) -> Any:
    """Read JSON. Raises KalmError that names `what` when the file is missing or broken."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise KalmError(f"{what}: {path} does not exist.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise KalmError(f"{what}: {path} cannot be read as JSON ({error}).") from None


def derive_seed(*parts: int | str) -> int:
    """Return a 63-bit seed from (run seed, stage, index, ...): the one way seeds are made."""
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def derive_rng(*parts: int | str) -> np.random.Generator:
    """Return a generator seeded by `derive_seed`."""
    return np.random.default_rng(derive_seed(*parts))


def fingerprint(data: Any) -> str:
    """Return a short hash of JSON-ready data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    found = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


class Stage:
    """One stage's folder with its marker, ``done.json``: the fingerprint of everything it was made from."""

    def __init__(self, folder: Path, made_from: Mapping[str, Any]) -> None:
        self.folder = folder
        self.made_from = dict(made_from)
        self.key = fingerprint(self.made_from)

    @property
    def marker(self) -> Path:
        """Path of the marker."""
        return self.folder / "done.json"

    @property
    def started(self) -> Path:
        """Path of the file that says what a running or stopped stage is being made from."""
        return self.folder / "started.json"

    def done(self) -> bool:
        """Whether the stage finished from exactly these inputs."""
        return self.marker.exists() and read_json(self.marker, "stage marker").get("key") == self.key

    def begun(self) -> bool:
        """Whether the folder is the work of a stage made from exactly these inputs, finished or not."""
        return self.started.exists() and read_json(self.started, "stage").get("key") == self.key

    def begin(self) -> None:
        """Prepare the folder: keep what an interrupted twin left, clear what other settings made."""
        if self.folder.exists() and not self.begun():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.started, {"key": self.key, "made_from": self.made_from})

    def finish(self, result: Mapping[str, Any], seconds: float) -> None:
        """Write the marker: from now on the stage is skipped."""
        write_json(
            self.marker,
            {
                "key": self.key,
                "made_from": self.made_from,
                "seconds": round(seconds, 1),
                "result": dict(result),
            },
        )


@dataclass(frozen=True)
class Job:
    """One policy to train."""

    algorithm: str
    kalm: bool
    seed: int
    level: str | None  # the imagined level it learns from; None: all

    @property
    def policy(self) -> str:
        """Name in tables."""
        return self.algorithm.upper() + ("+KALM" if self.kalm else "")

    @property
    def name(self) -> str:
        """Name of its folder."""
        level = f"-{self.level}" if self.level else ""
        return f"{self.policy.lower()}{level}-seed{self.seed}"


def trained(policies: Path) -> list[tuple[Job, Path]]:
    """Return the finished policies of a folder (or the one that it is), seed by seed."""
    places = [policies] if (policies / JOB).exists() else [path.parent for path in policies.glob(f"*/{JOB}")]
    found = [(Job(**read_json(place / JOB, "policy")), place) for place in places]
    return sorted(
        found, key=lambda pair: (pair[0].seed, pair[0].algorithm, pair[0].kalm, pair[0].level or "")
    )


class Metrics:
    """Numbers over time, one JSON line each (``metrics.jsonl``), mirrored to TensorBoard.

    Opening with `step` drops what a stopped run wrote after that step, so that a resumed curve
    has no double part.
    """

    def __init__(self, folder: Path, step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "metrics.jsonl"
        kept = [row for row in read_metrics(folder) if row["step"] <= step]
        with atomic_write(self.path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        self.stream = self.path.open("a")
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

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
