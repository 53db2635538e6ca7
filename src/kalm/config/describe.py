"""All settings as a table, for the documentation: path, type, default, bounds and meaning of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kalm.config.tree import Config
from kalm.runs.section import Section


@dataclass(frozen=True)
class Setting:
    """One field of the tree.

    Attributes:
        path: as in ``--set``, e.g. ``"train.steps"``.
        type: in words of Python, e.g. ``"int"``, ``"tuple[int, ...]"``, ``"'full' | 'lora'"``.
        default: value where no preset says otherwise.
        bounds: what values must keep to, e.g. ``"> 0, <= 1"``; of a tuple, its items. Empty: no bounds.
        description: what it does.
    """

    path: str
    type: str
    default: object
    bounds: str
    description: str


def describe_settings() -> tuple[Setting, ...]:
    """Return every setting, section by section, in the order of the classes."""
    return tuple(_settings(Config, ""))


def sections() -> dict[str, str]:
    """Return the path of every section and what it sets, in the order of `describe` (``""``: the run)."""
    return {path: (section.__doc__ or "").strip().splitlines()[0] for path, section in _sections(Config, "")}


def section_at(path: Sequence[int | str]) -> type[BaseModel]:
    """Return the class of the section at a path. Raises KeyError: there is no such section."""
    section: type[BaseModel] = Config
    for part in path:
        section = dict(_children(section))[str(part)]
    return section


def field_names(path: Sequence[int | str]) -> list[str]:
    """List what may stand in the section at a path, with the path in front, as one would type it."""
    prefix = "".join(f"{part}." for part in path)
    return [prefix + name for name in section_at(path).model_fields]


def is_text(path: Sequence[str]) -> bool:
    """Whether the setting at a path takes words and nothing else, None aside; False where there is none."""
    try:
        field = section_at(path[:-1]).model_fields[path[-1]]
    except KeyError:
        return False
    return field.annotation is str or set(get_args(field.annotation)) == {str, NoneType}


def _children(section: type[BaseModel]) -> list[tuple[str, type[Section]]]:
    """Return the sections of a section."""
    fields = section.model_fields.items()
    found = ((name, field.annotation) for name, field in fields)
    return [(name, kind) for name, kind in found if isinstance(kind, type) and issubclass(kind, Section)]


def _sections(section: type[Section], path: str) -> list[tuple[str, type[Section]]]:
    below = [(f"{path}.{name}".strip("."), kind) for name, kind in _children(section)]
    return [(path, section), *(found for name, kind in below for found in _sections(kind, name))]


def _settings(section: type[Section], prefix: str) -> list[Setting]:
    """Return the settings of a section, then those of its sections."""
    nested = dict(_children(section))
    own = [
        Setting(
            prefix + name,
            type_name(field.annotation),
            field.get_default(call_default_factory=True, validated_data={}),
            bounds(field),
            field.description or "",
        )
        for name, field in section.model_fields.items()
        if name not in nested
    ]
    return [*own, *(found for name, kind in nested.items() for found in _settings(kind, f"{prefix}{name}."))]


def type_name(annotation: object) -> str:
    """Return a type as one would write it: choices as their values, without constraints."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(parts[0])
    if origin is Literal:
        return " | ".join(repr(part) for part in parts)
    if origin is tuple:
        return f"tuple[{', '.join('...' if part is ... else type_name(part) for part in parts)}]"
    if parts:
        return " | ".join(type_name(part) for part in parts)
    return "None" if annotation is NoneType else getattr(annotation, "__name__", str(annotation))


def bounds(field: FieldInfo) -> str:
    """Return the bounds of a number, or of a tuple and its items, in words; empty: it has none."""
    each = [
        f"each {word}"
        for part in get_args(field.annotation)
        if get_origin(part) is Annotated
        for word in _words(get_args(part)[1:])
    ]
    return ", ".join([*_words(field.metadata), *each])


def _words(constraints: Sequence[object]) -> list[str]:
    words = []
    for one in constraints:
        match one:
            case Gt():
                words.append(f"> {one.gt}")
            case Ge():
                words.append(f">= {one.ge}")
            case Lt():
                words.append(f"< {one.lt}")
            case Le():
                words.append(f"<= {one.le}")
            case MinLen():
                words.append(f"at least {one.min_length}")
            case _:  # a check with no bound to tell
                pass
    return words
