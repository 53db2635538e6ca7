"""The command line: parse, call, print. What the commands do is in `kalm.pipeline`."""

from __future__ import annotations

import json
import logging
import os
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from kalm import config as settings
from kalm import envs, processes, stages
from kalm.errors import KalmError
from kalm.runs import EVALUATION, REFINED, ROWS
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
goals_app = typer.Typer(no_args_is_help=True, help="Show the instructions of a level, or check a goal file.")
data_app = typer.Typer(no_args_is_help=True, help="Look into a dataset of rollouts.")
app.add_typer(goals_app, name="goals")
app.add_typer(data_app, name="data")

Env = Annotated[str | None, typer.Option("--env", help="World; `clevr` by default.")]
Preset = Annotated[
    str | None, typer.Option(help="Settings to start from: demo, mini, paper, paper-faithful.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting: section.field=value. Repeat for more.")
]
Seed = Annotated[int | None, typer.Option(help="Root of all random numbers.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or auto.")]
Workers = Annotated[int | None, typer.Option(help="Processes or threads for simulation and training.")]
Out = Annotated[Path, typer.Option(help="Folder for the result.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete what --out holds and start anew.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue a folder even if the settings changed.")]
Json = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]
Goals = Annotated[Path | None, typer.Option("--goals", help="Goal file (JSON lines) instead of the suites.")]
Levels = Annotated[list[str] | None, typer.Option("--level", help="Only this level. Repeat for more.")]
Effects = Annotated[
    Path | None, typer.Option("--effects", help="Table of effects: CSV of variant,seed,measure,value,count.")
]


@app.command()
def run(
    out: Out,
    env: Env = None,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    workers: Workers = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Do all stages; skip those that are done, continue the one that was stopped.

    Examples:
        kalm run --env clevr --preset demo --out runs/demo

        kalm run --preset mini --out runs/mini --set train.steps=50000 --resume
    """
    from kalm import pipeline
    from kalm.evaluation.results import read_rows
    from kalm.report import tables

    config = _load(env, preset, set_, seed, device, workers)
    stages.claim(out, config, _command(), resume, overwrite)
    summary = pipeline.run(config, out, _command())
    _print(summary, as_json, lambda: tables.show(read_rows(out / EVALUATION / ROWS)))
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

    config = _load(env, preset, set_, seed, None, workers)
    work = partial(pipeline.collect, config, out, _command())
    _print(stages.alone(out, "collect", config, {}, overwrite, work), as_json)


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
    config = _load(env, preset, set_, seed, device, None)
    if dry_run:
        _print(pipeline.budget(config, data, count), as_json)
        return
    if out is None:
        raise KalmError("ground needs a folder for its result: give --out, or --dry-run to see the cost.")
    work = partial(pipeline.ground, config, data, out)
    _print(stages.alone(out, "ground", config, {"data": data}, overwrite, work), as_json)


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

    config = _load(env, preset, set_, seed, device, None)
    inputs = pipeline.imagine_inputs(config, model, goals, _levels(level), real, actor)
    work = partial(pipeline.imagine, config, model, out, goals, _levels(level), real, actor, _command())
    figures = stages.alone(out, "imagine", config, inputs, overwrite, work)
    table = refined_table(figures)
    _print({name: part for name, part in figures.items() if as_json or name not in REFINED}, as_json)
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
    config = _load(env, preset, extra, seed, device, workers)
    figures, tables = {}, []
    if model is not None:
        work = partial(
            pipeline.inspect, config, model, out, goals, _levels(level) or LEVELS, data, _command()
        )
        inputs = pipeline.inspect_inputs(config, model, goals, _levels(level), data)
        figures = work() if out is None else stages.alone(out, "inspect", config, inputs, overwrite, work)
        tables += inspection_tables(Inspection.from_json(figures))
    if effects is not None:
        lines = read_effects(effects)
        figures["effects"] = to_json(lines)
        tables.append(effects_table(lines))
    _print(figures, as_json, lambda: show_all(tables))


@app.command()
def train(
    real: Annotated[Path, typer.Option(help="Dataset of real rollouts.")],
    out: Out,
    imagined: Annotated[Path | None, typer.Option(help="Dataset of imagined rollouts; none: plain.")] = None,
    algo: Annotated[list[str] | None, typer.Option(help="Algorithm: bc, cql. Repeat for more.")] = None,
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

    Example: kalm train --real data/real --imagined imagined --algo cql --out policies
    """
    from kalm import pipeline

    extra = [*(set_ or [])]
    if algo:
        extra.append(f"train.algorithms={json.dumps(algo)}")
    if per_level:
        extra.append("train.per_level=true")
    config = _load(env, preset, extra, seed, device, workers)
    work = partial(pipeline.train, config, real, imagined, out)
    _print(stages.alone(out, "train", config, {"real": real, "imagined": imagined}, overwrite, work), as_json)


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
    from kalm import pipeline
    from kalm.evaluation.results import read_rows
    from kalm.report import tables

    config = _load(env, preset, set_, seed, device, workers)
    inputs = {"policies": policy, "goals": goals, "levels": _levels(level)}
    work = partial(pipeline.evaluate, config, policy, out, goals, _levels(level) or LEVELS)
    stages.alone(out, "evaluate", config, inputs, overwrite, work)
    summary = pipeline.results(out)
    _print(summary, as_json, lambda: tables.show(read_rows(out / ROWS)))


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
    _print(summary, as_json, lambda: tables.show(read_rows(run / EVALUATION / ROWS)))
    if not as_json:
        typer.echo(f"\nReport: {place / 'report.html'}")


@goals_app.command("show")
def goals_show(
    env: Annotated[str, typer.Option("--env", help="World.")] = "clevr",
    level: Annotated[str, typer.Option(help="seen, rephrase, easy or hard.")] = "rephrase",
    limit: Annotated[int, typer.Option(help="Show this many; 0: all.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Write them as a goal file.")] = None,
    as_json: Json = False,
) -> None:
    """Show or write the instructions of a level.

    Example: kalm goals show --level hard --limit 0 --out hard.jsonl
    """
    from kalm.goals.suites import write_goals

    suite = envs.make(env).suite(level)
    shown = suite if limit == 0 else suite[:limit]
    if out is not None:
        write_goals(out, shown)
        typer.echo(f"{len(shown)} of {len(suite)} instructions written to {out}")
        return
    for instruction in shown:
        typer.echo(json.dumps(instruction.to_json()) if as_json else instruction.text)


@goals_app.command("check")
def goals_check(
    file: Annotated[Path, typer.Argument(help="Goal file (JSON lines).")],
    env: Annotated[str, typer.Option("--env", help="World.")] = "clevr",
    as_json: Json = False,
) -> None:
    """Check a goal file and count its goals.

    Example: kalm goals check my_goals.jsonl
    """
    from kalm.goals.suites import read_goals

    instructions = read_goals(file, envs.make(env).parse_goal)
    counts = {level: sum(i.level == level for i in instructions) for level in LEVELS}
    _print({"goals": len(instructions), **counts}, as_json)


@data_app.command("info")
def data_info(folder: Annotated[Path, typer.Argument(help="Dataset folder.")], as_json: Json = False) -> None:
    """Print what a dataset holds and where it comes from; checks every file of it.

    Example: kalm data info runs/demo/real
    """
    from kalm.data import store

    _print(store.describe(folder), as_json)


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


def _load(
    env: str | None,
    preset: str | None,
    set_: list[str] | None,
    seed: int | None,
    device: str | None,
    workers: int | None,
) -> settings.Config:
    config = settings.load(preset, set_ or [], env=env, seed=seed, device=device, workers=workers)
    envs.require(config.env)
    return config


def _levels(levels: list[str] | None) -> tuple[str, ...] | None:
    from kalm.errors import unknown

    for level in levels or []:
        if level not in LEVELS:
            raise unknown("level", level, LEVELS)
    return tuple(levels) if levels else None


def _command() -> str:
    return shlex.join(["kalm", *sys.argv[1:]])


def _print(figures: dict[str, Any], as_json: bool, show: Any = None) -> None:
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    elif show is not None:
        show()
    else:
        for name, value in figures.items():
            typer.echo(f"{name}: {json.dumps(value, indent=2) if isinstance(value, dict) else value}")
