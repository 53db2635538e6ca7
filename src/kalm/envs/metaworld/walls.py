"""The walls of Meta-World's four tasks with one, and what cannot pass through them.

Unusual: the 91 numbers do not tell whether a wall is one. In tests its numbers may show up where there is
none (a distractor), and stop nothing; so the goal decides (`MetaWorldJudge.violations`). The
distances are what experts, policies and hands that press against the walls from both sides never came nearer
than in 96,000 steps, and a margin.
"""

from __future__ import annotations

import numpy as np

from kalm.envs.metaworld.reward_terms import fingertips
from kalm.envs.metaworld.spec import ENTITY

# The wall of button-press-wall is told by its own place, which is on the table; others by their middle.
RAISED = 0.03  # metres
STANDING = (0.10, 0.13, 0.025)  # half its width; up to where nothing passes; how near fingertips come
OTHERS = (0.12, 0.04, 0.0175)
BLOCK = 0.022  # how near the middle of a block comes, metres


def through_wall(states: np.ndarray, next_states: np.ndarray) -> np.ndarray:
    """Whether the fingertips or the block end in a wall or cross it: (N, 91) twice -> (N,) bool."""
    wall = states[:, ENTITY["wall"]][:, :3]
    half, top, near = np.where(wall[:, 2:] < RAISED, STANDING, OTHERS).T
    thing = ENTITY["target_object"]
    tips = fingertips(states) - wall, fingertips(next_states) - wall
    block = states[:, thing][:, :3] - wall, next_states[:, thing][:, :3] - wall
    return _inside(*tips, half, top, near) | _inside(*block, half, top, BLOCK)


def _inside(
    before: np.ndarray, after: np.ndarray, half: np.ndarray, top: np.ndarray, near: np.ndarray | float
) -> np.ndarray:
    """Whether a point that goes straight is in the wall at its end, or where it crosses the middle.

    Args:
        before: (N, 3) from the wall's place.
        after: (N, 3) likewise.
        half: (N,) half the wall's width.
        top: (N,) its height.
        near: (N,) or one, half its thickness, and the thing's.
    """
    crosses = before[:, 1] * after[:, 1] < 0
    covered = np.divide(before[:, 1], before[:, 1] - after[:, 1], out=np.ones(len(before)), where=crosses)
    at = before + covered[:, None] * (after - before)
    return (np.abs(at[:, 0]) < half) & (at[:, 2] < top) & (np.abs(at[:, 1]) < near)
