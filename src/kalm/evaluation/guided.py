"""A policy that is asked in plain words: each episode follows the plan that its sentence was read to.

A policy knows the sentences of its data well and others half. So another one is first read to plain
sentences, and the policy is asked for the one that is to be done (`kalm.envs.follow`): the next one once a
step holds, and one again that a later one has undone. A sentence that has no plan is asked as it is.

Who remembers an episode begins it anew with every new sentence, for what it remembers belongs to the last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kalm.envs.base import World
from kalm.envs.follow import PlanFollower
from kalm.evaluation.episodes import Actor, Playing, Remembering
from kalm.types import Instruction, WorldSpec

PlanOf = Callable[[Sequence[str], np.ndarray], Sequence[Sequence[Instruction]]]
"""N sentences and initial states (N, S) -> the plain steps of each."""


class GuidedPolicy:
    """A policy behind plans (`kalm.evaluation.episodes.Remembering`).

    Args:
        policy: who acts.
        world: says which steps hold.
        plan_of: sentences and initial states -> the plain steps of each; none: it is asked as it is.
    """

    def __init__(self, policy: Actor | Remembering, world: World, plan_of: PlanOf) -> None:
        self.policy = policy
        self.world = world
        self.plan_of = plan_of
        self.spec: WorldSpec = getattr(policy, "spec", world.spec)

    @property
    def side_by_side(self) -> int:
        """Largest number of episodes at a time."""
        return self.policy.side_by_side if isinstance(self.policy, Remembering) else 4096

    def begin(self, texts: Sequence[str], states: np.ndarray) -> GuidedEpisodes:
        """Begin N episodes with these sentences and initial states (N, S)."""
        return GuidedEpisodes(self.policy, self.world, texts, self.plan_of(texts, states))


class GuidedEpisodes:
    """N episodes and where each is in its plan (`kalm.evaluation.episodes.Playing`).

    Args:
        policy: who acts.
        world: says which steps hold.
        texts: N sentences.
        plans: the plain steps of each; none: it is asked as it is.
    """

    def __init__(
        self,
        policy: Actor | Remembering,
        world: World,
        texts: Sequence[str],
        plans: Sequence[Sequence[Instruction]],
    ) -> None:
        self.policy = policy
        self.asked: list[tuple[str, ...]] = [
            tuple(step.text for step in plan) or (text,) for text, plan in zip(texts, plans, strict=True)
        ]
        guided = np.array([bool(plan) for plan in plans])
        self.guided = guided  # (N,) has a plan
        self.place: np.ndarray = np.cumsum(guided) - 1  # (N,) among those that have one
        goals = [[step.goal for step in plan] for plan in plans if plan]
        self.follower: PlanFollower = PlanFollower(world, goals)
        self.step: np.ndarray = np.full(len(texts), -1)  # (N,) that each was last asked for
        self.begun: list[Playing] = []
        self.of: np.ndarray = np.full(len(texts), -1)  # (N,) which of `begun` plays it
        self.row: np.ndarray = np.zeros(len(texts), dtype=np.int64)  # (N,) and its row there

    def act(self, rows: np.ndarray, states: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        """Choose the next action of the episodes that still run: -> (n,) int or (n, A) float."""
        step = np.zeros(len(rows), dtype=np.int64)
        with_plan = self.guided[rows]
        if with_plan.any():
            step[with_plan] = self.follower.now(self.place[rows[with_plan]], states[with_plan])
        other = step != self.step[rows]
        self.step[rows] = step
        if not isinstance(self.policy, Remembering):
            return self.policy.act(states, self._texts(rows))
        if other.any():
            anew = rows[other]
            self.of[anew], self.row[anew] = len(self.begun), np.arange(len(anew))
            self.begun.append(self.policy.begin(self._texts(anew), states[other].copy()))
        return self._played(rows, states, np.where(other, 0, rewards))

    def _texts(self, rows: np.ndarray) -> list[str]:
        return [self.asked[row][at] for row, at in zip(rows, self.step[rows], strict=True)]

    def _played(self, rows: np.ndarray, states: np.ndarray, rewards: np.ndarray) -> np.ndarray:
        """Ask each memory for the actions of its rows."""
        parts = [(number, np.flatnonzero(self.of[rows] == number)) for number in np.unique(self.of[rows])]
        chosen = [
            np.asarray(self.begun[number].act(self.row[rows[mine]], states[mine], rewards[mine]))
            for number, mine in parts
        ]
        back = np.concatenate([mine for _, mine in parts]).argsort()
        return np.concatenate(chosen)[back]
