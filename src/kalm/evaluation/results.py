"""The results file: CSV, one row per episode, so that every number of a report can be counted again.

Files of earlier versions are read too. They lack the last columns (`Episode` says how these are read), and
call two columns otherwise (`RENAMED`).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import Field, asdict, dataclass, fields
from pathlib import Path

from kalm.data.scoring import FIRSTS, First
from kalm.errors import KalmError
from kalm.runs.folder import DATA_KINDS, DataKind, PolicyJob
from kalm.runs.io import atomic_write

ALWAYS = 12  # columns that every version had
# Columns of earlier versions; `kalm` was 1 for policies that learn from imagined rollouts, and else 0.
RENAMED = {"steps": "length", "step": "checkpoint_step", "kalm": "data"}


@dataclass(frozen=True)
class Label:
    """Which policy an episode belongs to.

    Attributes:
        policy: name in tables, e.g. ``"CQL+KALM"``.
        algorithm: name of the learner, e.g. ``"cql"``.
        data: what it learned from besides real rollouts, see `kalm.runs.folder.DataKind`.
        seed: training seed.
        checkpoint_step: gradient steps of the checkpoint that played; 0 where there are none.
        reading: what read its sentences to plain ones; empty: nothing did.
    """

    policy: str = "policy"
    algorithm: str = ""
    data: DataKind = "plain"
    seed: int = 0
    checkpoint_step: int = 0
    reading: str = ""


def label_of(job: PolicyJob, step: int = 0, reading: str = "") -> Label:
    """Return the label under which a policy's episodes are counted."""
    policy = f"{job.policy} + {reading}" if reading else job.policy
    return Label(policy, job.algorithm, job.data, job.seed, step, reading)


@dataclass(frozen=True)
class Episode:
    """One row; `Label` explains five of its fields and `reading`, `Instruction` six others."""

    policy: str
    algorithm: str
    data: DataKind
    seed: int
    level: str
    wording: str
    held_back: bool
    text: str
    episode_seed: int
    success: bool
    length: int  # actions taken
    reward: float  # sum over the episode
    checkpoint_step: int = 0
    kind: str = ""  # of the goal, see `Goal.label`
    split: str = ""
    reading: str = ""
    first: First = ""  # what came true first, see `kalm.data.scoring.first_true`
    direction: str = ""  # see `kalm.evaluation.imagined.direction_of`
    family: str = ""


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(f"{text!r} is not 0 or 1")
    return text == "1"


def _first(text: str) -> First:
    for name in FIRSTS:
        if text == name:
            return name
    raise ValueError(text)


def _data(text: str) -> DataKind:
    if text in ("0", "1"):  # of a file that says `kalm`
        return DATA_KINDS[int(text)]
    for name in DATA_KINDS:
        if text == name:
            return name
    raise ValueError(text)


_WANTED = {"First": "goal, counterfactual or nothing", "DataKind": f"one of {', '.join(DATA_KINDS)}"}
_READ: dict[str, Callable[[str], str | int | float | bool]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": _flag,
    "First": _first,
    "DataKind": _data,
}


def write_rows(path: Path, rows: Iterable[Episode]) -> None:
    """Write a results file (CSV, UTF-8, one header line; yes and no as 1 and 0), atomically."""
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(field.name for field in fields(Episode))
        for row in rows:
            writer.writerow(
                int(value) if isinstance(value, bool) else value for value in asdict(row).values()
            )


def read_rows(path: Path) -> list[Episode]:
    """Read a results file. Raises KalmError that names the file and the line."""
    names = [field.name for field in fields(Episode)]
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.reader(stream, strict=True)
            header = [RENAMED.get(name, name) for name in next(reader, [])]
            if header != names[: max(len(header), ALWAYS)]:
                raise KalmError(f"{path} line 1: the columns are {header}, expected {names}.")
            columns = fields(Episode)[: len(header)]
            return [_parse(line, columns, f"{path} line {reader.line_num}") for line in reader]
    except FileNotFoundError:
        raise KalmError(f"results: {path} does not exist.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise KalmError(f"results: {path} cannot be read ({error}).") from None


def _parse(line: list[str], columns: Sequence[Field[object]], place: str) -> Episode:
    if len(line) != len(columns):
        raise KalmError(f"{place}: {len(line)} values, expected {len(columns)}.")
    values = {}
    for column, text in zip(columns, line, strict=True):
        try:
            values[column.name] = _READ[str(column.type)](text)
        except ValueError:
            wanted = _WANTED.get(str(column.type), f"a {column.type}")
            raise KalmError(f"{place}: column {column.name!r} holds {text!r}, not {wanted}.") from None
    return Episode(**values)
