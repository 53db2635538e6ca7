"""Stages as folders: names of their parts, which work is done, which goes on, which starts anew.

Every stage leaves a marker (``done.json``) that says what it was made from: settings of its own section and
the marker of the stages before. A stage whose marker still fits is skipped, one that was stopped goes on, all
others start anew. The same holds for a stage that is run by itself, and its inputs.

Started as several processes (`kalm.runs.processes`), the main one decides and marks; the others wait for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from kalm.errors import KalmError, unknown
from kalm.pretrained.shipped import by_name
from kalm.runs import processes
from kalm.runs.io import file_sha256, fingerprint, read_json, versions, write_json
from kalm.runs.output import clear, free, output_folder
from kalm.runs.progress import announce
from kalm.types import JsonObject

# What a policy learns from besides real rollouts: nothing; imagined rollouts; or those of a control, imagined
# with sentences permuted among goals (what the filter alone gives), or all first tries, unfiltered.
DataKind = Literal["plain", "kalm", "shuffled", "unfiltered"]
DATA_KINDS: tuple[DataKind, ...] = get_args(DataKind)

# Names inside a run folder.
SETTINGS = "config.json"
REAL, GROUNDED, IMAGINED, POLICIES = "real", "grounded", "imagined", "policies"
MODEL = "model"  # inside GROUNDED
INSPECTION, EVALUATION, REPORT = "inspection", "evaluation", "report"
ROUNDS, COLLECTED = "rounds", "collected"  # rounds/1/collected/, ... of the online loop
SHUFFLED = "shuffled"  # imagined with sentences permuted among goals
RAW, DYNAMICS = "raw", "dynamics"  # inside IMAGINED, where rollouts are refined
REFINED = ("raw", "chosen", "kept")  # steps of refining whose quality is told
ROWS = "rows.csv"
EVALUATIONS = "eval.csv"  # rows of the episodes played while a policy was trained
INSPECTED = "inspect.json"
STAGES = {
    "collect": REAL,
    "ground": GROUNDED,
    "inspect": INSPECTION,
    "imagine": IMAGINED,
    "imagine, shuffled": SHUFFLED,
    "train": POLICIES,
    "evaluate": EVALUATION,
    "report": REPORT,
}
JOB = "job.json"
STARTED = "started.json"
# Files that tell one input folder from another.
CONTENTS = ("dataset.json", "grounded.json", "modules.safetensors", JOB, "done.json")


class Stage:
    """One stage's folder with its marker, ``done.json``: the fingerprint of everything it was made from."""

    def __init__(self, folder: Path, made_from: Mapping[str, object]) -> None:
        self.folder = folder
        self.made_from: dict[str, object] = dict(made_from)
        self.key: str = fingerprint(self.made_from)

    @property
    def marker(self) -> Path:
        """Path of the marker."""
        return self.folder / "done.json"

    @property
    def started(self) -> Path:
        """Path of the file that says what a running or stopped stage is being made from."""
        return self.folder / STARTED

    def done(self) -> bool:
        """Whether the stage finished from exactly these inputs."""
        return self.marker.exists() and read_json(self.marker, "stage marker").get("key") == self.key

    def begun(self) -> bool:
        """Whether the folder is the work of a stage made from exactly these inputs, finished or not."""
        return self.started.exists() and read_json(self.started, "stage").get("key") == self.key

    def begin(self) -> None:
        """Prepare the folder: keep what an interrupted twin left, clear what other settings made."""
        if self.folder.exists() and not self.begun():
            if not free(self.folder):
                announce(f"{self.folder}: made from something else, is made anew")
            clear(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.started, {"key": self.key, "made_from": self.made_from})

    def finish(self, result: Mapping[str, object], seconds: float) -> None:
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
    data: DataKind
    seed: int
    level: str | None  # the imagined level it learns from; None: all

    @property
    def policy(self) -> str:
        """Name in tables."""
        more = {"plain": "", "kalm": "+KALM"}.get(self.data, f"+{self.data}")
        return self.algorithm.upper() + more

    @property
    def name(self) -> str:
        """Name of its folder."""
        level = f"-{self.level}" if self.level else ""
        return f"{self.policy.lower()}{level}-seed{self.seed}"

    @classmethod
    def from_json(cls, facts: JsonObject) -> PolicyJob:
        """Inverse of `asdict`; up to kalm 0.2 a job said `kalm`, true or false, in the place of `data`."""
        data = facts["data"] if "data" in facts else DATA_KINDS[facts["kalm"]]
        if data not in DATA_KINDS:
            raise unknown("data of a policy", data, DATA_KINDS)
        return cls(facts["algorithm"], data, facts["seed"], facts["level"])


def trained_policies(policies: Path) -> list[tuple[PolicyJob, Path]]:
    """Return the finished policies of a folder (or the one that it is), seed by seed."""
    places = [policies] if (policies / JOB).exists() else [path.parent for path in policies.glob(f"*/{JOB}")]
    found = [(PolicyJob.from_json(read_json(place / JOB, "policy")), place) for place in places]
    return sorted(found, key=lambda pair: _order(pair[0]))


def _order(job: PolicyJob) -> tuple[int, str, int, str]:
    return job.seed, job.algorithm, DATA_KINDS.index(job.data), job.level or ""


def inside(place: Path, part: str) -> Path:
    """Return a part of a run folder, such as `REAL`, or the folder itself where it is no run with that part.

    The grounded model (`MODEL`) may also be given by the folder of the stage that made it; what comes with
    the package by its name.
    """
    place = by_name(place)
    if part == MODEL:
        inner = (place / GROUNDED / MODEL, place / MODEL)
        return next((path for path in inner if (path / "grounded.json").exists()), place)
    return place / part if (place / SETTINGS).exists() and (place / part).is_dir() else place


@contextmanager
def claim(
    folder: Path,
    settings: Mapping[str, object],
    command: str,
    reads: Iterable[Path] = (),
    resume: bool = False,
    overwrite: bool = False,
) -> Iterator[None]:
    """Make a run folder, or enter the one that an earlier call of the same run left; hold it while in it.

    Args:
        folder: of the run.
        settings: all of them, JSON-ready.
        command: noted beside them.
        reads: folders and files that the run reads: none may lie in `folder`, nor `folder` in them.
        resume: go on with these settings whatever those of the earlier call were.
        overwrite: delete what the folder holds first.

    Raises:
        KalmError: the folder holds another run (unless `resume` or `overwrite`), or no run at all.
    """
    with held(folder, reads):
        if processes.is_main():
            _claim(folder, settings, command, resume, overwrite)
        processes.wait()
        yield


def held(folder: Path, reads: Iterable[Path] = ()) -> AbstractContextManager[None]:
    """Hold an output folder (`kalm.runs.output`); of several processes the main one does."""
    return output_folder(folder, reads) if processes.is_main() else nullcontext()


def _claim(folder: Path, settings: Mapping[str, object], command: str, resume: bool, overwrite: bool) -> None:
    if not only_begun(folder):
        if not (folder / SETTINGS).exists() or "sweep" in read_json(folder / SETTINGS, "run"):
            raise KalmError(f"{folder} is not empty and holds no run. Give another --out.")
        if overwrite:
            clear(folder)
        elif not resume and read_json(folder / SETTINGS, "run")["settings"] != settings:
            raise KalmError(
                f"{folder} holds a run with other settings. Give another --out, or --resume to continue it "
                "with these settings (stages that they change start anew), or --overwrite to delete it first."
            )
    write_json(folder / SETTINGS, {"settings": settings, "command": command, "versions": versions()})


def alone(
    folder: Path,
    section: str,
    settings: Mapping[str, object],
    inputs: Mapping[str, object],
    work: Callable[[], Mapping[str, object]],
    reads: Iterable[Path] = (),
    overwrite: bool = False,
    together: bool = False,
) -> JsonObject:
    """Do one stage outside a run; what a stopped call with the same inputs left is continued.

    Args:
        folder: for the result.
        section: name of the stage.
        settings: that the result depends on, JSON-ready.
        inputs: what else the result depends on: folders, files, choices.
        work: does it and returns figures.
        reads: what else is read, such as a backbone's folder: nothing that is read may lie in `folder`, nor
            `folder` in it.
        overwrite: delete what the folder holds first.
        together: all processes have to do the work.

    Raises:
        KalmError: the folder holds something else.
    """
    made_from = {**settings, **{name: trace(value) for name, value in inputs.items()}}
    place = Stage(folder, made_from)
    with held(folder, [*reads, *(value for value in inputs.values() if isinstance(value, Path))]):
        if processes.is_main():
            _enter(place, section, overwrite)
        stage(folder, made_from, work, together)
    return read_json(place.marker, "stage marker")["result"]


def _enter(stage: Stage, section: str, overwrite: bool) -> None:
    """Refuse a folder that holds something else, or empty it."""
    folder = stage.folder
    if not only_begun(folder):
        if not stage.started.exists():
            raise KalmError(f"{folder} is not empty and was not made by kalm {section}. Give another --out.")
        if overwrite:
            clear(folder)
        elif not stage.begun():
            raise KalmError(
                f"{folder} holds the result of other settings or inputs. Give another --out, or --overwrite "
                "to delete it first."
            )


def only_begun(folder: Path) -> bool:
    """Whether a folder holds at most the marks of work that was begun, such as one that failed at once."""
    about = folder / SETTINGS
    if not free(folder, (STARTED, SETTINGS)):
        return False
    return not about.exists() or "command" in read_json(about, "run")  # else it is another program's


def trace(value: object) -> object:
    """Return what stands for an input: place and content of files and folders, else the value itself."""
    if not isinstance(value, Path):
        return value
    contents = [value] if value.is_file() else [value / name for name in CONTENTS]
    return [str(value.resolve()), *(file_sha256(path) for path in contents if path.is_file())]


def stage(
    folder: Path,
    made_from: Mapping[str, object],
    work: Callable[[], Mapping[str, object]],
    together: bool = False,
) -> str:
    """Do a stage unless its marker says that it is done; return its key.

    Only the main process decides and marks; `together` says that all processes have to do the work.
    """
    place = Stage(folder, made_from)
    todo = not place.done()
    processes.wait()  # nobody begins, let alone finishes, before all have looked
    if todo and processes.is_main():
        place.begin()
    processes.wait()
    if todo and (together or processes.is_main()):
        began = time.monotonic()
        result = work()
        if processes.is_main():
            place.finish(result, time.monotonic() - began)
    processes.wait()
    return place.key
