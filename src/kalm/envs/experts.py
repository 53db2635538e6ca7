"""Behaviour policies: who plays the worlds when data are collected.

The CLEVR-Robot expert looks one action ahead. It predicts all 40 pushes with a few lines of geometry, values
every predicted arrangement by how many metres of pushing the goal still needs, and takes the best. It is
stateless and draws nothing unless noise is asked for, so that a policy can imitate it from positions alone.
"""

from __future__ import annotations

import numpy as np

from kalm.errors import KalmError
from kalm.goals import clevr as goals_of
from kalm.goals.clevr import ACTIONS, ARROWS, BALLS, NEAR, NOTHING, PUSHES, STEP, Judge

TOUCH = 0.26  # distance of two balls in contact
LOW, HIGH = np.array([-0.468, -0.168]), np.array([0.468, 0.568])  # where the walls let centres go
STEP_LENGTH = np.where((PUSHES**2).sum(axis=1) > 1, 0.284, 0.262)  # (8,) metres of an unhindered push
HEADING = PUSHES / np.linalg.norm(PUSHES, axis=1, keepdims=True)  # (8, 2)
SHARE = 0.62  # of an unhindered speed, when two balls are pushed at once


def predict(states: np.ndarray, ball: np.ndarray, push: np.ndarray) -> np.ndarray:
    """Predict positions after pushes: (..., 5, 2), (...), (...) -> (..., 5, 2)."""
    lead = np.take_along_axis(states, ball[..., None, None], axis=-2)  # (..., 1, 2)
    u = HEADING[push][..., None, :]
    length = STEP_LENGTH[push][..., None]  # (..., 1)
    mine = np.arange(len(BALLS)) == ball[..., None]  # (..., 5)
    # the pusher's start pushes away what lies behind
    hand = lead - 0.15 * PUSHES[push][..., None, :]
    gap = states - hand
    dist = np.maximum(np.hypot(gap[..., 0], gap[..., 1]), 1e-9)
    shove = np.where(mine, 0.0, np.maximum(0.18 - dist, 0.0) / dist)
    after = states + shove[..., None] * gap
    offset = states - lead
    along = (offset * u).sum(-1)
    across2 = (offset**2).sum(-1) - along**2
    reach = along - np.sqrt(np.maximum(TOUCH**2 - across2, 0.0))
    blocked = (across2 < TOUCH**2) & (along > 0) & ~mine
    reach = np.where(blocked, np.maximum(reach, 0.0), np.inf)
    first = reach.argmin(-1)
    free = np.minimum(np.take_along_axis(reach, first[..., None], -1), length)  # (...,1)
    rest = (length - free)
    met = np.take_along_axis(offset, first[..., None, None], -2)[..., 0, :] - free * u[..., 0, :]
    n = met / np.maximum(np.hypot(met[..., 0], met[..., 1]), 1e-9)[..., None]
    press = (n * u[..., 0, :]).sum(-1, keepdims=True)  # (...,1)
    carried = SHARE * rest * press * n
    lead_move = free * u[..., 0, :] + rest * (u[..., 0, :] - (1 - SHARE) * press * n)
    hit = rest > 0
    other = (np.arange(len(BALLS)) == first[..., None]) & hit & ~mine
    after = after + np.where(other[..., None], carried[..., None, :], 0.0)
    after = after + np.where(mine[..., None], lead_move[..., None, :], 0.0)
    return np.clip(after, LOW, HIGH)
