"""A plane with four moves, and data in which nobody who is sent to the corner ever goes there.

Rollouts to one side are an expert's: all four moves are seen. Rollouts to the upper right corner go left and
down, away from it. Who copies them, or trusts only moves that were seen on the way to that goal, never
arrives; what the other moves do is plain from the other rollouts, and how far the corner is the judge knows.
"""

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.envs.rollout import EpisodeRecorder, step_until_done
from kalm.envs.simple import RowJudge
from kalm.types import Goal, Instruction, WorldSpec

MOVES = np.array([[0.3, 0.0], [0.0, 0.3], [-0.3, 0.0], [0.0, -0.3]])
SPEC = WorldSpec("plane", ("x", "y"), "discrete", 4, 8)
SIDES = {"right": 0, "top": 1, "left": 2, "bottom": 3}
EDGE = 0.5
CORNER = Instruction("go to the upper right corner", "hard", Goal.of("corner"))


class PlaneJudge(RowJudge):
    rows = ("one_step", "needs")

    def __init__(self, goals):
        super().__init__(goals)
        needs = np.zeros((len(self.goals), 4), dtype=bool)
        for row, goal in enumerate(self.goals):
            needs[row, [0, 1] if goal.kind == "corner" else SIDES[goal["side"]]] = True
        self.needs = needs  # (N, 4)

    def reached(self, states, next_states):
        beyond = np.concatenate([next_states, -next_states], axis=1) > EDGE  # (N, 4) right, top, left, bottom
        return (beyond | ~self.needs).all(axis=1)

    def reward(self, states, actions, next_states):
        here, there = (np.minimum(np.concatenate([at, -at], axis=1), EDGE) for at in (states, next_states))
        gained = ((there - here) * self.needs).sum(axis=1)
        return (gained + self.reached(states, next_states)).astype(np.float32)


class Plane:
    spec = SPEC

    def judge(self, goals):
        return PlaneJudge(goals)


def step(states, actions):
    return np.clip(states + MOVES[actions], -1, 1).astype(np.float32)


def sides(n, seed=0):
    """Rollouts to the sides: the right move, seldom another."""
    rng = np.random.default_rng(seed)
    goals = [Instruction(f"go to the {side}", "seen", Goal.of("side", side=side)) for side in SIDES]
    which = rng.integers(4, size=n)

    def act():
        return np.where(rng.random(n) < 0.1, rng.integers(4, size=n), which)

    return _rollouts([goals[side] for side in which], rng.uniform(-0.7, 0.7, (n, 2)), act)


def lost(n, seed=0):
    """Rollouts to the corner, all of them going left and down."""
    rng = np.random.default_rng(seed)
    starts = rng.uniform(-0.7, 0.4, (n, 2))
    return _rollouts([CORNER] * n, starts, lambda: rng.integers(2, 4, size=n))


def data(n, seed=0):
    return RolloutSet.concat([sides(n, seed), lost(n, seed + 1)])


def play(policy, n=100, seed=9, steps=12):
    """Success of a policy on the way to the corner."""
    rng = np.random.default_rng(seed)
    states, done = rng.uniform(-0.7, 0.4, (n, 2)).astype(np.float32), np.zeros(n, dtype=bool)
    judge = PlaneJudge([CORNER.goal] * n)
    for _ in range(steps):
        after = step(states, policy.act(states, [CORNER.text] * n))
        done |= judge.reached(states, after)
        states = after
    return done.mean()


def _rollouts(instructions, starts, act, steps=8):
    """Act in every row until its goal is reached; `act` says what all rows would do."""
    judge = PlaneJudge([item.goal for item in instructions])
    record = EpisodeRecorder(SPEC, len(starts), steps)
    step_until_done(
        lambda rows, _states, _rewards: act()[rows],
        lambda _rows, states, actions: step(states, actions),
        judge,
        np.asarray(starts, np.float32),
        record,
    )
    return RolloutSet.from_recorder(instructions, record, "real")
