"""Worlds by name: the one registry, filled from the entry points ``kalm.worlds``."""

from __future__ import annotations

from importlib.metadata import entry_points

from kalm.envs.base import World
from kalm.errors import unknown

GROUP = "kalm.worlds"
# What Gymnasium calls a world, where that differs from its name.
TITLES = {"clevr": "ClevrRobot", "metaworld": "MetaWorld"}


def names() -> list[str]:
    """Return the names of all installed worlds."""
    return sorted(entry_points(group=GROUP).names)


def require(name: str) -> None:
    """Check that a world of this name is installed, without loading it. Raises KalmError that lists them."""
    if name not in names():
        raise unknown("world", name, names())


def make(name: str, **options: object) -> World:
    """Return the world of this name, e.g. ``make("clevr", physics="mujoco3")``.

    Args:
        name: as after ``--env``.
        options: handed on to the world's class.

    Raises:
        KalmError: no installed package registers that name; lists those that exist.
    """
    require(name)
    return next(iter(entry_points(group=GROUP, name=name))).load()(**options)


def register_gymnasium() -> None:
    """Make the worlds known to Gymnasium: ``kalm/ClevrRobot-v0``, and ``kalm/<name>-v0`` for every other."""
    import gymnasium

    for name in names():
        title = TITLES.get(name, name)
        if f"kalm/{title}-v0" not in gymnasium.registry:
            gymnasium.register(f"kalm/{title}-v0", "kalm.envs.gym:GoalEnv", kwargs={"world": name})
