"""CLEVR-Robot: five balls on a table, one push per action. The world that the paper measures on.

What is possible is judged from positions alone, so that imagined states can be measured as well as real
ones: a ball beside the table, two balls inside each other, a step longer than any push makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from kalm.envs import clevr_physics as physics_of
from kalm.envs.base import TOO_LARGE
from kalm.envs.clevr_experts import ClevrExpert
from kalm.envs.clevr_physics import PHYSICS, ClevrSimulator, Physics
from kalm.envs.clevr_render import render
from kalm.errors import unknown
from kalm.goals import clevr as goals_of
from kalm.goals import keywords, suites
from kalm.goals.clevr import ACTIONS, BALLS, PUSHES, REWARD_FORMS, RewardForm
from kalm.types import Conditions, Entity, Goal, Instruction, WorldSpec

CLOSEST = 0.18  # two centres nearer than this interpenetrate by more than 8 cm
STILL = 1e-3  # a ball that goes no further has not moved
LONGEST_STEP = 0.452  # no ball goes further in one action

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
_PAIRS = np.array(list(combinations(range(len(BALLS)), 2)))  # (10, 2)


class ClevrWorld:
    """The CLEVR-Robot world (`kalm.envs.base.World`).

    Args:
        physics: ``"paper"`` replays the paper's data; ``"mujoco3"`` is MuJoCo 3 uncorrected (softer).
        reward: what a relation's reward measures, ``"point"`` or ``"distance"`` (`kalm.goals.clevr.Judge`).

    Raises:
        KalmError: an option has an unknown value.
    """

    scene = "five balls with different colours"
    restorable = True

    def __init__(self, physics: Physics = "paper", reward: RewardForm = "point") -> None:
        if physics not in PHYSICS:
            raise unknown("physics", physics, PHYSICS)
        if reward not in REWARD_FORMS:
            raise unknown("reward", reward, REWARD_FORMS)
        self.spec = SPEC
        self.physics: Physics = physics
        self.reward: RewardForm = reward

    def suite(self, level: str) -> tuple[Instruction, ...]:
        """Return all instructions of a level, in a fixed order. Raises KalmError for an unknown level."""
        return suites.suite(SPEC.name, level)

    def parse_goal(self, data: Mapping[str, Any]) -> Goal:
        """Return the checked goal of a JSON object. Raises KalmError that names the wrong slot."""
        return goals_of.parse_goal(data)

    def judge(self, goals: Sequence[Goal]) -> goals_of.Judge:
        """Compile goals into arrays for verdicts and rewards."""
        return goals_of.Judge(goals, self.reward)

    def explains(self, text: str, goal: Goal) -> dict[str, bool]:
        """Whether a sentence says what a goal asks: verdicts on object, direction and reference object."""
        return keywords.explains(text, goal)

    def simulator(self, n: int, threads: int = 1, conditions: Conditions = "plain") -> ClevrSimulator:
        """Return n tables stepping over this many threads; all conditions are alike."""
        return ClevrSimulator(n, self.physics, threads)

    def expert(self, noise: float = 0.0) -> ClevrExpert:
        """Return the behaviour policy; `noise` is the probability of a uniformly random action."""
        return ClevrExpert(noise)

    def initial_states(
        self, goals: Sequence[Goal], seeds: Sequence[int] | np.ndarray, conditions: Conditions = "plain"
    ) -> np.ndarray:
        """Draw initial states, one per seed, whatever the goal: -> (len(seeds), 10) float64, metres."""
        return physics_of.initial_states(seeds)

    def violations(self, states: np.ndarray) -> dict[str, np.ndarray]:
        """Name what is impossible in (N, 10) states: -> off_table, interpenetrating, each (N,) bool."""
        balls = _positions(states)
        low, high = np.array([physics_of.TABLE_X, physics_of.TABLE_Y]).T  # (2,) each
        # Asked as "not inside" so that a NaN is off the table.
        off = ~((balls >= low) & (balls <= high)).all(axis=(1, 2))
        gaps = balls[:, _PAIRS[:, 0]] - balls[:, _PAIRS[:, 1]]  # (N, 10, 2)
        return {"off_table": off, "interpenetrating": (np.hypot(*gaps.T) < CLOSEST).any(axis=0)}

    def motion(
        self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Plausibility of N transitions: measure name -> (N,) float32.

        moving_balls: how many balls go more than 1 mm. pushed_moves_most: 1 where no ball goes further than
        the one pushed. step_too_large: 1 where a ball goes further than any push makes it (0.452 m).
        """
        moved = _positions(next_states) - _positions(states)
        lengths = np.hypot(moved[..., 0], moved[..., 1])  # (N, 5)
        pushed = lengths[np.arange(len(lengths)), np.asarray(actions) // len(PUSHES)]  # (N,)
        measures = {
            "moving_balls": (lengths > STILL).sum(axis=1),
            "pushed_moves_most": pushed >= lengths.max(axis=1),
            TOO_LARGE: ~(lengths <= LONGEST_STEP).all(axis=1),
        }
        return {name: np.asarray(values, dtype=np.float32) for name, values in measures.items()}

    def render(self, state: np.ndarray, size: int = 256) -> np.ndarray:
        """Draw one state, seen from the front and above: (10,) -> (size, size, 3) uint8, top row first."""
        return render(state, size)


def _positions(states: np.ndarray) -> np.ndarray:
    """Return ball positions: (N, 10) -> (N, 5, 2) float64."""
    assert states.ndim == 2 and states.shape[1] == 2 * len(BALLS), states.shape
    return np.asarray(states, dtype=np.float64).reshape(-1, len(BALLS), 2)
