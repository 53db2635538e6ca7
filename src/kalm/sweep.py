"""A sweep: every algorithm, plain and with imagined rollouts, with every seed; each trained and played.

One cell is one policy of the grid. A worker takes a cell, trains it and plays it, and its rows stay beside
it; a cell that is done is never done again. So a sweep can be stopped anywhere and started again, and more
algorithms, seeds or levels can be asked for in the same folder later: the table always holds all that is
there. ::

    config.json               settings and inputs: what every cell has in common
    policies/NAME/rows-tune.csv    episodes of one cell, written when it is done; of the final call: rows-test
    evaluation/rows.csv            all episodes so far of the split that was asked for last
    sweep.csv, sweep.md            the table of those
    report/                        report.html, report.md

Unusual: settings are chosen by sweeps, so cells play the split `tune`; the split `test` is played by a call
that says it is final, with the same policies. A cell that fails does not stop the others; what failed is told
at the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from traceback import format_exception
from typing import TYPE_CHECKING

from kalm import envs, registry
from kalm.errors import KalmError
from kalm.evaluation.results import Episode, read_rows, write_rows
from kalm.runs import processes
from kalm.runs.folder import (
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
from kalm.runs.io import atomic_write, fingerprint, read_json, versions, write_json
from kalm.runs.output import clear
from kalm.runs.progress import announce, track
from kalm.stages.base import named_inputs
from kalm.stages.evaluate import instructions, play_policy
from kalm.stages.report import ReportInputs, write_run_report
from kalm.stages.train import (
    TRAIN,
    TrainInputs,
    policy_jobs,
    prepare_data,
    require_controls,
    require_learners,
    train_policy,
)
from kalm.types import JsonObject

if TYPE_CHECKING:
    from kalm.config import Config
    from kalm.session import Session

TABLE_CSV, TABLE_MD = "sweep.csv", "sweep.md"
SECTIONS = (
    "train",
    "evaluate",
    "decision_transformer",
    "dynamics",
    "ground",
)  # settings that cells may depend on
# Settings of `train` that choose cells, and may grow from call to call.
CHOSEN = ("algorithms", "seeds", "controls")
CONTROL = "shuffled"  # input that may come later: the cells before do not depend on it


def run_sweep(
    session: Session,
    inputs: TrainInputs,
    folder: Path,
    levels: Sequence[str],
    overwrite: bool = False,
    final: bool = False,
) -> list[Episode]:
    """Do the cells that are not done yet, write the table and the report, and return all rows of the split.

    Args:
        session: settings and environment; `evaluate.split` is `tune` unless all is chosen.
        inputs: what the cells learn from.
        folder: of the sweep.
        levels: which are played.
        overwrite: delete first what the folder holds.
        final: all is chosen: play the split `test`, or all.

    Raises:
        KalmError: bad input, such as a split that does not fit `final`, before anything starts; a folder with
            other settings or inputs; failed cells.
    """
    session = session.changed(_of_split(session.config, final))
    announce(f"sweep: into {folder}")
    inputs = TRAIN.located(inputs)
    require_learners(session, inputs.model)
    require_controls(session, inputs)
    session.require_device()
    reads = [value for value in named_inputs(inputs).values() if isinstance(value, Path)]
    with held(folder, [*session.reads(), *reads]):
        _claim(session, inputs, folder, overwrite)
        cells = policy_jobs(session.config, inputs.imagined is not None)
        failures = _do_cells(session, cells, inputs, folder, levels)
        rows = _write_table(folder, session.config)
        if rows:
            write_run_report(session, ReportInputs(folder), folder / REPORT)
    if failures:
        told = " ".join(f"{name}: {reason}" for name, reason in failures.items())
        raise KalmError(f"{len(failures)} of {len(cells)} cells failed, the others are in {folder}. {told}")
    return rows


def _of_split(config: Config, final: bool) -> Config:
    """Return the settings with the split that is played: `tune`, or what is reported, in a final call."""
    asked = config.evaluate.split
    if not final and asked in ("test", "all"):
        raise KalmError(
            "kalm sweep plays `tune`, the third of the wordings on which settings are chosen; "
            f"evaluate.split={asked} holds those that figures are reported of. Leave it out, or give --final "
            "once all is chosen."
        )
    if final and asked == "tune":
        raise KalmError(
            "--final plays what is reported, and evaluate.split=tune is not. Leave out one of them."
        )
    return config.changed(evaluate={"split": asked or ("test" if final else "tune")})


def _do_cells(
    session: Session, cells: Sequence[PolicyJob], inputs: TrainInputs, folder: Path, levels: Sequence[str]
) -> dict[str, str]:
    """Do the cells that are not done yet, several at a time; return why some failed."""
    split = session.config.evaluate.played
    left = [job for job in cells if _missing(folder, job, levels, split)]
    failures: dict[str, str] = {}
    with track("sweep", len(cells)) as advance:
        advance(len(cells) - len(left), resumed=True)
        if left:
            prepare_data(session, _untrained(left, folder), inputs, folder / POLICIES)
            work = partial(_attempt, session, inputs=inputs, folder=folder, levels=levels)
            for job, failure in processes.each(work, left, session.config.workers):
                if failure is not None:
                    failures[job.name] = failure
                _write_table(folder, session.config)
                advance(cell=job.name)
    return failures


def _attempt(
    session: Session, job: PolicyJob, inputs: TrainInputs, folder: Path, levels: Sequence[str]
) -> str | None:
    """Do a cell; return why it failed, or None."""
    try:
        _do_cell(session, job, inputs, folder, levels)
    except Exception as error:  # a fault of one learner must not cost the others hours
        return f"{error}" if isinstance(error, KalmError) else "".join(format_exception(error))
    return None


def _do_cell(
    session: Session, job: PolicyJob, inputs: TrainInputs, folder: Path, levels: Sequence[str]
) -> None:
    """Train one policy unless it is trained, and play the levels that it has not played."""
    place = folder / POLICIES / job.name
    if not (place / JOB).exists():
        train_policy(session, job, inputs, folder / POLICIES)
    split = session.config.evaluate.played
    suite = instructions(session.world, None, _missing(folder, job, levels, split), split)
    encoder = session.encoder(folder / POLICIES)
    path = _rows_of(place, split)
    earlier = read_rows(path) if path.exists() else []
    write_rows(path, [*earlier, *play_policy(session, job, place, suite, encoder)])


def _rows_of(place: Path, split: str) -> Path:
    """Return the file of the episodes that a cell played of a split."""
    return place / f"rows-{split}.csv"


def _missing(folder: Path, job: PolicyJob, levels: Sequence[str], split: str) -> list[str]:
    """Return the levels that a cell has still to play; a policy of one level plays only that."""
    path = _rows_of(folder / POLICIES / job.name, split)
    there = {row.level for row in read_rows(path)} if path.exists() else set()
    return [level for level in levels if level not in there and job.level in (None, level)]


def _untrained(cells: Sequence[PolicyJob], folder: Path) -> list[PolicyJob]:
    return [job for job in cells if not (folder / POLICIES / job.name / JOB).exists()]


def _claim(session: Session, inputs: TrainInputs, folder: Path, overwrite: bool) -> None:
    """Make the folder, or enter the one of an earlier call that had all in common but the choice of cells."""
    common = _common(session, inputs)
    about = folder / SETTINGS
    if not only_begun(folder):
        if not about.exists() or "sweep" not in read_json(about, "sweep"):
            raise KalmError(f"{folder} is not empty and holds no sweep. Give another --out.")
        if overwrite:
            clear(folder)
        else:
            before = read_json(about, "sweep")["sweep"]
            _require_same(before, common, folder)
            common["inputs"] = {**before["inputs"], **common["inputs"]}
    commands = read_json(about, "sweep")["commands"] if about.exists() else []
    settings, command = session.config.model_dump(mode="json"), session.command
    facts = {"settings": settings, "command": command, "versions": versions(), "sweep": common}
    write_json(about, {**facts, "commands": list(dict.fromkeys([*commands, command]))})


def _common(session: Session, inputs: TrainInputs) -> JsonObject:
    """Return what all cells have in common, JSON-ready: a folder holds cells of one such only."""
    settings = session.config.model_dump(mode="json", exclude={"train": set(CHOSEN), "evaluate": {"split"}})
    kept = {name: settings[name] for name in ("env", "seed", *SECTIONS)}
    given = {name: value for name, value in named_inputs(inputs).items() if (name, value) != (CONTROL, None)}
    traces = {name: fingerprint(trace(value)) for name, value in given.items()}
    return {**kept, "inputs": traces}


def _require_same(there: Mapping[str, object], asked: Mapping[str, object], folder: Path) -> None:
    old, new = _flat(there), _flat(asked)
    names = old.keys() | new.keys()
    if not {f"inputs.{CONTROL}"} <= old.keys() & new.keys():
        names -= {f"inputs.{CONTROL}"}
    differing = sorted(name for name in names if old.get(name) != new.get(name))
    if differing:
        raise KalmError(
            f"{folder} holds a sweep with other {', '.join(differing)}. Only algorithms, levels, seeds, "
            "controls and --final may change between calls. Give another --out, or --overwrite to delete it "
            "first."
        )


def _flat(data: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Return nested settings under dotted names."""
    found: dict[str, object] = {}
    for name, value in data.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _write_table(folder: Path, config: Config) -> list[Episode]:
    """Write all rows of the split and the table of the cells that are done, whichever call asked for them."""
    from kalm.report.grid import grid_table, write_grid
    from kalm.report.scores import scores
    from kalm.report.tables import markdown

    places = [place for _, place in trained_policies(folder / POLICIES)]
    done = [path for place in places if (path := _rows_of(place, config.evaluate.played)).exists()]
    order = list(registry.table())
    rows = sorted(
        (row for path in done for row in read_rows(path)), key=lambda row: order.index(row.algorithm)
    )
    if rows:
        found = scores(rows, envs.published(config.env))
        write_rows(folder / EVALUATION / ROWS, rows)
        write_grid(folder / TABLE_CSV, found)
        with atomic_write(folder / TABLE_MD) as temporary:
            temporary.write_text(markdown(grid_table(found)), encoding="utf-8")
    return rows
