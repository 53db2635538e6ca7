"""Where episodes begin: the instruction's own initial state, or one that the world draws from a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kalm.envs.base import Simulator, World
from kalm.errors import KalmError
from kalm.types import Conditions, Instruction


def begin(
    simulator: Simulator,
    world: World,
    instructions: Sequence[Instruction],
    seeds: Sequence[int] | np.ndarray,
    rows: np.ndarray | None = None,
) -> np.ndarray:
    """Begin N episodes of a simulator, by default one in each of its rows: -> (N, S) float64.

    Args:
        simulator: of this world.
        world: where.
        instructions: N instructions; one that carries a state begins there.
        seeds: (N,) seeds, one per instruction.
        rows: (N,) where.

    Raises:
        KalmError: an instruction's own state does not fit, or the world cannot be put into states.
    """
    rows = np.arange(len(instructions)) if rows is None else np.asarray(rows)
    own, drawn, states = _own_states(world, instructions)
    if len(drawn):
        goals = [instructions[i].goal for i in drawn]
        states[drawn] = simulator.reset(goals, np.asarray(seeds)[drawn], rows[drawn])
    if len(own):
        simulator.set_states(states[own], rows[own])
    return states


def initial_states(
    world: World,
    instructions: Sequence[Instruction],
    seeds: Sequence[int] | np.ndarray,
    conditions: Conditions = "plain",
) -> np.ndarray:
    """Return the states in which such episodes begin: -> (N, S) float64.

    Raises:
        KalmError: an instruction's own state does not fit.
    """
    _, drawn, states = _own_states(world, instructions)
    if len(drawn):
        goals = [instructions[i].goal for i in drawn]
        states[drawn] = world.initial_states(goals, np.asarray(seeds)[drawn], conditions)
    return states


def _own_states(
    world: World, instructions: Sequence[Instruction]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which instructions carry a state, which do not, and the states of the former: (N, S)."""
    size = world.spec.state_size
    states = np.zeros((len(instructions), size))
    carries = np.array([instruction.state is not None for instruction in instructions], dtype=bool)
    for row, instruction in enumerate(instructions):
        own = instruction.state
        if own is None:
            continue
        if len(own) != size:
            raise KalmError(
                f"instruction {instruction.text!r}: its state has {len(own)} numbers, "
                f"the world {world.spec.name!r} has {size}."
            )
        states[row] = own
    return np.flatnonzero(carries), np.flatnonzero(~carries), states
