"""Meta-World's behaviour policies: scripted ones, asked row by row.

Most come with the package; where those need more than 100 steps, or there is none,
`kalm.envs.metaworld.scripted` has another.

They see the 91 numbers alone, put back into the package's own observation, and remember nothing, so that a
policy which sees the same numbers can imitate them.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from kalm.envs.base import Judge, require_noise
from kalm.envs.metaworld.scripted import GAIN, OWN, View
from kalm.envs.metaworld.spec import ENTITY, GRIPPER, SPEC, TARGET, TASKS

if TYPE_CHECKING:
    from metaworld.policies.policy import Policy


class MetaWorldExpert:
    """One scripted policy per task (`kalm.envs.base.Expert`).

    Args:
        noise: probability of a uniformly random action.

    Raises:
        KalmError: noise is not a probability.
    """

    def __init__(self, noise: float = 0.0) -> None:
        require_noise(noise)
        self.noise = noise

    def act(self, states: np.ndarray, judge: Judge, rng: np.random.Generator) -> np.ndarray:
        """Actions for N states and their goals: (N, 91) -> (N, 4) float32 in [-1, 1]."""
        assert states.shape == (len(judge.goals), SPEC.state_size), (states.shape, len(judge.goals))
        tasks = [goal.kind for goal in judge.goals]
        actions = np.empty((len(states), SPEC.action_size), dtype=np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that actions are about to be clipped
            for row, task in enumerate(tasks):
                actions[row] = _action(task, states[row])
        actions = np.clip(actions, -1.0, 1.0)
        if self.noise:
            random = rng.random(len(states)) < self.noise
            actions[random] = rng.uniform(-1.0, 1.0, actions.shape).astype(np.float32)[random]
        return actions


def _action(task: str, state: np.ndarray) -> np.ndarray:
    """Return what the task's policy does, not yet clipped: (91,) -> (4,)."""
    if task in OWN:
        seen = observation(task, state)
        place, effort = OWN[task](View(seen[:3], float(seen[3]), seen[4:7], seen[11:14], seen[36:]))
        return np.append(GAIN * (place - seen[:3]), effort)
    return _policy(task).get_action(observation(task, state))


def observation(task: str, state: np.ndarray) -> np.ndarray:
    """Return the package's own observation: (91,) -> (39,); the frame before is the present one."""
    seen, entities = np.zeros(39), TASKS[task].entities
    seen[:4] = state[GRIPPER]
    for i, name in enumerate(entities):
        if name != "wall":  # which the package does not tell
            seen[4 + 7 * i : 11 + 7 * i] = state[ENTITY[name]]
    seen[18:36], seen[36:] = seen[:18], state[TARGET]
    return seen


@lru_cache(maxsize=len(TASKS))
def _policy(task: str) -> Policy:
    from metaworld.policies import ENV_POLICY_MAP

    return ENV_POLICY_MAP[f"{task}-v3"]()
