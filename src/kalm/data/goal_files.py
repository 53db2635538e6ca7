"""Instructions by world and level, and goal files (JSON lines) in and out.

A goal file is written by hand or by other programs, so reading it checks everything, and every complaint
names the file, the line and the reason; nothing is skipped but empty lines.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from kalm.errors import KalmError, unknown
from kalm.runs.io import atomic_write
from kalm.types import LEVELS, SPLITS, Goal, Instruction, JsonObject

ParseGoal = Callable[[Mapping[str, object]], Goal]

_NEEDED = ("text", "level", "goal")
_OPTIONAL = ("wording", "held_back", "state", "split", "family")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can spell them, no file can hold them


def read_goals(
    path: Path | str, parse_goal: ParseGoal, state_size: int | None = None
) -> tuple[Instruction, ...]:
    """Read a goal file: one JSON object per line (spec, "Goal files").

    Args:
        path: the file, UTF-8.
        parse_goal: the world's check of a goal.
        state_size: the length S that an initial state must have; None where states are not used.

    Raises:
        KalmError: the file is unreadable or empty, or a line is malformed; names path, line and reason.
    """
    try:
        lines = Path(path).read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise KalmError(f"goal file {path} cannot be read: {error}.") from None
    found = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                found.append(_instruction(_object(line), parse_goal, state_size))
            except KalmError as error:
                raise KalmError(f"{path}, line {number}: {error}") from None
    if not found:
        raise KalmError(f"goal file {path} is empty. Write one JSON object per line.")
    return tuple(found)


def write_goals(path: Path | str, instructions: Iterable[Instruction]) -> None:
    """Write a goal file, atomically; the inverse of `read_goals`."""
    lines = [json.dumps(instruction.to_json(), ensure_ascii=False) + "\n" for instruction in instructions]
    with atomic_write(Path(path)) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def _object(line: str) -> JsonObject:
    """Return the JSON object of a line, whole numbers as floats, so that none is too large to check."""
    try:
        data = json.loads(line, parse_int=float)
    except (json.JSONDecodeError, RecursionError) as error:
        raise KalmError(f"not JSON ({error}).") from None
    if not isinstance(data, dict):
        raise KalmError(f"expected a JSON object with {', '.join(_NEEDED)}, got {line.strip()[:40]!r}.")
    return data


def _instruction(data: JsonObject, parse_goal: ParseGoal, state_size: int | None) -> Instruction:
    _check_names(data)
    if not _is_sentence(data["text"]):
        raise KalmError(f"'text' must be a sentence, with letters in it, got {data['text']!r}.")
    if data["level"] not in LEVELS:
        raise unknown("level", data["level"], LEVELS)
    for name in ("wording", "family"):
        if not isinstance(data.get(name, ""), str):
            raise KalmError(f"{name!r} must be a name, got {data[name]!r}.")
    if not isinstance(data.get("held_back", False), bool):
        raise KalmError(f"'held_back' must be true or false, got {data['held_back']!r}.")
    if data.get("split", "") not in ("", *SPLITS):
        raise unknown("split", data["split"], SPLITS)
    if data.get("state") is not None:
        _check_state(data["state"], state_size)
    return Instruction.from_json({**data, "goal": parse_goal(data["goal"]).to_json()})


def _is_sentence(text: object) -> bool:
    """Whether something says something: a text with a letter, of any script, that a file can hold."""
    return isinstance(text, str) and any(map(str.isalpha, text)) and not _LONE_SURROGATE.search(text)


def _check_names(data: Mapping[str, object]) -> None:
    missing = [name for name in _NEEDED if name not in data]
    if missing:
        raise KalmError(f"{', '.join(map(repr, missing))} missing. Each line needs {', '.join(_NEEDED)}.")
    strange = set(data) - {*_NEEDED, *_OPTIONAL}
    if strange:
        raise unknown("name in a goal line", min(strange), (*_NEEDED, *_OPTIONAL))


def _check_state(state: object, size: int | None) -> None:
    if not isinstance(state, list) or size not in (None, len(state)):
        came = f"{len(state)} values" if isinstance(state, list) else repr(state)
        raise KalmError(f"'state' must be a list of {size or 'finite'} numbers, got {came}.")
    for index, value in enumerate(state):
        if not isinstance(value, float) or not math.isfinite(value):
            raise KalmError(f"'state'[{index}] must be a finite number, got {value!r}.")
