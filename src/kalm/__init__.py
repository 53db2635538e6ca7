"""kalm: turn what a pre-trained language model knows into a robot policy.

Importing it makes the worlds known to Gymnasium, e.g. ``gymnasium.make("kalm/ClevrRobot-v0")``,
and does no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kalm.envs.registry import register_gymnasium

if TYPE_CHECKING:
    from kalm.envs.registry import make
    from kalm.registry import load_policy

__version__ = "0.1.0"
__all__ = ["load_policy", "make"]

# Looked up on first use, so that `import kalm` loads neither torch nor mujoco.
_PLACES = {"load_policy": "kalm.registry", "make": "kalm.envs.registry"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'kalm' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PLACES[name]), name)


register_gymnasium()
