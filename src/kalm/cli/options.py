"""What the commands have in common: options, how settings are resolved from them, how results are told."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer.core import TyperCommand

from kalm.errors import unknown
from kalm.types import LEVELS, SplitChoice

if TYPE_CHECKING:
    from kalm.session import Session

Env = Annotated[str | None, typer.Option("--env", help="Environment; `clevr` by default.")]
Preset = Annotated[
    str | None,
    typer.Option(help="Settings to start from: demo, mini, gpu, paper, paper-faithful, or FILE.yaml."),
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="Change a setting: section.field=value. Repeat for more.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Root of all random numbers.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 or auto.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes or threads for simulation and training.")]
Out = Annotated[Path, typer.Option(help="Folder for the result.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Delete what --out holds and start anew.")]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue a folder even if the settings changed; stages that they change start anew.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print figures as JSON.")]
Goals = Annotated[Path | None, typer.Option("--goals", help="Goal file (JSON lines) instead of the suites.")]
Levels = Annotated[list[str] | None, typer.Option("--level", help="Only this level. Repeat for more.")]
Split = Annotated[
    str | None,
    typer.Option(
        "--split", help="Sentences and initial states that are measured: tune, test (default) or all."
    ),
]
Effects = Annotated[
    Path | None, typer.Option("--effects", help="Table of effects: CSV of variant,seed,measure,value,count.")
]

Real = Annotated[Path, typer.Option(help="Dataset of real rollouts.")]
Imagined = Annotated[Path | None, typer.Option(help="Dataset of imagined rollouts; none: plain policies.")]
Shuffled = Annotated[
    Path | None,
    typer.Option(help="Rollouts imagined with imagine.control=shuffled, for the control in train.controls."),
]
ALGORITHMS = "bc, cql, td3bc, awac, iql, combo, lm, dt"  # `kalm.registry.table`, which loads the RL library
Algorithms = Annotated[
    list[str] | None, typer.Option("--algo", "--algos", help=f"Algorithms: {ALGORITHMS}; several at once.")
]
Model = Annotated[Path | None, typer.Option(help="Grounded model (or its run folder), for lm and dt.")]


class MultiValueCommand(TyperCommand):
    """A command whose repeatable options take several values at once: ``--seeds 0 1 2``."""

    # Any: the class is in typer's private copy of click.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the name of such an option before each of its values, as the parser wants it."""
        repeatable = {name for option in self.params if option.multiple for name in option.opts}
        return super().parse_args(ctx, spread(args, repeatable))


def spread(arguments: Sequence[str], repeatable: set[str]) -> list[str]:
    """Return e.g. ``--seeds 0 --seeds 1`` for ``--seeds 0 1``."""
    out: list[str] = []
    name = ""
    for argument in arguments:
        if argument.startswith("-"):
            name = argument if argument in repeatable else ""
        elif name and out[-1] != name:
            out.append(name)
        out.append(argument)
    return out


def open_session(
    env: str | None,
    preset: str | None,
    set_: list[str] | None,
    seed: int | None,
    device: str | None,
    workers: int | None,
) -> Session:
    """Return the session of the settings that these options ask for; the environment must be known."""
    from kalm import envs
    from kalm.config import load_config
    from kalm.session import Session

    config = load_config(preset, set_ or [], env=env, seed=seed, device=device, workers=workers)
    envs.require(config.env)
    file = Path(preset) if preset and Path(preset).is_file() else None
    return Session(config, shlex.join(["kalm", *sys.argv[1:]]), file)


def cells(algorithms: list[str] | None, seeds: list[int] | None) -> list[str]:
    """Return the settings that choose policies."""
    chosen = {"algorithms": algorithms, "seeds": seeds}
    return [f"train.{name}={as_yaml(value)}" for name, value in chosen.items() if value]


def known_split(split: str) -> SplitChoice:
    """Return the split asked for. Raises KalmError: there is none of that name."""
    for known in get_args(SplitChoice):
        if split == known:
            return known
    raise unknown("split", split, get_args(SplitChoice))


def split_settings(split: str | None, *sections: str) -> list[str]:
    """Return the settings that choose what these sections measure."""
    return [] if split is None else [f"{section}.split={as_yaml(split)}" for section in sections]


def as_yaml(value: object) -> str:
    """Return a value as `--set` reads it: JSON is YAML but for its escapes of what lies beyond 16 bits."""
    return json.dumps(value, ensure_ascii=False)


def known_levels(levels: list[str] | None) -> tuple[str, ...] | None:
    """Return the levels asked for, None for no choice. Raises KalmError: unknown level."""
    for level in levels or []:
        if level not in LEVELS:
            raise unknown("level", level, LEVELS)
    return tuple(levels) if levels else None


def tell(figures: Mapping[str, object], as_json: bool, show: Callable[[], None] | None = None) -> None:
    """Print figures as JSON, or by `show`, or one line each."""
    if as_json:
        typer.echo(json.dumps(figures, indent=2))
    elif show is not None:
        show()
    else:
        for name, value in figures.items():
            typer.echo(f"{name}: {json.dumps(value, indent=2) if isinstance(value, dict) else value}")
