"""Episodes of the world's expert, one per instruction, all of them stepping together.

A step advances the open rows only. A row that is over leaves; with ``keep="successful"`` a row that failed
begins again in the same place, and what it had recorded is overwritten.

Unusual: states are rounded to float32 before anyone sees them, so that the verdict which ended an episode is
the verdict that anyone gets who judges the stored rollout again.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.data.scoring import score
from kalm.data.settings import CollectConfig
from kalm.data.validation import layout
from kalm.envs.base import World
from kalm.envs.rollout import begin
from kalm.errors import KalmError
from kalm.types import Instruction

MAX_EPISODES = 200  # per rollout; an expert that never reaches its goal would keep us here forever


def run_expert(
    world: World, instructions: Sequence[Instruction], config: CollectConfig, rng: np.random.Generator
) -> tuple[RolloutSet, dict[str, tuple[int, int]]]:
    """Run episodes until each instruction has its rollout.

    Returns:
        The rollouts in the order of `instructions`, scored, and by kind of goal how many episodes were run
        and how many of them succeeded.

    Raises:
        KalmError: the expert failed an instruction `MAX_EPISODES` times.
    """
    lanes = _Lanes(world, instructions, config, rng)
    try:
        while len(lanes.open):
            lanes.step()
    finally:
        lanes.simulator.close()
    rollouts = score(lanes.rollouts(), world)
    kinds = np.array([instruction.goal.label for instruction in instructions])
    counts = {
        str(kind): (int(lanes.episodes[kinds == kind].sum()), int(rollouts.success[kinds == kind].sum()))
        for kind in np.unique(kinds)
    }
    return rollouts, counts


class _Lanes:
    """N episodes side by side, recorded in padded arrays; H is the horizon."""

    def __init__(
        self,
        world: World,
        instructions: Sequence[Instruction],
        config: CollectConfig,
        rng: np.random.Generator,
    ) -> None:
        n, horizon, spec = len(instructions), world.spec.horizon, world.spec
        self.world, self.instructions, self.rng = world, tuple(instructions), rng
        self.retry = config.keep == "successful"
        self.judge = world.judge([instruction.goal for instruction in instructions])
        self.expert = world.expert(config.noise)
        self.simulator = world.simulator(n, conditions=config.conditions)
        (_, *action), dtype = layout(spec, n, n)["actions"]
        self.states = np.zeros((n, horizon + 1, spec.state_size), np.float32)  # (N, H+1, S)
        self.actions = np.zeros((n, horizon, *action), dtype)  # (N, H) or (N, H, A)
        self.lengths = np.zeros(n, np.int32)  # (N,) actions taken so far
        self.episodes = np.zeros(n, np.int64)  # (N,) episodes begun
        self.open = np.arange(n)  # rows whose episode goes on
        self.begin(self.open)

    def begin(self, rows: np.ndarray) -> None:
        """Start an episode in these rows, at the instruction's own initial state where it has one."""
        seeds = self.rng.integers(2**63, size=len(rows))
        instructions = [self.instructions[row] for row in rows]
        self.states[rows, 0] = begin(self.simulator, self.world, instructions, seeds, rows)
        self.lengths[rows] = 0
        self.episodes[rows] += 1

    def step(self) -> None:
        """Take one action in every open row, then close or restart those that are over."""
        rows, now = self.open, self.lengths[self.open]
        judge, states = self.judge.take(rows), self.states[rows, now]
        actions = self.expert.act(states, judge, self.rng)
        after = self.simulator.step(actions, rows).astype(np.float32)
        self.actions[rows, now], self.states[rows, now + 1] = actions, after
        self.lengths[rows] = now + 1
        success = judge.success(states, actions, after)
        over = success | judge.one_step | (now + 1 == self.world.spec.horizon)
        again = over & ~success & self.retry
        if again.any():
            self._require_hope(rows[again])
            self.begin(rows[again])
        self.open = rows[again | ~over]

    def rollouts(self) -> RolloutSet:
        """Drop the padding; rewards and success are still empty."""
        n, horizon = self.actions.shape[:2]
        return RolloutSet.from_grid(
            self.world.spec,
            self.instructions,
            self.lengths,
            self.states,
            self.actions,
            rewards=np.zeros((n, horizon), np.float32),
            success=np.zeros(n, bool),
            source="real",
        )

    def _require_hope(self, rows: np.ndarray) -> None:
        worst = rows[np.argmax(self.episodes[rows])]
        if self.episodes[worst] >= MAX_EPISODES:
            raise KalmError(
                f"the expert of world {self.world.spec.name!r} failed {MAX_EPISODES} times at "
                f"{self.instructions[worst].text!r}. Set collect.keep=all, or lower collect.noise."
            )
