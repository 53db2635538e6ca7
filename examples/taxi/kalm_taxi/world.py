"""Gymnasium's Taxi with goals in words: everything that `kalm.envs.base.World` asks for.

A taxi drives on 5 x 5 fields with a few walls; a passenger waits at one of four coloured stands. Seen goals
are to drive to a stand and to pick up the passenger; easy ones are both at once; in hard ones the passenger
is let out in the end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import yaml

from kalm.envs.base import TOO_LARGE
from kalm.errors import KalmError, unknown
from kalm.types import LEVELS, Goal, Instruction, WorldSpec
from kalm_taxi.rules import ACTIONS, KINDS, NAMES, NEXT, STANDS, STATES, WALLS, left, nearest

SAID = {"drive": {"drive"}, "collect": {"pick", "picked"}}  # keywords of the seen sentences
COLOURS = ((214, 69, 65), (63, 160, 92), (228, 190, 60), (64, 105, 190))  # of the stands


class TaxiJudge:
    """Verdicts and rewards for N goals, one per row."""

    def __init__(self, goals: Sequence[Goal]) -> None:
        self.goals = tuple(goals)
        self.one_step = np.zeros(len(self.goals), dtype=bool)
        known = list(dict.fromkeys(self.goals))
        self.table = np.array([left(goal) for goal in known]).reshape(-1, len(STATES))  # (G, 125)
        self.row = np.array([known.index(goal) for goal in self.goals], dtype=np.int64)  # (N,) row of `table`

    def _left(self, states: np.ndarray) -> np.ndarray:
        return self.table[self.row, nearest(states)]

    def success(self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Whether each transition reaches its goal, which the next state alone decides here."""
        return self.reached(states, next_states)

    def reached(self, states: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """Return the verdict on the states alone."""
        return self._left(next_states) == 0

    def reward(self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray) -> np.ndarray:
        """100 for reaching the goal, else the number of actions gained."""
        gained = self._left(states) - self._left(next_states)
        return np.where(self._left(next_states) == 0, 100.0, gained).astype(np.float32)

    def violations(self, states: np.ndarray, next_states: np.ndarray) -> dict[str, np.ndarray]:
        """Nothing: what is possible is the same for all goals."""
        return {}

    def take(self, rows: np.ndarray) -> TaxiJudge:
        """Return the judge of these rows."""
        judge = copy(self)
        judge.goals = tuple(self.goals[row] for row in rows)
        judge.one_step, judge.row = self.one_step[rows], self.row[rows]
        return judge


class TaxiSimulator:
    """N taxis that step together: looking up the next state is all the physics there is."""

    def __init__(self, n: int) -> None:
        self.at = np.zeros(n, dtype=np.int64)  # rows of `STATES`

    def _rows(self, rows: np.ndarray | None) -> np.ndarray:
        return np.arange(len(self.at)) if rows is None else rows

    def reset(
        self, goals: Sequence[Goal], seeds: Sequence[int], rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Begin episodes in these rows."""
        self.at[self._rows(rows)] = [_start(goal, seed) for goal, seed in zip(goals, seeds, strict=True)]
        return STATES[self.at[self._rows(rows)]]

    def set_states(self, states: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Put these rows into the possible states nearest to the given ones."""
        self.at[self._rows(rows)] = nearest(states)

    def step(self, actions: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Take one action in each of these rows."""
        rows = self._rows(rows)
        self.at[rows] = NEXT[self.at[rows], actions]
        return STATES[self.at[rows]]

    def close(self) -> None:
        """Nothing to release."""


class TaxiExpert:
    """Takes a shortest way to the goal; with probability `noise` any action."""

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def act(self, states: np.ndarray, judge: TaxiJudge, rng: np.random.Generator) -> np.ndarray:
        """Actions for N states and their goals."""
        best = judge.table[judge.row[:, None], NEXT[nearest(states)]].argmin(axis=1)  # (N, 6) -> (N,)
        random = rng.random(len(states)) < self.noise
        return np.where(random, rng.integers(ACTIONS, size=len(states)), best)


class TaxiWorld:
    """The taxi world (`kalm.envs.base.World`)."""

    spec = WorldSpec(name="taxi", state_names=NAMES, action_kind="discrete", action_size=ACTIONS, horizon=40)
    scene = "a taxi on a small map with four coloured stands, and a passenger"
    restorable = True

    def suite(self, level: str) -> tuple[Instruction, ...]:
        """Return all instructions of a level, in a fixed order."""
        return _suite(level)

    def parse_goal(self, data: Mapping[str, Any]) -> Goal:
        """Return the checked goal of a JSON object."""
        if not isinstance(data, Mapping) or data.get("kind") not in KINDS:
            raise KalmError(
                f"a taxi goal is an object whose kind is one of {', '.join(KINDS)}; got {data!r}."
            )
        slots = {name: value for name, value in data.items() if name != "kind"}
        if set(slots) != set(KINDS[data["kind"]]):
            raise KalmError(
                f"a goal of kind {data['kind']!r} has the slots {KINDS[data['kind']]}; got {slots}."
            )
        if "to" in slots and slots["to"] not in STANDS:
            raise unknown("stand", slots["to"], STANDS)
        return Goal.of(data["kind"], **slots)

    def judge(self, goals: Sequence[Goal]) -> TaxiJudge:
        """Compile goals for verdicts and rewards."""
        return TaxiJudge(goals)

    def explains(self, text: str, goal: Goal) -> dict[str, bool]:
        """Whether a sentence says what to do, and where if that is asked; goals of other levels: nothing."""
        if goal.kind not in SAID:
            return {}
        words = set(re.findall(r"[a-z]+", text.lower()))
        verdicts = {"action": {kind for kind, said in SAID.items() if said & words} == {goal.kind}}
        return verdicts | {slot: words & set(STANDS) == {goal[slot]} for slot in KINDS[goal.kind]}

    def simulator(self, n: int, threads: int = 1, conditions: str = "plain") -> TaxiSimulator:
        """Return n taxis; looking up is too quick for threads, and all conditions are alike."""
        return TaxiSimulator(n)

    def expert(self, noise: float) -> TaxiExpert:
        """Return the behaviour policy."""
        return TaxiExpert(noise)

    def initial_states(
        self, goals: Sequence[Goal], seeds: Sequence[int], conditions: str = "plain"
    ) -> np.ndarray:
        """Draw initial states, the same as the simulator's `reset`."""
        return STATES[[_start(goal, seed) for goal, seed in zip(goals, seeds, strict=True)]]

    def violations(self, states: np.ndarray) -> dict[str, np.ndarray]:
        """Name what is impossible: a state that is half a field or more from all possible ones."""
        off = np.abs(states - STATES[nearest(states)]).max(axis=1)
        return {"impossible": ~(off < 0.5)}  # asked as "not near" so that a NaN is impossible

    def motion(
        self, states: np.ndarray, actions: np.ndarray, next_states: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Plausibility of transitions: fields driven, as the rules say, further than one field."""
        before, after = nearest(states), nearest(next_states)
        driven = np.abs(next_states[:, :2] - states[:, :2]).sum(axis=1)
        lawful = NEXT[before, np.asarray(actions)] == after
        measures = {"fields_driven": driven, "as_the_rules_say": lawful, TOO_LARGE: ~(driven < 1.5)}
        return {name: np.asarray(values, dtype=np.float32) for name, values in measures.items()}

    def render(self, state: np.ndarray, size: int = 256) -> np.ndarray:
        """Draw one state: coloured stands, walls, a dark taxi, a light passenger."""
        picture = np.full((60, 60, 3), 236, dtype=np.uint8)  # 12 points per field
        picture -= np.arange(60, dtype=np.uint8)[:, None, None] // 12 * 6  # fields are told apart
        picture[::12] = picture[:, ::12] = 200
        for colour, (x, y) in zip(COLOURS, STANDS.values(), strict=True):
            picture[12 * y + 1 : 12 * y + 12, 12 * x + 1 : 12 * x + 12] = colour
        for x, y in WALLS:
            picture[12 * y : 12 * y + 12, 12 * x + 11 : 12 * x + 14] = 90
        fields = np.clip(
            np.nan_to_num(state[:4].astype(np.float64)), 0, 4
        )  # an imagined taxi may be anywhere
        places = np.rint(12 * fields + 6).astype(int).reshape(2, 2)
        for (x, y), radius, colour in zip(places, (4, 2), (40, 250), strict=True):
            picture[y - radius : y + radius, x - radius : x + radius] = colour
        grow = np.arange(size) * len(picture) // size
        return picture[grow][:, grow]


def _start(goal: Goal, seed: int) -> int:
    """Draw where an episode begins: the passenger waits at a stand, and there is something left to do."""
    possible = np.flatnonzero((STATES[:, 4] == 0) & (left(goal) > 0))
    return int(np.random.default_rng(int(seed)).choice(possible))


@cache
def _suite(level: str) -> tuple[Instruction, ...]:
    if level not in LEVELS:
        raise unknown("level", level, LEVELS)
    bank = yaml.safe_load(resources.files("kalm_taxi").joinpath("sentences.yaml").read_text("utf-8"))[level]
    return tuple(
        Instruction(
            text=pattern.format(to=to),
            level=level,
            goal=Goal.of(kind, **({"to": to} if KINDS[kind] else {})),
            wording=f"{level}/{kind}/{index}",
            held_back=level != "seen" and index % 5 == 4,
        )
        for kind, patterns in bank.items()
        for index, pattern in enumerate(patterns)
        for to in (STANDS if KINDS[kind] else ("",))
    )
