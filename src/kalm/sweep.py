"""A sweep: every algorithm, plain and with imagined rollouts, with every seed; each trained and played.

One cell is one policy of the grid. A worker takes a cell, trains it and plays it, and its rows stay beside
it; a cell that is done is never done again. So a sweep can be stopped anywhere and started again, and more
algorithms, seeds or levels can be asked for in the same folder later: the table always holds all that is
there. ::

    config.json               settings and inputs: what every cell has in common
    policies/NAME/rows.csv    episodes of one cell, written when it is done
    evaluation/rows.csv       all episodes so far
    sweep.csv, sweep.md       the table
    report/                   report.html, report.md

Unusual: a cell that fails does not stop the others; what failed is told at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from traceback import format_exception
from typing import Any

from kalm import envs, registry
from kalm.config import Config
from kalm.errors import KalmError
from kalm.evaluation.results import Episode, read_rows, write_rows
from kalm.policies import (
    ENCODINGS,
    Inputs,
    instructions,
    jobs,
    play_one,
    prepare,
    require_learners,
    train_one,
)
from kalm.run import processes
from kalm.run.folder import (
    EVALUATION,
    JOB,
    POLICIES,
    REPORT,
    ROWS,
    SETTINGS,
    PolicyJob,
    held,
    only_begun,
    trace,
    trained_policies,
)
from kalm.run.io import atomic_write, fingerprint, read_json, versions, write_json
from kalm.run.output import clear
from kalm.run.progress import track
from kalm.session import device

TABLE_CSV, TABLE_MD = "sweep.csv", "sweep.md"
SECTIONS = (
    "train",
    "evaluate",
    "decision_transformer",
    "dynamics",
    "ground",
)  # settings that cells may depend on
CHOSEN = ("algorithms", "seeds")  # settings of `train` that choose cells, and may grow from call to call


def sweep(
    config: Config,
    inputs: Inputs,
    folder: Path,
    levels: Sequence[str],
    command: str = "",
    overwrite: bool = False,
    reads: Iterable[Path] = (),
) -> list[Episode]:
    """Do the cells that are not done yet, write the table and the report, and return all rows.

    `reads` are files and folders that the settings come from or name, besides the `inputs`.

    Raises:
        KalmError: bad input, before anything starts; a folder with other settings or inputs; failed cells.
    """
    require_learners(config, inputs.model)
    device(config.device)
    with held(folder, [*reads, *inputs.paths()]):
        _claim(config, inputs, folder, command, overwrite)
        cells = jobs(config, inputs.imagined is not None)
        failures = _do_cells(config, cells, inputs, folder, levels)
        rows = _write_table(folder, config.env)
        _report(folder, rows)
    if failures:
        told = " ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise KalmError(f"{len(failures)} of {len(cells)} cells failed, the others are in {folder}. {told}")
    return rows


def _do_cells(
    config: Config, cells: Sequence[PolicyJob], inputs: Inputs, folder: Path, levels: Sequence[str]
) -> dict[str, str]:
    """Do the cells that are not done yet, several at a time; return why some failed."""
    left = [job for job in cells if _missing(folder, job, levels)]
    failures: dict[str, str] = {}
    with track("sweep", len(cells)) as advance:
        advance(len(cells) - len(left), resumed=True)
        if left:
            prepare(config, _untrained(left, folder), inputs, folder / POLICIES)
            work = partial(_attempt, config, inputs=inputs, folder=folder, levels=levels)
            for job, failure in processes.each(work, left, config.workers):
                if failure is not None:
                    failures[job.name] = failure
                _write_table(folder, config.env)
                advance(cell=job.name)
    return failures


def _attempt(
    config: Config, job: PolicyJob, inputs: Inputs, folder: Path, levels: Sequence[str]
) -> str | None:
    """Do a cell; return why it failed, or None."""
    try:
        do_cell(config, job, inputs, folder, levels)
    except Exception as error:  # a fault of one learner must not cost the others hours
        return f"{error}" if isinstance(error, KalmError) else "".join(format_exception(error))
    return None


def do_cell(config: Config, job: PolicyJob, inputs: Inputs, folder: Path, levels: Sequence[str]) -> None:
    """Train one policy unless it is trained, and play the levels that it has not played."""
    from kalm.rl.encoder import GoalEncoder

    place = folder / POLICIES / job.name
    if not (place / JOB).exists():
        train_one(config, job, inputs, folder / POLICIES)
    suite = instructions(envs.make(config.env), None, _missing(folder, job, levels))
    encoder = GoalEncoder(config.train.encoder, device(config.device), folder / POLICIES / ENCODINGS)
    earlier = read_rows(place / ROWS) if (place / ROWS).exists() else []
    write_rows(place / ROWS, [*earlier, *play_one(config, job, place, suite, encoder)])


def _missing(folder: Path, job: PolicyJob, levels: Sequence[str]) -> list[str]:
    """Return the levels that a cell has still to play; a policy of one level plays only that."""
    path = folder / POLICIES / job.name / ROWS
    there = {row.level for row in read_rows(path)} if path.exists() else set()
    return [level for level in levels if level not in there and job.level in (None, level)]


def _untrained(cells: Sequence[PolicyJob], folder: Path) -> list[PolicyJob]:
    return [job for job in cells if not (folder / POLICIES / job.name / JOB).exists()]


def _claim(config: Config, inputs: Inputs, folder: Path, command: str, overwrite: bool) -> None:
    """Make the folder, or enter the one of an earlier call that had all in common but the choice of cells."""
    common = _common(config, inputs)
    about = folder / SETTINGS
    if not only_begun(folder):
        if not about.exists() or "sweep" not in read_json(about, "sweep"):
            raise KalmError(f"{folder} is not empty and holds no sweep. Give another --out.")
        if overwrite:
            clear(folder)
        else:
            _require_same(read_json(about, "sweep")["sweep"], common, folder)
    commands = read_json(about, "sweep")["commands"] if about.exists() else []
    settings = config.model_dump(mode="json")
    facts = {"settings": settings, "command": command, "versions": versions(), "sweep": common}
    write_json(about, {**facts, "commands": list(dict.fromkeys([*commands, command]))})


def _common(config: Config, inputs: Inputs) -> dict[str, Any]:
    """Return what all cells have in common, JSON-ready: a folder holds cells of one such only."""
    settings = config.model_dump(mode="json", exclude={"train": set(CHOSEN)})
    kept = {name: settings[name] for name in ("env", "seed", *SECTIONS)}
    return {**kept, "inputs": {name: fingerprint(trace(path)) for name, path in asdict(inputs).items()}}


def _require_same(there: Mapping[str, Any], asked: Mapping[str, Any], folder: Path) -> None:
    old, new = _flat(there), _flat(asked)
    differing = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    if differing:
        raise KalmError(
            f"{folder} holds a sweep with other {', '.join(differing)}. Only algorithms, levels and seeds "
            "may change between calls. Give another --out, or --overwrite to delete it first."
        )


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names."""
    found: dict[str, Any] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _write_table(folder: Path, world: str) -> list[Episode]:
    """Write all rows and the table of the cells that are done, whichever call asked for them."""
    from kalm.report.grid import grid_table, write_grid
    from kalm.report.scores import scores
    from kalm.report.tables import markdown

    done = [place / ROWS for _, place in trained_policies(folder / POLICIES) if (place / ROWS).exists()]
    order = list(registry.table())
    rows = sorted(
        (row for path in done for row in read_rows(path)), key=lambda row: order.index(row.algorithm)
    )
    if rows:
        found = scores(rows, world)
        write_rows(folder / EVALUATION / ROWS, rows)
        write_grid(folder / TABLE_CSV, found)
        with atomic_write(folder / TABLE_MD) as temporary:
            temporary.write_text(markdown(grid_table(found)), encoding="utf-8")
    return rows


def _report(folder: Path, rows: Sequence[Episode]) -> None:
    from kalm.report.gather import gather
    from kalm.report.page import write_report

    if rows:
        write_report(folder / REPORT, gather(folder))
