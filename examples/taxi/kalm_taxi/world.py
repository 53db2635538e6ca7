"""Gymnasium's Taxi with goals in words, a world of its own for kalm.

A taxi drives on 5 x 5 fields with a few walls; a passenger waits at one of four coloured stands. Seen
goals are to drive to a stand and to pick up the passenger; easy ones are both at once; in hard ones the
passenger is let out in the end. Only 125 states are possible, so physics, verdicts and the expert are tables.
An imagined state is seldom exactly possible: it counts as the nearest one.
"""

import re
from functools import cache
from importlib import resources

import numpy as np
from gymnasium.envs.toy_text.taxi import TaxiEnv

from kalm.envs.base import TOO_LARGE
from kalm.envs.simple import RowJudge, SimpleWorld
from kalm.types import Goal, WorldSpec

NAMES = ("taxi_x", "taxi_y", "passenger_x", "passenger_y", "riding")  # fields from the upper left; 0 or 1
STANDS = {"red": (0, 0), "green": (4, 0), "yellow": (0, 4), "blue": (3, 4)}  # x, y
COLOURS = ((214, 69, 65), (63, 160, 92), (228, 190, 60), (64, 105, 190))  # of the stands
PLACES = np.array(list(STANDS.values()))  # (4, 2)
SAID = {"drive": {"drive"}, "collect": {"pick", "picked"}}  # keywords of the seen sentences
ACTIONS = 6  # down, up, right, left, pick up, drop off
TABLE = TaxiEnv().P  # state number -> action -> [(probability, next state number, reward, over)]
# Every fourth state number: Gymnasium's own destination, which goals replace, is always the first.
NEXT = np.array([[TABLE[4 * s][a][0][1] // 4 for a in range(ACTIONS)] for s in range(len(TABLE) // 4)])


def numbers(state: int) -> tuple[int, ...]:
    taxi, place = (state // 5 % 5, state // 25), state % 5  # place: a stand, or 4 in the taxi
    return (*taxi, *(taxi if place == 4 else PLACES[place]), int(place == 4))


STATES = np.array([numbers(state) for state in range(len(NEXT))], dtype=np.float64)  # (125, 5)


def nearest(states: np.ndarray) -> np.ndarray:
    """Return the possible state nearest to each: (N, 5) -> (N,) rows of `STATES`."""
    states = np.nan_to_num(states.astype(np.float64))
    x, y = np.clip(np.rint(states[:, :2]), 0, 4).astype(np.int64).T
    far = np.abs(states[:, None, 2:4] - PLACES).sum(axis=2)  # (N, 4)
    return 25 * y + 5 * x + np.where(states[:, 4] > 0.5, len(PLACES), far.argmin(axis=1))


@cache
def left(goal: Goal) -> np.ndarray:
    """Return how many actions each possible state is from the goal: -> (125,)."""
    riding = STATES[:, 4] == 1
    taxi, passenger = (
        (STATES[:, i : i + 2] == STANDS.get(str(dict(goal.slots).get("to")), -1)).all(axis=1) for i in (0, 2)
    )
    met = {"drive": taxi, "collect": riding, "carry": taxi & riding, "deliver": passenger & ~riding}
    steps = np.where(met[goal.kind], 0.0, np.inf)
    while np.isinf(steps).any():
        steps = np.minimum(steps, 1 + steps[NEXT].min(axis=1))
    return steps


class TaxiJudge(RowJudge):
    rows = ("one_step", "row")

    def __init__(self, goals):
        super().__init__(goals)
        known = list(dict.fromkeys(self.goals))
        self.table = np.array([left(goal) for goal in known]).reshape(-1, len(STATES))  # (G, 125)
        self.row = np.array([known.index(goal) for goal in self.goals], dtype=np.int64)  # (N,) of `table`

    def left(self, states):
        return self.table[self.row, nearest(states)]

    def reached(self, states, next_states):
        return self.left(next_states) == 0

    def reward(self, states, actions, next_states):
        after = self.left(next_states)
        return np.where(after == 0, 100.0, self.left(states) - after).astype(np.float32)


class TaxiSimulator:
    def __init__(self, n):
        self.at = np.zeros(n, dtype=np.int64)  # rows of `STATES`

    def reset(self, goals, seeds, rows=None):
        for row, goal, seed in zip(range(len(self.at)) if rows is None else rows, goals, seeds, strict=True):
            # The passenger waits at a stand, and there is something left to do.
            possible = np.flatnonzero((STATES[:, 4] == 0) & (left(goal) > 0))
            self.at[row] = np.random.default_rng(int(seed)).choice(possible)
        return STATES[self.at if rows is None else self.at[rows]]

    def set_states(self, states, rows=None):
        self.at[slice(None) if rows is None else rows] = nearest(states)

    def step(self, actions, rows=None):
        rows = slice(None) if rows is None else rows
        self.at[rows] = NEXT[self.at[rows], actions]
        return STATES[self.at[rows]]

    def close(self):
        pass


class TaxiExpert:
    def __init__(self, noise):
        self.noise = noise

    def act(self, states, judge, rng):
        best = judge.table[judge.row[:, None], NEXT[nearest(states)]].argmin(axis=1)  # (N, 6) -> (N,)
        return np.where(rng.random(len(states)) < self.noise, rng.integers(ACTIONS, size=len(states)), best)


class TaxiWorld(SimpleWorld):
    spec = WorldSpec(name="taxi", state_names=NAMES, action_kind="discrete", action_size=ACTIONS, horizon=40)
    scene = "a taxi on a small map with four coloured stands, and a passenger"
    patience = 20  # half of an episode: the longest way to a stand is ten
    kinds = {"drive": {"to": STANDS}, "collect": {}, "carry": {"to": STANDS}, "deliver": {"to": STANDS}}
    sentences = resources.files("kalm_taxi") / "sentences.yaml"

    def judge(self, goals):
        return TaxiJudge(goals)

    def simulator(self, n, threads=1, conditions="plain"):
        return TaxiSimulator(n)

    def expert(self, noise):
        return TaxiExpert(noise)

    def explains(self, text, goal):
        if goal.kind not in SAID:
            return {}
        words = set(re.findall(r"[a-z]+", text.lower()))
        right = {"action": {kind for kind, said in SAID.items() if said & words} == {goal.kind}}
        return right | {slot: words & set(STANDS) == {goal[slot]} for slot in self.kinds[goal.kind]}

    def violations(self, states):
        off = np.abs(states - STATES[nearest(states)]).max(axis=1)
        return {"impossible": ~(off < 0.5)}  # asked as "not near" so that a NaN is impossible

    def motion(self, states, actions, next_states):
        driven = np.abs(next_states[:, :2] - states[:, :2]).sum(axis=1)
        lawful = NEXT[nearest(states), actions] == nearest(next_states)
        measures = {"fields_driven": driven, "as_the_rules_say": lawful, TOO_LARGE: ~(driven < 1.5)}
        return {name: np.asarray(values, dtype=np.float32) for name, values in measures.items()}

    def render(self, state, size=256):
        picture = np.full((60, 60, 3), 236, dtype=np.uint8)  # 12 points per field
        picture -= np.arange(60, dtype=np.uint8)[:, None, None] // 12 * 6  # fields are told apart
        places = np.rint(12 * np.clip(np.nan_to_num(state[:4]), 0, 4) + 6).astype(int).reshape(2, 2)
        spots = [*zip(12 * PLACES + 6, COLOURS, strict=True), (places[0], 40), (places[1], 250)]
        for ((x, y), colour), half in zip(spots, (6, 6, 6, 6, 4, 2), strict=True):
            picture[y - half : y + half, x - half : x + half] = colour
        grow = np.arange(size) * len(picture) // size
        return picture[grow][:, grow]
