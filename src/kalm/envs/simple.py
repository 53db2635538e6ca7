"""A world to inherit from: what most small worlds would write alike.

It reads the sentences, checks goals and draws a plain picture, so that a world of one's own says only what is
special about it. Every method can be replaced, and nothing asks for this class: what counts is the protocol
(`kalm.envs.base.World`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from copy import copy
from functools import cached_property
from importlib.resources.abc import Traversable
from itertools import product
from typing import Self

import numpy as np
import yaml

from kalm.envs.base import Expert, Judge, Published, Simulator
from kalm.envs.sentences import held_back, plain_steps, split_of
from kalm.errors import KalmError, unknown
from kalm.types import LEVELS, Conditions, Goal, Instruction, WorldSpec


class SimpleWorld:
    """All of a world but its physics, its verdicts and its behaviour policy.

    Attributes:
        spec: sizes and names.
        scene: what it is about, in words: completes "you are playing a game of ...".
        kinds: kind of goal -> slot -> values that it may have.
        sentences: YAML file, level -> kind -> wordings, in which ``{slot}`` stands for the slot's value.
        restorable: a state says all that the physics needs.
        patience: actions that a step of a plan may take before another one has its turn.
        published: numbers of others to stand beside ours in reports, if there are any.
    """

    spec: WorldSpec
    scene: str
    kinds: Mapping[str, Mapping[str, Collection[str]]]
    sentences: Traversable
    restorable = True
    patience = 8
    published: Published | None = None

    def judge(self, goals: Sequence[Goal]) -> Judge:
        """Compile goals for verdicts and rewards (`kalm.envs.simple.RowJudge` is half of one)."""
        raise NotImplementedError

    def simulator(self, n: int, threads: int = 1, conditions: Conditions = "plain") -> Simulator:
        """Return n environments that step together."""
        raise NotImplementedError

    def expert(self, noise: float) -> Expert:
        """Return the behaviour policy; `noise` is the probability of a uniformly random action."""
        raise NotImplementedError

    def suite(self, level: str) -> tuple[Instruction, ...]:
        """Return all instructions of a level: each wording with each value of its slots.

        Raises:
            KalmError: unknown level, or sentences of an unknown kind of goal.
        """
        if level not in LEVELS:
            raise unknown("level", level, LEVELS)
        return self._suites[level]

    @cached_property
    def _suites(self) -> dict[str, tuple[Instruction, ...]]:
        bank = yaml.safe_load(self.sentences.read_text("utf-8"))
        return {level: tuple(self._instructions(level, bank.get(level) or {})) for level in LEVELS}

    def _instructions(self, level: str, bank: Mapping[str, Sequence[str]]) -> list[Instruction]:
        found = []
        for kind, wordings in bank.items():
            if kind not in self.kinds:
                raise unknown(f"kind of goal in {self.sentences}, {level}", kind, self.kinds)
            values = [
                dict(zip(self.kinds[kind], drawn, strict=True))
                for drawn in product(*self.kinds[kind].values())
            ]
            found += [
                Instruction(
                    text=wording.format(**slots),
                    level=level,
                    goal=Goal.of(kind, **slots),
                    wording=f"{level}/{kind}/{number}",
                    held_back=held_back(level, number),
                    split=split_of(number),
                )
                for number, wording in enumerate(wordings)
                for slots in values
            ]
        return found

    def parse_goal(self, data: Mapping[str, object]) -> Goal:
        """Return the checked goal of a JSON object.

        Raises:
            KalmError: an unknown kind, other slots than it has, or a value that a slot cannot have.
        """
        if not isinstance(data, Mapping):
            raise KalmError(f"a goal is an object with a kind, got {data!r}. Known: {', '.join(self.kinds)}.")
        kind, slots = data.get("kind"), {name: value for name, value in data.items() if name != "kind"}
        if not isinstance(kind, str) or kind not in self.kinds:
            raise unknown("goal kind", kind, self.kinds)
        known = self.kinds[kind]
        if slots.keys() != known.keys():
            wanted = ", ".join(known) or "no slots"
            raise KalmError(f"a goal of kind {kind!r} needs {wanted}; got {', '.join(slots) or 'none'}.")
        for name, value in slots.items():
            if not isinstance(value, str) or value not in known[name]:
                raise unknown(f"value of goal slot {name!r}", value, known[name])
        return Goal.of(kind, **{name: slots[name] for name in known})

    def counterfactuals(self, goal: Goal) -> tuple[Goal, ...]:
        """Return the goals that differ in the value of a single slot."""
        return tuple(
            Goal.of(goal.kind, **{**dict(goal.slots), slot: value})
            for slot, values in self.kinds[goal.kind].items()
            for value in values
            if value != goal[slot]
        )

    def plan_of(self, goal: Goal) -> tuple[Goal, ...]:
        """Return the goal itself where the data have it."""
        return (goal,) if goal in plain_steps(self) else ()

    def goal_of(self, steps: Sequence[Goal]) -> Goal | None:
        """Return the step itself, where there is just one."""
        return steps[0] if len(steps) == 1 else None

    def is_plan(self, steps: Sequence[Goal], goal: Goal) -> bool:
        """Whether these steps are `plan_of` the goal."""
        return tuple(steps) == self.plan_of(goal)

    def in_scene(self, goals: Sequence[Goal], states: np.ndarray) -> np.ndarray:
        """All of them: every scene has the same things: -> (N,) bool."""
        return np.ones(len(goals), dtype=bool)

    def holds(self, judge: Judge, states: np.ndarray) -> np.ndarray:
        """Whether goals are reached in these states: (N, S) -> (N,) bool."""
        return judge.reached(states, states)

    def next_stage(self, judge: Judge, states: np.ndarray) -> np.ndarray:
        """Return the states as they are: (N, S) -> (N, S)."""
        return states

    def explains(self, text: str, goal: Goal) -> dict[str, bool]:
        """Nothing: whether a sentence tells a goal is not to be judged."""
        return {}

    def initial_states(
        self, goals: Sequence[Goal], seeds: Sequence[int] | np.ndarray, conditions: Conditions = "plain"
    ) -> np.ndarray:
        """Draw initial states as the simulator's `reset` does: -> (N, S) float64."""
        simulator = self.simulator(max(len(goals), 1), conditions=conditions)
        states = simulator.reset(goals, seeds, np.arange(len(goals)))
        simulator.close()
        return states

    def violations(self, states: np.ndarray) -> dict[str, np.ndarray]:
        """Nothing: no state is known to be impossible."""
        return {}

    def motion(
        self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Nothing: no transition is known to be impossible."""
        return {}

    def render(self, state: np.ndarray, size: int = 256) -> np.ndarray:
        """Write the numbers of one state, a line each: (S,) -> (size, size, 3) uint8."""
        from PIL import Image, ImageDraw, ImageFont

        picture = Image.new("RGB", (size, size), "white")
        height = size / max(len(state), 8)
        lines = [f"{name} {value:.3g}" for name, value in zip(self.spec.state_names, state, strict=True)]
        font = ImageFont.load_default(0.7 * height)
        ImageDraw.Draw(picture).multiline_text((4, 2), "\n".join(lines), "black", font, spacing=0.3 * height)
        return np.asarray(picture)


class RowJudge:
    """Verdicts for N goals; a subclass adds `reached` and `reward`, and says which arrays have N rows.

    Args:
        goals: one goal per row.

    Attributes:
        goals: the N goals.
        one_step: (N,) bool, false everywhere unless a subclass says otherwise.
        rows: names of all attributes that are arrays with a row per goal.
    """

    rows: tuple[str, ...] = ("one_step",)

    def __init__(self, goals: Sequence[Goal]) -> None:
        self.goals: tuple[Goal, ...] = tuple(goals)
        self.one_step: np.ndarray = np.zeros(len(self.goals), dtype=bool)

    def reached(self, states: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Return the verdict on the states alone: (N, S) twice -> (N,) bool."""
        raise NotImplementedError

    def success(self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Whether each transition reaches its goal; actions are not looked at: -> (N,) bool."""
        return self.reached(states, next_states)

    def violations(self, states: np.ndarray, next_states: np.ndarray) -> dict[str, np.ndarray]:
        """Nothing: what is possible is the same for all goals."""
        return {}

    def take(self, rows: np.ndarray) -> Self:
        """Return the judge of these rows: integer indices (repeats allowed) or an (N,) mask."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        judge = copy(self)
        judge.goals = tuple([self.goals[row] for row in rows.tolist()])
        for name in self.rows:
            setattr(judge, name, getattr(self, name)[rows])
        return judge
