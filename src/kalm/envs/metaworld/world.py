"""Meta-World: a Sawyer arm and 22 tasks on one table, one state vector for all of them.

Unusual: a state does not say all that the physics needs, so episodes begin at a goal and a seed and nowhere
else. The package metaworld is loaded by the first simulator or expert; verdicts and rewards never need it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from kalm.envs.base import Judge
from kalm.envs.metaworld import keywords, plans, plausibility, sentences
from kalm.envs.metaworld.distractors import Distractors, When
from kalm.envs.metaworld.goals import MetaWorldJudge, parse_goal
from kalm.envs.metaworld.render import render
from kalm.envs.metaworld.spec import ENTITIES, SPEC
from kalm.errors import KalmError
from kalm.types import Conditions, Goal, Instruction

if TYPE_CHECKING:
    from kalm.envs.metaworld.expert import MetaWorldExpert
    from kalm.envs.metaworld.simulator import MetaWorldSimulator

INSTALL = "pip install 'kalm[metaworld]'"


class MetaWorld:
    """The Meta-World world (`kalm.envs.base.World`).

    Args:
        distractor: in tests an entity that is not part of the task shows up, drawn once per ``"episode"``, or
            anew at every ``"step"``, or ``"none"``.
        distractors: which entities may.

    Raises:
        KalmError: an option has an unknown value, or the package metaworld is not installed.
    """

    scene = "a robot arm and the things on its table"
    restorable = False
    patience = 50  # tasks take 30 to 60, and the second of two cannot be done before the first

    def __init__(self, distractor: When = "episode", distractors: Sequence[str] = ENTITIES) -> None:
        if find_spec("metaworld") is None:
            raise KalmError(
                f"the environment 'metaworld' needs the package of that name. Install it: {INSTALL}."
            )
        self.spec = SPEC
        drawn = Distractors(distractor, distractors)
        self._distractors = None if distractor == "none" else drawn

    def suite(self, level: str) -> tuple[Instruction, ...]:
        """Return all instructions of a level, in a fixed order. Raises KalmError for an unknown level."""
        return sentences.suite(level)

    def parse_goal(self, data: Mapping[str, object]) -> Goal:
        """Return the checked goal of a JSON object. Raises KalmError that names the wrong slot."""
        return parse_goal(data)

    def judge(self, goals: Sequence[Goal]) -> MetaWorldJudge:
        """Compile goals into arrays for verdicts and rewards."""
        return MetaWorldJudge(goals)

    def counterfactuals(self, goal: Goal) -> tuple[Goal, ...]:
        """Return none: what tells tasks on the same things apart is the target location in the state."""
        return plans.counterfactuals(goal)

    def plan_of(self, goal: Goal) -> tuple[Goal, ...]:
        """Return the tasks of the data that make up a task; none where it needs a skill that they lack."""
        return plans.plan_of(goal)

    def goal_of(self, steps: Sequence[Goal]) -> Goal | None:
        """Return the task that tasks of the data make up, if one."""
        return plans.goal_of(steps)

    def is_plan(self, steps: Sequence[Goal], goal: Goal) -> bool:
        """Whether these tasks of the data, in this order, are what a task asks for."""
        return tuple(steps) == self.plan_of(goal)

    def in_scene(self, goals: Sequence[Goal], states: np.ndarray) -> np.ndarray:
        """Whether the things of tasks are there; those that are not are zeros: N tasks, (N, 91) -> (N,)."""
        return plans.in_scene(goals, states)

    def holds(self, judge: Judge, states: np.ndarray) -> np.ndarray:
        """Whether tasks are done in these states: (N, 91) -> (N,) bool.

        The first task of two is, too, where the target location has moved on to the second's.
        """
        return judge.reached(states, states) | plans.moved_on(judge.goals, states)

    def next_stage(self, judge: Judge, states: np.ndarray) -> np.ndarray:
        """Move the target location on where the first of two tasks is done: (N, 91) -> (N, 91)."""
        assert isinstance(judge, MetaWorldJudge), type(judge)
        return judge.next_stage(states)

    def explains(self, text: str, goal: Goal) -> dict[str, bool]:
        """Whether a sentence says what a goal asks, by keywords."""
        return keywords.explains(text, goal)

    def simulator(self, n: int, threads: int = 1, conditions: Conditions = "plain") -> MetaWorldSimulator:
        """Return n rows stepping over this many threads; tests add a distractor, varied ones up to two."""
        from kalm.envs.metaworld.simulator import MetaWorldSimulator

        others = None if conditions == "plain" else self._distractors
        if others is not None and conditions == "varied":
            others = others.varied()
        return MetaWorldSimulator(n, threads, others)

    def expert(self, noise: float = 0.0) -> MetaWorldExpert:
        """Return the behaviour policy; `noise` is the probability of a uniformly random action."""
        from kalm.envs.metaworld.expert import MetaWorldExpert

        return MetaWorldExpert(noise)

    def initial_states(
        self, goals: Sequence[Goal], seeds: Sequence[int] | np.ndarray, conditions: Conditions = "plain"
    ) -> np.ndarray:
        """Draw initial states, one per goal and seed: -> (len(seeds), 91) float64."""
        simulator = self.simulator(max(len(goals), 1), conditions=conditions)
        return simulator.reset(goals, seeds, np.arange(len(goals)))

    def violations(self, states: np.ndarray) -> dict[str, np.ndarray]:
        """Name what is impossible in (N, 91) states: measure name -> (N,) bool."""
        return plausibility.violations(states)

    def motion(
        self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Plausibility of N transitions: measure name -> (N,) float32."""
        return plausibility.motion(states, actions, next_states)

    def render(self, state: np.ndarray, size: int = 256) -> np.ndarray:
        """Draw one state, seen from the front and above: (91,) -> (size, size, 3) uint8, top row first."""
        return render(state, size)
