"""The command line: parse, call, print. What the commands do is in `kalm.pipeline`."""

from __future__ import annotations

import json
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from kalm.cli import browse
from kalm.cli.options import (
    Algorithms,
    Device,
    Effects,
    Env,
    Goals,
    Imagined,
    Json,
    Levels,
    Model,
    MultiValueCommand,
    Out,
    Overwrite,
    Preset,
    Real,
    Resume,
    Seed,
    Set,
    Workers,
    cells,
    command_line,
    do_alone,
    known_levels,
    reads,
    resolve,
    tell,
)
from kalm.errors import KalmError
from kalm.run import processes
from kalm.run.folder import EVALUATION, REFINED, ROWS, SETTINGS, claim
from kalm.run.io import read_json
from kalm.session import model_folder
from kalm.types import LEVELS

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Turn what a pre-trained language model knows into a robot policy.

    `kalm run --env clevr --preset demo --out runs/demo` does everything: collect, ground, imagine, train,
    evaluate, report. Each stage is also a command of its own.""",
)
app.add_typer(browse.goals_app, name="goals")
app.add_typer(browse.data_app, name="data")


@app.command()
def run(
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
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Do all stages; skip those that are done, continue the one that was stopped.

    Examples:
        kalm run --env clevr --preset demo --out runs/demo

        kalm run --preset mini --out runs/mini --set train.steps=50000 --resume

        kalm run --preset demo --out runs/demo --rounds 2 --resume
    """
    from kalm import online
    from kalm.evaluation.results import read_rows
    from kalm.report import tables

    extra = [*(set_ or []), *([] if rounds is None else [f"online.rounds={rounds}"])]
    config = resolve(env, preset, extra, seed, device, workers)
    settings = config.model_dump(mode="json")
    with claim(out, settings, command_line(), reads(config, preset), resume, overwrite):
        summary = online.run(config, out, command_line())
    tell(summary, as_json, lambda: tables.show(read_rows(out / EVALUATION / ROWS), config.env))
    if not as_json:
        typer.echo(f"\nReport: {out / 'report' / 'report.html'}")


@app.command()
def collect(
    out: Out,
    env: Env = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Collect real rollouts with the world's expert.

    Example: kalm collect --env clevr --out data/real --set collect.rollouts=100000
    """
    from kalm import pipeline

    config = resolve(env, preset, set_, seed, None, workers)
    work = partial(pipeline.collect, config, out, command_line())
    tell(do_alone("collect", out, config, preset, {}, work, overwrite), as_json)


@app.command()
def ground(
    data: Annotated[Path, typer.Option(help="Dataset of real rollouts.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the result.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Language model: minilm, a hub name or a folder.")
    ] = None,
    env: Env = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    overwrite: Overwrite = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print size, memory and steps; load no weights.")
    ] = False,
    count: Annotated[
        int, typer.Option("--processes", min=1, help="With --dry-run: devices that share the work.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Ground a language model in a dataset; the model comes to OUT/model.

    Examples:
        kalm ground --data data/real --out grounded --backbone minilm

        kalm ground --data data/real --backbone meta-llama/Llama-2-7b-chat-hf --dry-run --processes 8
    """
    from kalm import pipeline

    if backbone is not None:
        set_ = [*(set_ or []), f"ground.backbone={json.dumps(backbone)}"]
    config = resolve(env, preset, set_, seed, device, None)
    if dry_run:
        tell(pipeline.budget(config, data, count), as_json)
        return
    if out is None:
        raise KalmError("ground needs a folder for its result: give --out, or --dry-run to see the cost.")
    work = partial(pipeline.ground, config, data, out)
    tell(do_alone("ground", out, config, preset, {"data": data}, work, overwrite, together=True), as_json)


@app.command()
def imagine(
    model: Annotated[Path, typer.Option(help="Grounded model (the folder `model` of `kalm ground`).")],
    out: Out,
    goals: Goals = None,
    level: Levels = None,
    real: Annotated[
        Path | None,
        typer.Option(help="Real rollouts: needed by imagine.relabel, samples and plausibility."),
    ] = None,
    actor: Annotated[
        Path | None,
        typer.Option(help="A second grounded model that chooses the actions; --model gives the states."),
    ] = None,
    env: Env = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Imagine rollouts for the novel levels, or for the goals of a file.

    Examples:
        kalm imagine --model grounded/model --out imagined --level rephrase

        kalm imagine --model grounded/model --out imagined --goals my_goals.jsonl

        kalm imagine --model grounded/model --out imagined --real data/real --set imagine.relabel=true
    """
    from kalm import pipeline
    from kalm.report.tables import refined_table, show_all

    config = resolve(env, preset, set_, seed, device, None)
    inputs = pipeline.imagine_inputs(config, model, goals, known_levels(level), real, actor)
    work = partial(
        pipeline.imagine, config, model, out, goals, known_levels(level), real, actor, command_line()
    )
    figures = do_alone("imagine", out, config, preset, inputs, work, overwrite, together=True)
    table = refined_table(figures)
    tell({name: part for name, part in figures.items() if as_json or name not in REFINED}, as_json)
    if table is not None and not as_json:
        show_all([table])


@app.command()
def inspect(
    model: Annotated[
        Path | None, typer.Argument(help="Grounded model, or the folder of the run that made it.")
    ] = None,
    goals: Goals = None,
    level: Levels = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Real rollouts that the model has not learnt from; fresh ones by default."),
    ] = None,
    rollouts: Annotated[int | None, typer.Option(help="Imagined rollouts per level.")] = None,
    effects: Effects = None,
    out: Annotated[Path | None, typer.Option(help="Folder for figures, rollouts and texts.")] = None,
    env: Env = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measure what a grounded model can do: imagine, explain, predict. Settings: `inspect.*`, `imagine.*`.

    Examples:
        kalm inspect runs/demo --rollouts 200

        kalm inspect grounded/model --level easy --set imagine.temperature=0.5 --out inspected

        kalm inspect --effects results/clevr-effects.csv
    """
    from kalm import pipeline
    from kalm.evaluation.effects import read_effects, to_json
    from kalm.evaluation.grounding import Inspection
    from kalm.report.grounding import effects_table, inspection_tables
    from kalm.report.tables import show_all

    if model is None and effects is None:
        raise KalmError("nothing to inspect. Give a grounded model or a run folder, or --effects FILE.")
    extra = [*(set_ or []), *([f"inspect.rollouts={rollouts}"] if rollouts is not None else [])]
    config = resolve(env, preset, extra, seed, device, workers)
    figures, tables = {}, []
    if model is not None:
        work = partial(
            pipeline.inspect, config, model, out, goals, known_levels(level) or LEVELS, data, command_line()
        )
        inputs = pipeline.inspect_inputs(config, model, goals, known_levels(level), data)
        figures = work() if out is None else do_alone("inspect", out, config, preset, inputs, work, overwrite)
        tables += inspection_tables(Inspection.from_json(figures))
    if effects is not None:
        lines = read_effects(effects)
        figures["effects"] = to_json(lines)
        tables.append(effects_table(lines))
    tell(figures, as_json, lambda: show_all(tables))


@app.command(cls=MultiValueCommand)
def train(
    real: Real,
    out: Out,
    imagined: Imagined = None,
    algo: Algorithms = None,
    model: Model = None,
    per_level: Annotated[bool, typer.Option("--per-level", help="One policy per novel level.")] = False,
    env: Env = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train policies by offline RL, plain and (given --imagined) with imagined rollouts.

    Examples:
        kalm train --real data/real --imagined imagined --algo cql --out policies

        kalm train --real data/real --model grounded --algo bc dt --out policies
    """
    from kalm import policies

    extra = [*(set_ or []), *cells(algo, None)]
    if per_level:
        extra.append("train.per_level=true")
    config = resolve(env, preset, extra, seed, device, workers)
    inputs = policies.Inputs(real, imagined, model and model_folder(model))
    policies.require_learners(config, inputs.model)
    settings = {"settings": policies.made_from(config), **({"model": inputs.model} if model else {})}
    made_from = {"real": real, "imagined": imagined, **settings}
    work = partial(policies.train, config, inputs, out)
    tell(do_alone("train", out, config, preset, made_from, work, overwrite), as_json)


@app.command(cls=MultiValueCommand)
def sweep(
    real: Real,
    out: Out,
    imagined: Imagined = None,
    algos: Algorithms = None,
    levels: Annotated[list[str] | None, typer.Option("--levels", help="Levels to play.")] = None,
    seeds: Annotated[list[int] | None, typer.Option("--seeds", help="Training seeds.")] = None,
    model: Model = None,
    env: Env = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Train and play every algorithm, plain and with imagined rollouts, for every seed; make one table.

    It can be stopped and started again, and asked for more algorithms, levels or seeds in the same folder.

    Example:
        kalm sweep --algos bc cql td3bc --levels seen rephrase --seeds 0 1 2 --real data/real
        --imagined imagined --out sweep
    """
    from kalm.policies import Inputs
    from kalm.report.grid import grid_table
    from kalm.report.scores import scores, to_json
    from kalm.report.tables import show_all
    from kalm.sweep import sweep

    config = resolve(env, preset, [*(set_ or []), *cells(algos, seeds)], seed, device, workers)
    inputs = Inputs(real, imagined, model and model_folder(model))
    chosen = known_levels(levels) or LEVELS
    found = scores(sweep(config, inputs, out, chosen, command_line(), overwrite), config.env)
    tell(to_json(found), as_json, lambda: show_all([grid_table(found)]))
    if not as_json:
        typer.echo(f"\nReport: {out / 'report' / 'report.html'}")


@app.command()
def evaluate(
    policy: Annotated[Path, typer.Option(help="A policy folder, or a folder of them.")],
    out: Out,
    goals: Goals = None,
    level: Levels = None,
    env: Env = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    workers: Workers = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Play policies in the simulator; one row per episode comes to OUT/rows.csv.

    Examples:
        kalm evaluate --policy runs/demo/policies --out evaluation

        kalm evaluate --policy runs/demo/policies/bc+kalm-seed0 --out mine --goals my_goals.jsonl
    """
    from kalm import pipeline, policies
    from kalm.evaluation.results import read_rows
    from kalm.report import tables

    config = resolve(env, preset, set_, seed, device, workers)
    inputs = {"policies": policy, "goals": goals, "levels": known_levels(level)}
    work = partial(policies.evaluate, config, policy, out, goals, known_levels(level) or LEVELS)
    do_alone("evaluate", out, config, preset, inputs, work, overwrite)
    summary = pipeline.results(out, config.env)
    tell(summary, as_json, lambda: tables.show(read_rows(out / ROWS), config.env))


@app.command()
def report(
    run: Annotated[Path, typer.Option(help="Run folder of `kalm run`.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the report; RUN/report by default.")] = None,
    effects: Effects = None,
    as_json: Json = False,
) -> None:
    """Write report.html and report.md from what a run left on disk.

    Example: kalm report --run runs/demo --effects results/clevr-effects.csv
    """
    from kalm import pipeline
    from kalm.evaluation.results import read_rows
    from kalm.report import tables

    place = out or run / "report"
    summary = pipeline.report(run, place, effects)
    world = read_json(run / SETTINGS, "run")["settings"]["env"]
    tell(summary, as_json, lambda: tables.show(read_rows(run / EVALUATION / ROWS), world))
    if not as_json:
        typer.echo(f"\nReport: {place / 'report.html'}")


def main() -> None:
    """Run the command line; errors of use end with one clear line and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    # The model library's loading reports and bars say nothing new; set these yourself to see them.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not processes.main():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - open for as long as the process lives
    try:
        app()
    except KalmError as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.secho("Stopped. The same command continues where this one ended.", err=True)
        sys.exit(130)
    finally:
        processes.leave()
