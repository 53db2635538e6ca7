"""Two small known systems, and random transitions of them: things that are pushed about, and a free point."""

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.envs.rollout import EpisodeRecorder
from kalm.types import Entity, Goal, Instruction, WorldSpec

STEPS = np.array([[0.1, 0.0], [0.0, 0.1], [-0.1, 0.0], [0.0, -0.1]])
THINGS = WorldSpec(
    "things",
    ("a x", "a y", "b x", "b y", "c x", "c y", "heat"),
    "discrete",
    12,
    5,
    tuple(
        Entity(name, (2 * i, 2 * i + 1), "thing", tuple(range(4 * i, 4 * i + 4)))
        for i, name in enumerate("abc")
    ),
)
POINT = WorldSpec("point", ("x", "y"), "continuous", 2, 5)
GOAL = Instruction("go", "seen", Goal.of("go"))


def pushed(states, actions):
    """Move the thing that is acted on; the nearest other one comes along half the way; heat halves."""
    after, rows = states.copy(), np.arange(len(states))
    places = after[:, :6].reshape(-1, 3, 2)
    step, thing = STEPS[actions % 4], actions // 4
    gaps = np.linalg.norm(places - places[rows, thing][:, None], axis=2)
    gaps[rows, thing] = np.inf
    nearest = gaps.argmin(axis=1)
    places[rows, thing] += step
    places[rows, nearest] += step / 2
    after[:, 6] /= 2
    return after


def drawn(spec, n, seed=0, reach=1.0):
    """States within reach of the origin, and actions."""
    rng = np.random.default_rng(seed)
    states = rng.uniform(-reach, reach, (n, spec.state_size)).astype(np.float32)
    if spec.action_kind == "discrete":
        return states, rng.integers(spec.action_size, size=n)
    return states, rng.uniform(-1, 1, (n, spec.action_size)).astype(np.float32)


def truth(spec, states, actions):
    """What really happens."""
    return pushed(states, actions) if spec is THINGS else states + 0.25 * actions * np.cos(states)


def rollouts(spec, n, seed=0):
    """Rollouts of one random action."""
    states, actions = drawn(spec, n, seed)
    record = EpisodeRecorder(spec, n, horizon=1)
    record.states[:] = np.stack([states, truth(spec, states, actions)], axis=1)
    record.actions[:, 0], record.lengths[:] = actions, 1
    return RolloutSet.from_recorder([GOAL] * n, record, "real")
