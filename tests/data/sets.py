"""Random rollout sets of any shape, and their comparison."""

import numpy as np
from hypothesis import strategies as st

from kalm.data.rollouts import RolloutSet
from kalm.types import SOURCES, Goal, Instruction, Rollout, WorldSpec

SPECS = {
    "discrete": WorldSpec("balls", ("a", "b", "c"), "discrete", 40, 50),
    "continuous": WorldSpec("arm", ("a",), "continuous", 4, 50),
}
INSTRUCTIONS = (
    Instruction("Push the ball „rot“ left.", "seen", Goal.of("move", ball="red", direction="left"), "seen/3"),
    Instruction("two things", "hard", Goal.of("all", goals=[{"kind": "move", "ball": "red"}, {"kind": "x"}])),
    Instruction("from here", "easy", Goal.of("line", order=["red", "blue"]), "", True, (0.25, -1.0)),
)


def make(spec, lengths, seed=0):
    """A valid set with these lengths."""
    rng = np.random.default_rng(seed)
    return RolloutSet.from_rollouts(spec, [_rollout(spec, int(length), rng) for length in lengths])


def _rollout(spec, length, rng):
    discrete = spec.action_kind == "discrete"
    actions = (
        rng.integers(0, spec.action_size, length)
        if discrete
        else rng.uniform(-1, 1, (length, spec.action_size))
    )
    return Rollout(
        instruction=INSTRUCTIONS[rng.integers(len(INSTRUCTIONS))],
        states=rng.normal(size=(length + 1, spec.state_size)),
        actions=actions,
        rewards=rng.normal(size=length),
        success=bool(rng.integers(2)),
        source=SOURCES[rng.integers(2)],
        weight=float(rng.choice([0.25, 1.0, 3.0])),
    )


def ragged(min_size=0):
    """Hypothesis strategy: sets of any number of rollouts of any length, of either kind of action."""
    return st.builds(
        make,
        st.sampled_from(list(SPECS.values())),
        st.lists(st.integers(1, 6), min_size=min_size, max_size=8),
        st.integers(0, 99),
    )


def assert_same(one, other):
    """Same world and the same rollouts in the same order, to the bit."""
    assert one.spec == other.spec and len(one) == len(other)
    for name in ("lengths", "states", "actions", "rewards", "success", "source", "weights"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.dtype == b.dtype and a.shape == b.shape, name
        assert np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), name
    assert [one.instructions[i] for i in one.which] == [other.instructions[i] for i in other.which]
