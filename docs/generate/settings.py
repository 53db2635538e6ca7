"""All settings: type, default, bounds and meaning of each, one table per section."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from kalm.config import Config
from kalm.run.section import Section
from pydantic.fields import FieldInfo

SIGNS = {Gt: (">", "gt"), Ge: ("≥", "ge"), Lt: ("<", "lt"), Le: ("≤", "le")}


def reference() -> str:
    """Return a section per section of the settings."""
    return "\n\n".join(_section(path, model) for path, model in sections())


def sections(path: str = "", model: type[Section] = Config) -> Iterator[tuple[str, type[Section]]]:
    """Yield every section with its path, the whole run first with an empty one."""
    yield path, model
    for name, field in model.model_fields.items():
        if isinstance(field.default, Section):
            yield from sections(f"{path}.{name}".lstrip("."), type(field.default))


def _section(path: str, model: type[Section]) -> str:
    title = f"## `{path}`" if path else "## Of the whole run"
    rows = [
        _row(f"{path}.{name}".lstrip("."), field)
        for name, field in model.model_fields.items()
        if not isinstance(field.default, Section)
    ]
    head = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([title, "", _escape(model.__doc__ or "").partition("\n")[0], "", *head, *rows])


def _row(path: str, field: FieldInfo) -> str:
    bounds = [f"{sign} {getattr(one, attribute)}" for one in field.metadata for kind, (sign, attribute) in SIGNS.items() if isinstance(one, kind)]
    kind = f"{_type(field.annotation)} {', '.join(bounds)}".strip()
    return f"| `{path}` | {_escape(kind)} | `{_value(field.default)}` | {_escape(field.description or '')} |"


def _type(annotation: object) -> str:
    """Return a type as one would say it; the alternatives of a literal are themselves."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " / ".join(f"`{part}`" for part in parts)
    if origin in (Union, UnionType):
        return " or ".join("`null`" if part is NoneType else _type(part) for part in parts)
    if origin is tuple:
        return f"list of {_type(parts[0])}"
    return {"int": "integer", "float": "number", "str": "text", "bool": "`true` / `false`"}[annotation.__name__]


def _value(default: object) -> str:
    """Return a default as it is written in YAML."""
    if isinstance(default, tuple):
        return f"[{', '.join(map(_value, default))}]"
    return {None: "null", True: "true", False: "false"}[default] if default is None or isinstance(default, bool) else str(default)


def _escape(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)
