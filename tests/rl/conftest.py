from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from kalm.data.rollouts import RolloutSet
from kalm.rl.algorithms.cql import CQLConfig
from kalm.rl.encoder import GoalEncoder
from kalm.rl.settings import TrainConfig
from kalm.types import Goal, Instruction, Rollout, WorldSpec

SPEC = WorldSpec("line", ("ball x", "ball y", "hole x"), "discrete", 7, 6)
SLOPE = WorldSpec("slope", SPEC.state_names, "continuous", 2, 6)
COLORS = ("red", "blue", "green", "purple", "cyan")


def instruction(color: str, level: str = "seen") -> Instruction:
    text = f"push the {color} ball to the left" if level == "seen" else f"the {color} ball is too far right"
    return Instruction(text, level, Goal.of("move", ball=color, direction="left"))


def rollouts(count: int, source: str = "real", seed: int = 0, level: str = "seen") -> RolloutSet:
    """Rollouts whose right action is a function of the goal and the sign of the first state number."""
    rng = np.random.default_rng(seed)
    parts = []
    for index in range(count):
        length, which = int(rng.integers(1, 6)), int(rng.integers(5))
        states = rng.normal(size=(length + 1, 3)).astype(np.float32)
        actions = (which + 2 * (states[:-1, 0] > 0)).astype(np.int64)
        success = bool(index % 3)
        rewards = np.zeros(length, dtype=np.float32)
        rewards[-1] = 10 * success
        parts.append(Rollout(instruction(COLORS[which], level), states, actions, rewards, success, source))
    return RolloutSet.from_rollouts(SPEC, parts)


def steered(count: int, source: str = "real", seed: int = 0, level: str = "seen") -> RolloutSet:
    """The same for a world with continuous actions: one number by the goal, one by the first state number."""
    parts = []
    for rollout in rollouts(count, source, seed, level):
        which = COLORS.index(dict(rollout.instruction.goal.slots)["ball"])
        first = np.full(len(rollout.actions), which / 4 - 0.5)
        second = np.where(rollout.states[:-1, 0] > 0, 0.6, -0.6)
        actions = np.stack([first, second], axis=1).astype(np.float32)
        parts.append(replace(rollout, actions=actions))
    return RolloutSet.from_rollouts(SLOPE, parts)


@pytest.fixture(scope="session")
def encoder() -> GoalEncoder:
    return GoalEncoder("minilm")


@pytest.fixture(scope="session")
def config() -> TrainConfig:
    return TrainConfig(
        steps=240,
        batch=32,
        hidden=(32, 32),
        checkpoint_every=80,
        lr=3e-3,
        real_rollouts=None,
        cql=CQLConfig(alpha=1.0, samples=4),
    )


@pytest.fixture(scope="session")
def line() -> SimpleNamespace:
    return SimpleNamespace(spec=SPEC, rollouts=rollouts, steered=steered, instruction=instruction)
