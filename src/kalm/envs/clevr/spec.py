"""CLEVR-Robot in names and numbers: balls, directions, actions, the state vector."""

from __future__ import annotations

import numpy as np

from kalm.types import Entity, WorldSpec

BALLS = ("red", "blue", "green", "purple", "cyan")
DIRECTIONS = ("behind", "left", "front", "right")
# Action 8 * ball + push: the ball is pushed along PUSHES[push].
_DIAGONALS = [[0.8, 0.8], [-0.8, 0.8], [0.8, -0.8], [-0.8, -0.8]]
PUSHES = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], *_DIAGONALS])  # (8, 2)
ARROWS = np.array([[0.0, 1], [-1, 0], [0, -1], [1, 0]])  # (4, 2) unit vector of each direction
HELPS = ARROWS @ PUSHES.T > 0  # (4, 8) bool: this push has a component in this direction
ACTIONS = len(BALLS) * len(PUSHES)
SPEC = WorldSpec(
    name="clevr",
    state_names=tuple(f"{ball}_{axis}" for ball in BALLS for axis in "xy"),
    action_kind="discrete",
    action_size=ACTIONS,
    horizon=50,
    entities=tuple(
        Entity(
            f"{ball} ball", (2 * i, 2 * i + 1), "ball", tuple(range(len(PUSHES) * i, len(PUSHES) * (i + 1)))
        )
        for i, ball in enumerate(BALLS)
    ),
)
