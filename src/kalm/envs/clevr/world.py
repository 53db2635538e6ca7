"""CLEVR-Robot: five balls on a table, one push per action. The world that the paper measures on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kalm.envs.base import Judge
from kalm.envs.clevr import keywords, plans, plausibility, sentences, simulator
from kalm.envs.clevr.expert import ClevrExpert
from kalm.envs.clevr.goals import REWARD_FORMS, ClevrJudge, RewardForm, parse_goal
from kalm.envs.clevr.published import PUBLISHED
from kalm.envs.clevr.simulator import PHYSICS, ClevrSimulator, Physics
from kalm.envs.clevr.spec import SPEC
from kalm.errors import unknown
from kalm.types import Conditions, Goal, Instruction


class ClevrWorld:
    """The CLEVR-Robot world (`kalm.envs.base.World`).

    Args:
        physics: ``"paper"`` replays the paper's data; ``"mujoco3"`` is MuJoCo 3 uncorrected (softer).
        reward: what a relation's reward measures, ``"point"`` or ``"distance"`` (`ClevrJudge`).

    Raises:
        KalmError: an option has an unknown value.
    """

    scene = "five balls with different colours"
    restorable = True
    patience = 8  # the expert needs three or four
    published = PUBLISHED

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
        return sentences.suite(level)

    def parse_goal(self, data: Mapping[str, object]) -> Goal:
        """Return the checked goal of a JSON object. Raises KalmError that names the wrong slot."""
        return parse_goal(data)

    def judge(self, goals: Sequence[Goal]) -> ClevrJudge:
        """Compile goals into arrays for verdicts and rewards."""
        return ClevrJudge(goals, self.reward)

    def counterfactuals(self, goal: Goal) -> tuple[Goal, ...]:
        """Return the goal with its directions turned round; for a gathering, those around other balls."""
        return plans.counterfactuals(goal)

    def plan_of(self, goal: Goal) -> tuple[Goal, ...]:
        """Return the relations that make up a goal; none for a move."""
        return plans.plan_of(goal)

    def goal_of(self, steps: Sequence[Goal]) -> Goal | None:
        """Return the relation, composition, line or gathering that relations make up, if one."""
        return plans.goal_of(steps)

    def is_plan(self, steps: Sequence[Goal], goal: Goal) -> bool:
        """Whether these relations are what a goal asks for, in any order."""
        return plans.is_plan(steps, goal)

    def in_scene(self, goals: Sequence[Goal], states: np.ndarray) -> np.ndarray:
        """All of them: every table has the same balls: -> (N,) bool."""
        return np.ones(len(goals), dtype=bool)

    def holds(self, judge: Judge, states: np.ndarray) -> np.ndarray:
        """Whether relations hold in these states: (N, 10) -> (N,) bool."""
        return judge.reached(states, states)

    def next_stage(self, judge: Judge, states: np.ndarray) -> np.ndarray:
        """Return the states as they are: (N, 10) -> (N, 10)."""
        return states

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
        return simulator.initial_states(seeds)

    def violations(self, states: np.ndarray) -> dict[str, np.ndarray]:
        """Name what is impossible in (N, 10) states: measure name -> (N,) bool."""
        return plausibility.violations(states)

    def motion(
        self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Plausibility of N transitions: measure name -> (N,) float32."""
        return plausibility.motion(states, actions, next_states)

    def render(self, state: np.ndarray, size: int = 256) -> np.ndarray:
        """Draw one state, seen from the front and above: (10,) -> (size, size, 3) uint8, top row first."""
        from kalm.envs.clevr.render import render

        return render(state, size)
