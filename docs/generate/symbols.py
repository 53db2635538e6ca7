"""The public names of the library, and whether the reference has all of them with all they take.

Public is what `kalm.__all__` names, and all of the modules that an environment of one's own builds on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[2]
PLUGIN_MODULES = ("kalm.envs.base", "kalm.envs.simple", "kalm.types", "kalm.errors")
REFERENCE = re.compile(r"^::: (\S+)", re.MULTILINE)


def undocumented(docs: Path) -> list[str]:
    """Return a line per public symbol that no page of the reference shows, or that lacks a description."""
    shown = {name for page in docs.rglob("*.md") for name in REFERENCE.findall(page.read_text("utf-8"))}
    missing = [
        f"{name}: in no page of the reference"
        for name in public_names()
        if not {name, name.rpartition(".")[0]} & shown
    ]
    return missing + [
        line for name in sorted(shown) for line in _gaps(name, package()[name.removeprefix("kalm.")])
    ]


@cache
def package() -> griffe.Module:
    """Read the package without importing it; what `kalm` exports lazily stands under TYPE_CHECKING."""
    found = griffe.load("kalm", search_paths=[ROOT / "src"], docstring_parser=griffe.Parser.google)
    assert isinstance(found, griffe.Module)
    return found


def public_names() -> list[str]:
    """Return the public symbols by the names of where they are defined, in the order of `kalm.__all__`."""
    found = package()
    return [found.imports[str(name)] for name in found.exports or []] + list(PLUGIN_MODULES)


def _gaps(name: str, found: griffe.Object | griffe.Alias) -> Iterator[str]:
    """Yield what is missing in the docstrings of an object and of its public members."""
    if isinstance(found, griffe.Alias):
        found = found.final_target
    if not found.has_docstring and not found.is_attribute:
        yield f"{name}: no docstring ({found.filepath})"
    if isinstance(found, griffe.Function):
        yield from (f"{name}: parameter {one!r} is not described" for one in _unexplained(found))
    for member, inner in found.members.items():
        if not member.startswith("_") and not inner.is_alias and (found.is_class or found.is_module):
            yield from _gaps(f"{name}.{member}", inner)


def _unexplained(function: griffe.Function) -> list[str]:
    """Return the parameters of a function that its docstring does not name; methods are let off."""
    text = function.docstring.value if function.docstring else ""
    names = [one.name.lstrip("*") for one in function.parameters if one.name not in ("self", "cls")]
    method = function.parent is not None and function.parent.is_class
    return [] if method else [name for name in names if not re.search(rf"\b{re.escape(name)}\b", text)]
