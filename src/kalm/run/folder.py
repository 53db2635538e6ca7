"""The run folder: names of its parts, stage markers, policies in it.

A stage is done when its marker exists and holds the fingerprint of what the stage was made from.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kalm.run.io import fingerprint, read_json, write_json

# Names inside a run folder.
SETTINGS = "config.json"
REAL, GROUNDED, IMAGINED, POLICIES = "real", "grounded", "imagined", "policies"
INSPECTION, EVALUATION, REPORT = "inspection", "evaluation", "report"
ROUNDS, COLLECTED = "rounds", "collected"  # rounds/1/collected/, ... of the online loop
RAW, DYNAMICS = "raw", "dynamics"  # inside IMAGINED, where rollouts are refined
REFINED = ("raw", "chosen", "kept")  # steps of refining whose quality is told
ROWS = "rows.csv"
EVALUATIONS = "looks.csv"  # rows of the episodes played while a policy was trained
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
class PolicyJob:
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


def trained_policies(policies: Path) -> list[tuple[PolicyJob, Path]]:
    """Return the finished policies of a folder (or the one that it is), seed by seed."""
    places = [policies] if (policies / JOB).exists() else [path.parent for path in policies.glob(f"*/{JOB}")]
    found = [(PolicyJob(**read_json(place / JOB, "policy")), place) for place in places]
    return sorted(
        found, key=lambda pair: (pair[0].seed, pair[0].algorithm, pair[0].kalm, pair[0].level or "")
    )
