"""Worlds by name: the one registry, filled from the entry points ``kalm.worlds``."""

from __future__ import annotations

from importlib.metadata import entry_points

from kalm.envs.base import World
from kalm.errors import unknown

GROUP = "kalm.worlds"


def names() -> list[str]:
    """Return the names of all installed worlds."""
    return sorted(entry_points(group=GROUP).names)


def make(name: str, **options: object) -> World:
    """Return the world of this name, e.g. ``make("clevr", physics="mujoco3")``.

    Raises:
        KalmError: no installed package registers that name; lists those that exist.
    """
    found = entry_points(group=GROUP, name=name)
    if not found:
        raise unknown("world", name, names())
    return next(iter(found)).load()(**options)
