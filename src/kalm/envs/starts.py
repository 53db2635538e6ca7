"""Where episodes begin: the instruction's own initial state, or one that the world draws from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kalm.envs.base import World
from kalm.errors import KalmError
from kalm.types import Instruction


def initial_states(
    world: World, instructions: Sequence[Instruction], seeds: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Return the state in which each of N episodes begins: -> (N, S) float64.

    Args:
        world: draws states.
        instructions: N instructions; one that carries a state begins there.
        seeds: (N,) seeds, one per instruction.

    Raises:
        KalmError: an instruction's own state has the wrong number of numbers.
    """
    size = world.spec.state_size
    states = np.zeros((len(instructions), size))
    drawn = np.array([instruction.state is None for instruction in instructions], dtype=bool)
    if drawn.any():
        states[drawn] = world.initial_states(np.asarray(seeds)[drawn])
    for row, instruction in enumerate(instructions):
        if instruction.state is None:
            continue
        if len(instruction.state) != size:
            raise KalmError(
                f"instruction {instruction.text!r}: its state has {len(instruction.state)} numbers, "
                f"the world {world.spec.name!r} has {size}."
            )
        states[row] = instruction.state
    return states
