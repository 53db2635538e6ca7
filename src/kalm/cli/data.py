"""Commands of the data: ``kalm collect``, ``kalm goals ...``, ``kalm data ...``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from kalm.cli.options import (
    Device,
    Env,
    Json,
    Out,
    Overwrite,
    Preset,
    Seed,
    Set,
    Workers,
    known_split,
    open_session,
    tell,
)
from kalm.types import LEVELS, JsonObject

COMMANDS = typer.Typer()
GOALS = typer.Typer(no_args_is_help=True, help="Show the instructions of a level, or check a goal file.")
DATASETS = typer.Typer(no_args_is_help=True, help="Look into a dataset of rollouts.")


@COMMANDS.command("collect")
def collect_command(
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

    For example:

        kalm collect --env clevr --out data/real --set collect.rollouts=100000
    """
    from kalm.stages.base import NoInputs
    from kalm.stages.collect import COLLECT

    session = open_session(env, preset, set_, seed, None, workers)
    tell(COLLECT.alone(session, NoInputs(), out, overwrite), as_json)


@GOALS.command("show")
def show_goals(
    env: Annotated[str, typer.Option("--env", help="Environment.")] = "clevr",
    level: Annotated[str, typer.Option(help="seen, rephrase, easy or hard.")] = "rephrase",
    split: Annotated[str, typer.Option(help="tune, test or all.")] = "all",
    limit: Annotated[int, typer.Option(min=0, help="Show this many; 0: all.")] = 20,
    out: Annotated[Path | None, typer.Option(help="Write them as a goal file.")] = None,
    as_json: Json = False,
) -> None:
    """Show or write the instructions of a level.

    For example:

        kalm goals show --level hard --limit 0 --out hard.jsonl

        kalm goals show --env metaworld --level rephrase --split test --limit 0 --out rephrase-test.jsonl
    """
    from kalm import envs
    from kalm.data.goal_files import write_goals
    from kalm.envs.sentences import require_split

    suite = require_split(envs.make(env).suite(level), known_split(split))
    shown = suite if limit == 0 else suite[:limit]
    if out is not None:
        write_goals(out, shown)
        typer.echo(f"{len(shown)} of {len(suite)} instructions written to {out}")
        return
    for instruction in shown:
        typer.echo(json.dumps(instruction.to_json()) if as_json else instruction.text)


@GOALS.command("check")
def check_goals(
    file: Annotated[Path, typer.Argument(help="Goal file (JSON lines).")],
    env: Annotated[str, typer.Option("--env", help="Environment.")] = "clevr",
    as_json: Json = False,
) -> None:
    """Check a goal file and count its goals.

    For example:

        kalm goals check my_goals.jsonl
    """
    from kalm import envs
    from kalm.data.goal_files import read_goals

    instructions = read_goals(file, envs.make(env).parse_goal)
    counts = {level: sum(i.level == level for i in instructions) for level in LEVELS}
    tell({"goals": len(instructions), **counts}, as_json)


@GOALS.command("propose")
def propose_command(
    out: Annotated[Path, typer.Option(help="Goal file to write.")],
    lm: Annotated[
        str,
        typer.Option(
            help="Who writes: smollm2, an instruct model by hub name, folder or GGUF file, or the base "
            "address of an OpenAI-compatible server."
        ),
    ] = "smollm2",
    served: Annotated[str, typer.Option("--lm-model", help="Which of a server's models.")] = "",
    count: Annotated[int, typer.Option(min=1, help="Goals to keep.")] = 50,
    env: Env = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Let a language model propose goals; the reader says what each asks for, and what is unsure is left out.

    For example:

        kalm goals propose --env clevr --lm smollm2 --count 40 --out proposed.jsonl

        kalm goals propose --lm http://localhost:8000/v1 --lm-model my-model --out proposed.jsonl

        kalm imagine --model runs/demo --goals proposed.jsonl --out imagined
    """
    from kalm.data.goal_files import write_goals
    from kalm.reader.propose import propose_goals
    from kalm.reader.writers import load_writer
    from kalm.runs.progress import track

    session = open_session(env, None, set_, seed, device, None)
    writer = load_writer(lm, session.device, served)
    with track("propose", count) as advance:
        found = propose_goals(writer, session.reader, session.world, count, session.seed("propose"), advance)
    write_goals(out, found.instructions)
    tell({"file": str(out), **found.to_json()}, as_json)


@DATASETS.command("info")
def describe_data(
    folder: Annotated[Path, typer.Argument(help="Dataset folder.")], as_json: Json = False
) -> None:
    """Print what a dataset holds and where it comes from; checks every file of it. All there is: --json.

    For example:

        kalm data info runs/demo/real
    """
    from kalm.data import storage

    found = storage.describe(folder)
    tell(found if as_json else _in_short(found), as_json)


def _in_short(found: JsonObject) -> dict[str, object]:
    """Return what fits a screen of what `kalm.data.storage.describe` found: one line each."""
    provenance, world = found["provenance"], found["world"]
    groups = {
        f"{kind} {name}": _counted(part)
        for kind, group in (("level", "levels"), ("source", "sources"))
        for name, part in found[group].items()
    }
    return {
        "folder": found["folder"],
        "environment": f"{world['name']}, {len(world['state_names'])} state numbers",
        "rollouts": _counted(found),
        **groups,
        **{name: found[name] for name in ("transitions", "instructions", "shards", "bytes")},
        **{name: provenance[name] for name in ("made_by", "command", "seed") if name in provenance},
        "more": f"kalm data info {found['folder']} --json",
    }


def _counted(part: JsonObject) -> str:
    if not part["rollouts"]:
        return "0"
    return f"{part['rollouts']:,} of {part['actions']:.1f} actions, {part['success']:.1%} reach their goal"


COMMANDS.add_typer(GOALS, name="goals")
COMMANDS.add_typer(DATASETS, name="data")
