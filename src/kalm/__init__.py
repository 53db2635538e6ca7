"""kalm: turn what a pre-trained language model knows into a robot policy.

Importing it loads next to nothing: every public name is looked up on first use. Unusual: the environments
become known to Gymnasium, e.g. ``gymnasium.make("kalm/ClevrRobot-v0")``, whichever of the two is imported
first, and Gymnasium (0.1 s) is not imported for it. Gymnasium looks for no plug-ins, so an import hook waits
for it.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

    from kalm.api import Results, RunResult, collect, evaluate, ground, imagine, run, train, watch
    from kalm.data.rollouts import RolloutSet
    from kalm.envs.registry import make
    from kalm.errors import KalmError
    from kalm.lm.model import load_model
    from kalm.reader.reader import load_reader
    from kalm.registry import load_policy

__version__ = "0.2.0"
__all__ = [
    "KalmError",
    "Results",
    "RolloutSet",
    "RunResult",
    "collect",
    "evaluate",
    "ground",
    "imagine",
    "load_model",
    "load_policy",
    "load_reader",
    "make",
    "run",
    "train",
    "watch",
]

_PLACES = {
    "KalmError": "kalm.errors",
    "RolloutSet": "kalm.data.rollouts",
    "load_model": "kalm.lm.model",
    "load_policy": "kalm.registry",
    "load_reader": "kalm.reader.reader",
    "make": "kalm.envs.registry",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'kalm' has no attribute {name!r}")
    return getattr(import_module(_PLACES.get(name, "kalm.api")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def _register_environments() -> None:
    from kalm.envs.registry import register_gymnasium

    register_gymnasium()


class _AfterGymnasium:
    """Registers the environments as soon as Gymnasium has been imported, then steps aside."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != "gymnasium":
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec("gymnasium")
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_register(module: object) -> None:
                load(module)  # pyright: ignore[reportArgumentType] - handed on as it came
                _register_environments()

            spec.loader.exec_module = load_and_register
        return spec


if "gymnasium" in sys.modules:
    _register_environments()
else:
    sys.meta_path.insert(0, _AfterGymnasium())
