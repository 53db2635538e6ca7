"""Commands of a whole run: ``kalm run``, ``kalm sweep``, ``kalm report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kalm.cli.options import (
    Algorithms,
    Device,
    Effects,
    Env,
    Imagined,
    Json,
    Model,
    MultiValueCommand,
    Out,
    Overwrite,
    Preset,
    Real,
    Resume,
    Seed,
    Set,
    Shuffled,
    Split,
    Workers,
    cells,
    known_levels,
    open_session,
    split_settings,
    tell,
)
from kalm.runs.folder import EVALUATION, REPORT, ROWS, SETTINGS, STAGES
from kalm.runs.io import read_json
from kalm.runs.output import require_apart, require_possible
from kalm.types import LEVELS

COMMANDS = typer.Typer()


@COMMANDS.command("run")
def run_command(
    out: Out,
    env: Env = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    workers: Workers = None,
    rounds: Annotated[
        int | None, typer.Option(min=0, help="Rounds of the online loop after the first training.")
    ] = None,
    split: Split = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Do all stages; skip those that are done, continue the one that was stopped.

    For example:

        kalm run --env clevr --preset demo --out runs/demo

        kalm run --preset mini --out runs/mini --set train.steps=50000 --resume

        kalm run --preset demo --out runs/demo --rounds 2 --resume
    """
    from kalm import envs
    from kalm.evaluation.results import read_rows
    from kalm.pipeline import run_pipeline
    from kalm.report import tables

    extra = [
        *(set_ or []),
        *split_settings(split, "evaluate", "inspect"),
        *([] if rounds is None else [f"online.rounds={rounds}"]),
    ]
    session = open_session(env, preset, extra, seed, device, workers)
    summary = run_pipeline(session, out, resume, overwrite)
    rows, published = out / EVALUATION / ROWS, envs.published(session.config.env)
    tell(summary, as_json, lambda: tables.show(read_rows(rows), published))
    if not as_json:
        typer.echo(f"\nReport: {out / 'report' / 'report.html'}")


@COMMANDS.command("sweep", cls=MultiValueCommand)
def sweep_command(
    real: Real,
    out: Out,
    imagined: Imagined = None,
    algos: Algorithms = None,
    levels: Annotated[list[str] | None, typer.Option("--levels", help="Levels to play.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seeds", min=0, help="Training seeds.")] = None,
    model: Model = None,
    shuffled: Shuffled = None,
    env: Env = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    workers: Workers = None,
    final: Annotated[
        bool,
        typer.Option(
            "--final", help="All is chosen: play the split test, which is what figures are reported of."
        ),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train and play every algorithm, plain and with imagined rollouts, for every seed; make one table.

    It can be stopped and started again, and asked for more algorithms, levels or seeds in the same folder. It
    plays the split `tune`, on which settings are chosen; with --final the same policies play `test`.

    For example:

        kalm sweep --algos bc cql --levels seen rephrase --seeds 0 1 --real real --imagined im --out sw

        kalm sweep --algos bc cql --seeds 0 1 2 --real real --imagined im --out sw --final
    """
    from kalm import envs
    from kalm.report.grid import grid_table
    from kalm.report.scores import scores, scores_to_json
    from kalm.report.tables import show_all
    from kalm.stages.train import TrainInputs
    from kalm.sweep import run_sweep

    session = open_session(env, preset, [*(set_ or []), *cells(algos, seeds)], seed, device, workers)
    inputs = TrainInputs(real, imagined, model, shuffled=shuffled)
    rows = run_sweep(session, inputs, out, known_levels(levels) or LEVELS, overwrite, final)
    found = scores(rows, envs.published(session.config.env))
    tell(scores_to_json(found), as_json, lambda: show_all([grid_table(found)]))
    if not as_json:
        typer.echo(f"\nReport: {out / 'report' / 'report.html'}")


@COMMANDS.command("report")
def report_command(
    run: Annotated[Path, typer.Option(help="Run folder of `kalm run`.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report; RUN/report by default.")] = None,
    effects: Effects = None,
    as_json: Json = False,
) -> None:
    """Write report.html and report.md from what a run left on disk.

    For example:

        kalm report --run runs/demo --effects results/clevr-effects.csv
    """
    from kalm import envs
    from kalm.evaluation.results import read_rows
    from kalm.report import tables
    from kalm.stages.report import report_run

    place = out or run / REPORT
    require_apart(
        place, [*(run / name for name in STAGES.values() if name != REPORT), *([effects] if effects else [])]
    )
    require_possible(place)
    summary = report_run(run, place, effects)
    world = read_json(run / SETTINGS, "run")["settings"]["env"]
    tell(summary, as_json, lambda: tables.show(read_rows(run / EVALUATION / ROWS), envs.published(world)))
    if not as_json:
        typer.echo(f"\nReport: {place / 'report.html'}")
