"""Commands that look at goals and datasets: ``kalm goals ...`` and ``kalm data ...``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kalm import envs
from kalm.cli.options import Json, tell
from kalm.types import LEVELS

goals_app = typer.Typer(no_args_is_help=True, help="Show the instructions of a level, or check a goal file.")
data_app = typer.Typer(no_args_is_help=True, help="Look into a dataset of rollouts.")


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
    from kalm.data.goal_files import write_goals

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
    from kalm.data.goal_files import read_goals

    instructions = read_goals(file, envs.make(env).parse_goal)
    counts = {level: sum(i.level == level for i in instructions) for level in LEVELS}
    tell({"goals": len(instructions), **counts}, as_json)


@data_app.command("info")
def data_info(folder: Annotated[Path, typer.Argument(help="Dataset folder.")], as_json: Json = False) -> None:
    """Print what a dataset holds and where it comes from; checks every file of it.

    Example: kalm data info runs/demo/real
    """
    from kalm.data import storage

    tell(storage.describe(folder), as_json)
