"""Commands of the reader: ``kalm read``, ``kalm reader teach``, ``kalm reader measure``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kalm.cli.options import (
    Device,
    Env,
    Goals,
    Json,
    Levels,
    Out,
    Overwrite,
    Preset,
    Seed,
    Set,
    known_levels,
    known_split,
    open_session,
    tell,
)
from kalm.errors import KalmError
from kalm.types import LEVELS, Instruction, JsonObject

if TYPE_CHECKING:
    from kalm.envs.base import World
    from kalm.reader.plans import Plan

COMMANDS = typer.Typer()
READER = typer.Typer(
    no_args_is_help=True, help="Teach a reader, or measure one on wordings that it was not taught."
)
Name = Annotated[
    str,
    typer.Option(
        "--reader",
        help="smollm2 (comes with kalm), the folder of a taught one, or an instruct model by name or folder.",
    ),
]


@COMMANDS.command("read")
def read_command(
    text: Annotated[list[str] | None, typer.Argument(help="Instructions to read.")] = None,
    goals: Goals = None,
    level: Levels = None,
    split: Annotated[
        str, typer.Option("--split", help="Sentences that are measured: tune, test or all.")
    ] = "test",
    wrong: Annotated[bool, typer.Option("--wrong", help="Measuring: list what was misread, too.")] = False,
    samples: Annotated[
        int, typer.Option(min=0, help="Plans that are drawn per instruction, besides the likeliest.")
    ] = 16,
    reader: Name = "smollm2",
    env: Env = None,
    seed: Seed = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Read instructions into plain sentences of the data; without any, measure that on goals.

    Plans come with their confidence, the most probable first. Goals are those of a file or of the suites; the
    share of plans that are equal to the goals' own structure is given per level and kind.

    For example:

        kalm read "Would you kindly get the cyan sphere to the far side of the purple one?" --env clevr

        kalm read --goals my_goals.jsonl --env clevr --json

        kalm read --env metaworld --level hard --wrong
    """
    if text and (goals is not None or level):
        raise KalmError("give either instructions to read, or goals to measure on (--goals, --level).")
    session = open_session(env, None, None, seed, device, None)
    world = session.world
    asked = () if text else _asked(world, goals, known_levels(level), split)
    from kalm.reader.reader import load_reader

    loaded = load_reader(reader, session.device)
    if text:
        found = loaded.n_best(text, world, samples, session.config.seed)
        plans = {"plans": [[plan.to_json() for plan in best] for best in found]}
        tell(plans, as_json, lambda: _show_plans(found))
        return
    from kalm.reader.measure import measure_goals
    from kalm.runs.progress import track

    with track("read", len(asked)) as advance:
        figures = measure_goals(loaded, world, asked, advance)
    misread = figures.pop("wrong")
    if wrong:
        figures["wrong"] = misread
    tell(figures, as_json, lambda: _show_shares(figures))


@READER.command("teach")
def teach_command(
    out: Out,
    preset: Preset = None,
    set_: Set = None,
    seed: Seed = None,
    device: Device = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Teach a language model to read; OUT is then a --reader. Settings: `teach.*`.

    For example:

        kalm reader teach --out reader

        kalm reader teach --out reader --set teach.base=HuggingFaceTB/SmolLM2-360M-Instruct
    """
    from kalm.reader.teach import make_reader
    from kalm.runs.output import clear, output_folder
    from kalm.runs.progress import track

    session = open_session(None, preset, set_, seed, device, None)
    with output_folder(out):
        if overwrite:
            clear(out)
        facts = make_reader(out, session.config.teach, session.config.seed, session.device, track)
    tell(facts.to_json(), as_json)


@READER.command("measure")
def measure_command(
    reader: Name = "smollm2",
    scenes: Annotated[int, typer.Option(min=1, help="Scenes, of 12 requests each.")] = 40,
    wrong: Annotated[bool, typer.Option("--wrong", help="List what was misread, too.")] = False,
    seed: Seed = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure a reader on wordings of the grammar that no reader is taught, by kind of request.

    For example:

        kalm reader measure --scenes 100 --wrong
    """
    from kalm.reader.measure import measure_grammar
    from kalm.reader.reader import load_reader
    from kalm.runs.progress import track

    session = open_session(None, None, None, seed, device, None)
    loaded = load_reader(reader, session.device)
    with track("read", scenes) as advance:
        found = measure_grammar(loaded.model, loaded.spelled, scenes, session.config.seed, advance=advance)
    figures = found.to_json(loaded.calibration)
    if wrong:
        figures["wrong"] = list(found.wrong)
    tell(figures, as_json, lambda: _show_shares(figures))


def _asked(
    world: World, goals: Path | None, levels: Sequence[str] | None, split: str
) -> tuple[Instruction, ...]:
    """Return the instructions to measure on."""
    from kalm.data.goal_files import read_goals
    from kalm.envs.sentences import require_split

    if goals is not None:
        found = [one for one in read_goals(goals, world.parse_goal) if levels is None or one.level in levels]
        if not found:
            raise KalmError(f"{goals} has no goal of level {', '.join(levels or ())}. Give other levels.")
        return tuple(found)
    found = [one for level in levels or LEVELS for one in world.suite(level)]
    return tuple(require_split(found, known_split(split)))


def _show_plans(found: Sequence[Sequence[Plan]]) -> None:
    """Print plans of each request, the most probable first."""
    for plans in found:
        typer.echo(plans[0].request)
        for plan in plans:
            doubt = "" if plan.sure else "  (not sure enough to be used)"
            typer.echo(f"  {plan.confidence:4.0%}  {plan.text}{doubt if plan is plans[0] else ''}")


def _show_shares(figures: JsonObject) -> None:
    """Print shares as a table: one line per level and kind."""
    typer.echo(f"{'':36}{'right':>8}{'sure':>8}{'right when sure':>18}{'count':>8}")
    for group in ("levels", "all", "kinds"):
        shares = figures.get(group, {})
        for name, share in ({group: shares} if group == "all" and shares else shares).items():
            typer.echo(
                f"{name:36}{share['right']:8.1%}{share['sure']:8.1%}{share['right_when_sure']:18.1%}"
                f"{share['count']:8,}"
            )
    for line in figures.get("wrong", ()):
        typer.echo(
            line
            if isinstance(line, str)
            else f"{line['request']!r} was read as {line['steps'] or 'own words'}"
        )


COMMANDS.add_typer(READER, name="reader")
