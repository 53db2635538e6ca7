"""The command line's reference, from the commands themselves: help text, arguments, options."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import typer

from kalm.cli.main import app

# Typer carries its own copy of click, which has no public name: commands and parameters are read, not made.
Command = Any
Parameter = Any


def reference() -> str:
    """Return a section per command."""
    return "\n\n".join(_section(name, command) for name, command in every_command())


def every_command() -> Iterator[tuple[str, Command]]:
    """Yield the commands with all words of their names, those of groups included: ``kalm goals show``."""
    yield from _below("kalm", typer.main.get_command(app))


def _below(name: str, command: Command) -> Iterator[tuple[str, Command]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for word, child in inner.items():
        yield from _below(f"{name} {word}", child)


def _section(name: str, command: Command) -> str:
    rows = [_row(parameter) for parameter in command.params if parameter.name != "help"]
    usage = " ".join([name, *(_usage(p) for p in command.params if p.name != "help" and p.required)])
    table = ["| option | value | meaning |", "|---|---|---|", *rows]
    return "\n".join([f"## `{name}`", "", f"`{usage} ...`", "", _help(command.help or ""), "", *table])


def _help(text: str) -> str:
    """Return a command's help; the lines under ``Example:`` are code."""
    words, mark, examples = re.sub(r"\n(Examples?):\s+", "\n\n\\1:\n", text).partition("\nExample")
    if not mark:
        return words.strip()
    lines = [line.strip() for line in examples.partition("\n")[2].splitlines() if line.strip()]
    calls: list[str] = []
    for line in lines:
        if line.startswith("kalm "):
            calls.append(line)
        else:
            calls[-1] += f" \\\n    {line}"
    return "\n".join([words.strip(), "", "```", *calls, "```"])


def _usage(parameter: Parameter) -> str:
    if not _option(parameter):
        return parameter.name.upper()
    return f"{parameter.opts[0]} {_value(parameter)}"


def _row(parameter: Parameter) -> str:
    names = (
        ", ".join(f"`{name}`" for name in parameter.opts) if _option(parameter) else parameter.name.upper()
    )
    meaning = (parameter.help or "").replace("|", "\\|")
    default = parameter.default
    if default not in (None, False, ()) and not parameter.required:
        meaning += f" Default: `{default}`."
    return f"| {names} | {_value(parameter)} | {meaning} |"


def _option(parameter: Parameter) -> bool:
    return parameter.param_type_name == "option"


def _value(parameter: Parameter) -> str:
    """Return what stands behind an option: a type in capitals, nothing behind a switch."""
    if getattr(parameter, "is_flag", False):
        return ""
    kind = parameter.type_descriptor.annotation
    kind = next((part for part in get_args(kind) if part is not type(None)), kind)
    name: str = kind.__name__
    name = {"Path": "PATH", "str": "TEXT", "int": "INTEGER", "float": "NUMBER"}.get(name, name)
    return f"{name} ..." if parameter.multiple else name
