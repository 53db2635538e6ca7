"""A small complete world with continuous actions: a point walks a corridor to one of its ends.

It is what a plug-in author would write, and shows that the data room works for any world: two state numbers,
a vector action, episodes that can fail (noise), a goal that nobody can reach, and one-step goals.
"""

from __future__ import annotations

import numpy as np

from kalm.envs.simple import RowJudge
from kalm.types import Goal, Instruction, WorldSpec

ENDS = {"left": -1.0, "right": 1.0, "nowhere": 9.0}


class CorridorJudge(RowJudge):
    rows = ("one_step", "ends")

    def __init__(self, goals):
        super().__init__(goals)
        self.one_step = np.array([goal.kind == "step" for goal in goals], dtype=bool)
        self.ends = np.array([ENDS[goal["end"]] for goal in goals])

    def reached(self, states, next_states):
        far = np.where(self.one_step, 0.1, 0.8)
        return np.sign(self.ends) * next_states[:, 0] >= np.where(self.ends == 9.0, 9.0, far)

    def reward(self, states, actions, next_states):
        return (np.sign(self.ends) * (next_states - states)[:, 0]).astype(np.float32)


def starts(seeds):
    return np.array([np.random.default_rng(int(seed)).uniform(-0.3, 0.3, 2) for seed in seeds])


class CorridorSimulator:
    def __init__(self, n):
        self.states = np.zeros((n, 2))

    def _rows(self, rows):
        return np.arange(len(self.states)) if rows is None else rows

    def reset(self, goals, seeds, rows=None):
        self.set_states(starts(seeds), rows)
        return starts(seeds)

    def set_states(self, states, rows=None):
        self.states[self._rows(rows)] = states

    def step(self, actions, rows=None):
        rows = self._rows(rows)
        self.states[rows] = np.clip(self.states[rows] + 0.25 * actions, -1, 1)
        return self.states[rows].copy()

    def close(self):
        pass


class CorridorExpert:
    def __init__(self, noise):
        self.noise = noise

    def act(self, states, judge, rng):
        wanted = np.stack([np.sign(judge.ends), np.zeros(len(states))], axis=1)
        random = rng.uniform(-1, 1, wanted.shape)
        return np.where(rng.random(len(states))[:, None] < self.noise, random, wanted).astype(np.float32)


class Corridor:
    restorable = True
    patience = 8

    def __init__(self, ends=("left", "right"), start=None):
        self.spec = WorldSpec("corridor", ("x", "y"), "continuous", 2, 6)
        self.ends, self.start = ends, start

    def suite(self, level):
        goals = [Goal.of(kind, end=end) for kind in ("walk", "step") for end in self.ends]
        return tuple(
            Instruction(f"{goal.kind} {goal['end']}", level, goal, f"{level}/{i}", state=self.start)
            for i, goal in enumerate(goals)
        )

    def judge(self, goals):
        return CorridorJudge(goals)

    def simulator(self, n, threads=1, conditions="plain"):
        return CorridorSimulator(n)

    def expert(self, noise):
        return CorridorExpert(noise)

    def initial_states(self, goals, seeds, conditions="plain"):
        return starts(seeds)
