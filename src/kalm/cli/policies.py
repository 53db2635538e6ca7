"""Commands of the policies: ``kalm train``, ``kalm evaluate``."""

from __future__ import annotations

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
    Shuffled,
    Split,
    Workers,
    cells,
    known_levels,
    open_session,
    split_settings,
    tell,
)
from kalm.runs.folder import ROWS
from kalm.types import LEVELS

COMMANDS = typer.Typer()


@COMMANDS.command("train", cls=MultiValueCommand)
def train_command(
    real: Real,
    out: Out,
    imagined: Imagined = None,
    algo: Algorithms = None,
    model: Model = None,
    shuffled: Shuffled = None,
    per_level: Annotated[bool, typer.Option("--per-level", help="One policy per novel level.")] = False,
    kalm_only: Annotated[
        bool, typer.Option("--kalm-only", help="No plain policies: those with imagined rollouts alone.")
    ] = False,
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

        kalm train --real real --imagined im --shuffled sh --set train.controls=[shuffled] --out policies
    """
    from kalm.stages.train import TRAIN, TrainInputs, require_controls, require_learners

    extra = [*(set_ or []), *cells(algo, None)]
    if per_level:
        extra.append("train.per_level=true")
    if kalm_only:
        extra.append("train.plain=false")
    session = open_session(env, preset, extra, seed, device, workers)
    inputs = TRAIN.located(TrainInputs(real, imagined, model, shuffled=shuffled))
    require_learners(session, inputs.model)
    require_controls(session, inputs)
    tell(TRAIN.alone(session, inputs, out, overwrite), as_json)


@COMMANDS.command("evaluate")
def evaluate_command(
    policy: Annotated[Path, typer.Option(help="A policy folder, or a folder of them.")],
    out: Out,
    goals: Goals = None,
    level: Levels = None,
    split: Split = None,
    reader: Annotated[
        bool,
        typer.Option(
            "--reader", help="Ask them in plain words, too: those that the reader (--set reader=...) finds."
        ),
    ] = False,
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

        kalm evaluate --policy policies --out tuned --split tune

        kalm evaluate --policy runs/demo/policies/bc-seed0 --out asked --reader
    """
    from kalm import envs
    from kalm.evaluation.results import read_rows
    from kalm.report import scores, tables
    from kalm.stages.evaluate import EVALUATE, EvaluateInputs

    asked = ["evaluate.readings=[off, reader]"] if reader else []
    changes = [*(set_ or []), *split_settings(split, "evaluate"), *asked]
    session = open_session(env, preset, changes, seed, device, workers)
    inputs = EvaluateInputs(policy, goals, known_levels(level) or LEVELS)
    EVALUATE.alone(session, inputs, out, overwrite)
    rows, published = read_rows(out / ROWS), envs.published(session.config.env)
    tell(scores.scores_to_json(scores.scores(rows, published)), as_json, lambda: tables.show(rows, published))
