"""What can be in Meta-World and what cannot, told from the 91 numbers: for real and for imagined states.

Unusual: nothing here is derived from the models. The bounds are what rollouts of experts and random actions
showed, in all 22 tasks, and a margin; so a state that breaks one is far from any that was seen. Only what is
there counts: an absent entity is all zeros.
"""

from __future__ import annotations

import numpy as np

from kalm.envs.base import TOO_LARGE
from kalm.envs.metaworld.reward_terms import fingertips, length
from kalm.envs.metaworld.spec import ENTITIES, ENTITY, GRIPPER, SPEC, TARGET

Range = tuple[float, float]

STILL = 1e-3  # metres: an entity that goes no further has not moved
GRIPPER_SPACE = np.array([[-0.525, 0.348, 0.02], [0.525, 1.025, 0.55]])  # (2, 3) lower and upper corner
OPENING = np.array([0.2, 1.05])  # shown are 0.26, fingers that touch, to 1
# Where entities can be: x, y, z in metres.
PLACES: dict[str, tuple[Range, Range, Range]] = {
    "target_object": ((-0.6, 0.6), (0.3, 1.1), (0.0, 0.5)),
    "button": ((-0.15, 0.15), (0.6, 0.85), (0.1, 0.13)),
    "lock": ((-0.4, 0.4), (0.3, 0.8), (0.08, 0.32)),
    "handle": ((-0.5, 0.4), (0.2, 0.85), (0.07, 0.18)),
    "window": ((-0.2, 0.3), (0.55, 0.9), (0.14, 0.22)),
    "faucet": ((-0.35, 0.35), (0.55, 1.0), (0.09, 0.15)),
    "wall": ((-0.1, 0.3), (0.6, 0.9), (-0.05, 0.2)),
    "coffee": ((-0.6, 0.6), (0.3, 1.1), (-0.03, 0.5)),
    "coffee-button": ((-0.15, 0.15), (0.53, 0.87), (0.28, 0.32)),
    "hammer": ((-0.6, 0.6), (0.25, 1.0), (-0.02, 0.5)),
    "nail": ((0.22, 0.26), (0.62, 0.76), (0.1, 0.12)),
    "soccer": ((-0.8, 0.8), (0.3, 1.1), (-0.02, 0.5)),
}
# Loose things lie no higher than this unless they are held, metres.
LYING = {"target_object": 0.05, "coffee": 0.07, "hammer": 0.07, "soccer": 0.07}
HELD = 0.16  # from the fingertips; a hammer is held far from its middle, a ball is knocked away
GRIPPER_STEP = 0.08  # the arm trails what it is told and snaps after when something lets it go
ENTITY_STEP = 0.05
SAME = 1e-5  # metres: single precision moves a target location by less


def violations(states: np.ndarray) -> dict[str, np.ndarray]:
    """Name what is impossible in (N, 91) states: measure name -> (N,) bool.

    floating: a loose thing is in the air and not at the gripper. off_workbench: an entity is where none of
    its kind can be. impossible_gripper: the hand is out of its space or in the table, or its opening is none.
    """
    states, there = _checked(states), present(states)
    gripper = states[:, GRIPPER]
    # Asked as "not inside", so that a NaN is a violation.
    hand = _inside(gripper[:, :3], *GRIPPER_SPACE) & _inside(gripper[:, 3:], *OPENING[:, None])
    floating, off = np.zeros(len(states), dtype=bool), np.zeros(len(states), dtype=bool)
    for i, name in enumerate(ENTITIES):
        numbers = states[:, ENTITY[name]]
        low, high = np.array(PLACES[name]).T
        off |= there[:, i] & ~(_inside(numbers[:, :3], low, high) & np.isfinite(numbers).all(axis=1))
        if name in LYING:
            held = length(numbers[:, :3] - fingertips(states)) <= HELD
            floating |= there[:, i] & ~((numbers[:, 2] <= LYING[name]) | held)
    return {"floating": floating, "off_workbench": off, "impossible_gripper": ~hand}


def motion(states: np.ndarray, actions: np.ndarray, next_states: np.ndarray) -> dict[str, np.ndarray]:
    """Plausibility of N transitions: measure name -> (N,) float32.

    moving_entities: how many entities go more than 1 mm. step_too_large: 1 where the gripper or an entity
    goes further than in any real step, an entity comes or goes, or the target location moves, which it only
    does in composed tasks (a mug and a button, a lock and a handle).
    """
    states, next_states = _checked(states), _checked(next_states)
    there, still_there = present(states), present(next_states)
    moved = _places(next_states) - _places(states)  # (N, 12, 3)
    steps = np.where(there & still_there, length(moved), 0.0)  # (N, 12)
    hand = length(next_states[:, :3] - states[:, :3])
    aim = np.abs(next_states[:, TARGET] - states[:, TARGET]).max(axis=1)
    possible = (hand <= GRIPPER_STEP) & (steps <= ENTITY_STEP).all(axis=1)
    possible &= (there == still_there).all(axis=1) & ((aim <= SAME) | _composed(there))
    measures = {"moving_entities": (steps > STILL).sum(axis=1), TOO_LARGE: ~possible}
    return {name: np.asarray(values, dtype=np.float32) for name, values in measures.items()}


def present(states: np.ndarray) -> np.ndarray:
    """Say which entities are there, i.e. not all zeros: (N, 91) -> (N, 12) bool, as in `ENTITIES`."""
    return (states[:, TARGET.stop :].reshape(len(states), len(ENTITIES), 7) != 0).any(axis=2)


def _composed(there: np.ndarray) -> np.ndarray:
    """Say which states may be of a composed task: (N, 12) -> (N,) bool."""
    mug, machine, lock, handle = (
        there[:, ENTITIES.index(name)] for name in ("coffee", "coffee-button", "lock", "handle")
    )
    return np.asarray((mug & machine) | (lock & handle))


def _inside(numbers: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.all((numbers >= low) & (numbers <= high), axis=1)


def _places(states: np.ndarray) -> np.ndarray:
    """Return where all entities are: (N, 91) -> (N, 12, 3)."""
    return states[:, TARGET.stop :].reshape(len(states), len(ENTITIES), 7)[..., :3]


def _checked(states: np.ndarray) -> np.ndarray:
    assert states.ndim == 2 and states.shape[1] == SPEC.state_size, states.shape
    return np.asarray(states, dtype=np.float64)
