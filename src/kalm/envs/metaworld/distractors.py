"""Distractors: an entity that is not part of the task shows up in the state, as policies are measured.

What is learnt from may have none, one or two (`Distractors.varied`): who has only ever seen two things on the
table is lost before three, and the obstacles of `easy` goals are there beside a distractor.

Its seven numbers are such as that entity has when an episode of its own task begins: a place drawn from the
box in which those places lie, and that task's turn. The boxes were measured on resets; a test resets again.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Literal, get_args

import numpy as np

from kalm.envs.metaworld.spec import ENTITIES, ENTITY, SPEC, TASKS
from kalm.errors import KalmError, unknown

When = Literal["episode", "step", "none"]
WHEN: tuple[When, ...] = get_args(When)

_UP, _LAST = (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)  # upright, in either of the package's two orders
# Entity -> lowest place, highest place, turn; metres, measured in the first task that has it.
BOXES: dict[str, tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]] = {
    "target_object": ((-0.1, 0.6, 0.0194), (0.1, 0.7, 0.0194), _LAST),
    "button": ((-0.1, 0.657, 0.115), (0.1, 0.707, 0.115), _UP),
    "lock": ((-0.11, 0.642, 0.121), (0.09, 0.692, 0.121), _UP),
    "handle": ((0.19, 0.642, 0.15), (0.29, 0.742, 0.15), (0.6908, -0.1506, 0.6909, 0.1512)),
    "window": ((-0.14, 0.605, 0.16), (0.06, 0.805, 0.16), (0.0, 0.0, 0.0, 0.0)),
    "faucet": ((-0.066, 0.625, 0.114), (0.034, 0.675, 0.114), _UP),
    "wall": ((0.1, 0.75, 0.06), (0.1, 0.75, 0.06), _UP),
    "coffee": ((-0.1, 0.55, -0.001), (0.1, 0.65, 0.001), (0.0047, -0.0026, -0.0298, 0.9995)),
    "coffee-button": ((-0.1, 0.58, 0.299), (0.1, 0.68, 0.301), _UP),
    "hammer": ((-0.1, 0.4, 0.0), (0.1, 0.5, 0.0), (0.9996, 0.0002, -0.0297, 0.0)),
    "nail": ((0.24, 0.64, 0.11), (0.24, 0.64, 0.11), _UP),
    "soccer": ((-0.1, 0.6, 0.03), (0.1, 0.7, 0.03), _LAST),
}


class Distractors:
    """What draws distractors.

    Args:
        when: drawn once per ``"episode"``, or anew at every ``"step"`` (as the original did), or ``"none"``.
        names: which entities may be drawn.

    Raises:
        KalmError: an option has an unknown value.
    """

    def __init__(self, when: When = "episode", names: Sequence[str] = ENTITIES) -> None:
        if when not in WHEN:
            raise unknown("distractor", when, WHEN)
        for name in names:
            if name not in ENTITIES:
                raise unknown("distractors", name, ENTITIES)
        if not names:
            raise KalmError("distractors names no entity. Name some, or choose distractor='none'.")
        self.each_step: bool = when == "step"
        self.names: tuple[str, ...] = tuple(names)
        self.least: int = 1
        self.most: int = 1

    def varied(self) -> Distractors:
        """Return the same with none, one or two at a time."""
        other = copy(self)
        other.least, other.most = 0, 2
        return other

    def draw(self, task: str, rng: np.random.Generator) -> np.ndarray:
        """Draw the distractors of a task: zeros but for their numbers: -> (91,)."""
        numbers = np.zeros(SPEC.state_size)
        others = [name for name in self.names if name not in TASKS[task].entities]
        for _ in range(min(rng.integers(self.least, self.most + 1), len(others))):
            name = others.pop(rng.integers(len(others)))
            low, high, turn = BOXES[name]
            numbers[ENTITY[name]] = [*rng.uniform(low, high), *turn]
        return numbers
