"""Worlds by name: the one registry, filled from entry points. Built-in worlds register as plug-ins do.

::

    [project.entry-points."kalm.worlds"]          name -> class
    taxi = "kalm_taxi.world:TaxiWorld"

    [project.entry-points."kalm.gymnasium_ids"]   what Gymnasium calls it, where that is not the name
    TaxiGrid = "kalm_taxi.world:TaxiWorld"        kalm/TaxiGrid-v0

Nothing is loaded before a world is made: names and Gymnasium's ids are read from metadata alone.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

from kalm.envs.base import Published, World
from kalm.errors import KalmError, unknown

GROUP, IDS = "kalm.worlds", "kalm.gymnasium_ids"


def names() -> list[str]:
    """Return the names of all installed worlds."""
    return sorted(entry_points(group=GROUP).names)


def require(name: str) -> None:
    """Check that a world of this name is installed, without loading it.

    Raises:
        KalmError: it is not; lists those that are, or says why there are none.
    """
    known = names()
    if not known:
        raise KalmError(
            "no environments are installed, not even the built-in ones. They are found by the entry points "
            "of installed packages, and a bare source tree has none: install the package (pip install -e .)."
        )
    if name not in known:
        raise unknown("environment", name, known)


def make(name: str, **options: object) -> World:
    """Return the world of this name, e.g. ``make("clevr", physics="mujoco3")``.

    Args:
        name: as after ``--env``.
        options: handed on to the world's class.

    Raises:
        KalmError: no installed package registers that name; lists those that exist.
    """
    return _entry(name).load()(**options)


def published(name: str) -> Published | None:
    """Return what others published for the world of this name; None where it offers nothing.

    Raises:
        KalmError: as `make`.
    """
    return getattr(_entry(name).load(), "published", None)


def gymnasium_ids() -> dict[str, str]:
    """Return what Gymnasium calls each world: name -> id, ``kalm/<name>-v0`` unless it says otherwise."""
    titles = {entry.value: entry.name for entry in entry_points(group=IDS)}
    worlds = entry_points(group=GROUP)
    return {entry.name: f"kalm/{titles.get(entry.value, entry.name)}-v0" for entry in worlds}


def register_gymnasium() -> None:
    """Make the worlds known to Gymnasium, under `gymnasium_ids`."""
    import gymnasium

    for name, title in gymnasium_ids().items():
        if title not in gymnasium.registry:
            gymnasium.register(title, "kalm.envs.gym:GoalEnv", kwargs={"world": name})


def _entry(name: str) -> EntryPoint:
    require(name)
    return next(iter(entry_points(group=GROUP, name=name)))
