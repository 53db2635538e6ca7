"""Commands of the policies: ``kalm train``, ``kalm evaluate``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from kalm.cli.options import (
    Algorithms,
    Device,
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
    Seed,
    Set,
    Workers,
    cells,
    do_alone,
    known_levels,
    resolve,
    tell,
)
from kalm.run.folder import ROWS
from kalm.types import LEVELS

COMMANDS = typer.Typer()


@COMMANDS.command("train", cls=MultiValueCommand)
def train_command(
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

    For example:

        kalm train --real data/real --imagined imagined --algo cql --out policies

        kalm train --real data/real --model grounded --algo bc dt --out policies
    """
    from kalm import policies
    from kalm.session import model_folder

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


@COMMANDS.command("evaluate")
def evaluate_command(
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

    For example:

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
