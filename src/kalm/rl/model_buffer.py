"""Rollouts of a fitted model under the policy that is being trained, and batches of them beside the data.

Every so many updates the policy, as it then is, takes a few steps in the model from states of the data. Goals
are kept: a model rollout pursues the goal of the rollout that its first state comes from, real or imagined.
The world judges predicted states as it judges real ones (`World.judge`); nothing is simulated.

The transitions lie in a ring of fixed size. It is a module, so that a checkpoint treats it as what it is, a
part of the learner's state: the policies that made it are gone, and it could not be made again.

::

    a batch     [ data: round(real_share * n) rows | model ]
    terminal    1 where a step reached its goal; a model rollout that is cut at its horizon is not terminal
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kalm.envs.base import Judge
from kalm.envs.rollout import EpisodeRecorder, step_until_done
from kalm.errors import KalmError
from kalm.rl.algorithms.combo import COMBO, DiscreteCOMBO, data_rows
from kalm.rl.batch import TransitionBatch
from kalm.rl.buffer import MixedBuffer
from kalm.types import JsonObject, WorldSpec

KEPT = 5  # times that the model was rolled out, the newest, whose transitions the ring has room for

Act = Callable[[np.ndarray, np.ndarray], np.ndarray]  # states (N, S), goals (N,) -> actions


class Model(Protocol):
    """What predicts."""

    def sample(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw the states after actions: (N, S), (N,) or (N, A) -> (N, S)."""
        ...


@dataclass(frozen=True)
class Transitions:
    """N transitions of any rollouts in any order."""

    before: np.ndarray  # (N, S) float32
    actions: np.ndarray  # (N,) int64 or (N, A) float32
    rewards: np.ndarray  # (N,) float32
    terminals: np.ndarray  # (N,) bool
    after: np.ndarray  # (N, S) float32
    goals: np.ndarray  # (N,) int64


def roll_out(
    spec: WorldSpec,
    model: Model,
    judge: Judge,
    states: np.ndarray,
    goals: np.ndarray,
    act: Act,
    horizon: int,
    rng: np.random.Generator,
) -> Transitions:
    """Take at most `horizon` steps in the model from N states; a rollout ends where its goal is reached.

    Args:
        spec: the world's.
        model: predicts.
        judge: judges row i by the goal that row i of `states` pursues.
        states: (N, S) first states.
        goals: (N,) what the transitions are marked with, and `act` is told.
        act: the policy.
        horizon: largest number of steps.
        rng: draws what the model leaves open.

    Raises:
        KalmError: a predicted state is not finite.
    """

    def choose(rows: np.ndarray, states: np.ndarray, _rewards: np.ndarray) -> np.ndarray:
        return act(states, goals[rows])

    def predict(_rows: np.ndarray, states: np.ndarray, actions: np.ndarray) -> np.ndarray:
        after = model.sample(states, actions, rng)
        if not np.isfinite(after).all():
            raise KalmError("the forward model predicts states that are not finite. Lower dynamics.lr.")
        return after

    record = step_until_done(choose, predict, judge, states, EpisodeRecorder(spec, len(states), horizon))
    row, step = record.by_step()
    return Transitions(
        before=record.states[row, step],
        actions=record.actions[row, step],
        rewards=record.rewards[row, step],
        terminals=record.success[row] & (step + 1 == record.lengths[row]),
        after=record.states[row, step + 1],
        goals=goals[row],
    )


class ModelBuffer(nn.Module):
    """The newest transitions, up to `capacity`; zeros where nothing has been written yet."""

    before: Tensor  # (C, S)
    after: Tensor  # (C, S)
    facts: Tensor  # (C, A + 2) action, reward, terminal
    goals: Tensor  # (C,) int64
    written: Tensor  # () int64 transitions ever written

    def __init__(self, capacity: int, state_size: int, action_width: int, device: str) -> None:
        super().__init__()
        self.capacity = capacity
        self.widths: tuple[int, int, int] = (action_width, 1, 1)
        for name in ("before", "after"):
            self.register_buffer(name, torch.zeros(capacity, state_size, device=device))
        self.register_buffer("facts", torch.zeros(capacity, action_width + 2, device=device))
        self.register_buffer("goals", torch.zeros(capacity, dtype=torch.int64, device=device))
        self.register_buffer("written", torch.zeros((), dtype=torch.int64, device=device))

    def __len__(self) -> int:
        return min(int(self.written), self.capacity)

    def clear(self) -> None:
        """Forget all transitions."""
        for values in self.buffers():
            values.zero_()

    def add(self, new: Transitions) -> None:
        """Write transitions over the oldest ones."""
        count, device = len(new.goals), self.goals.device
        assert count <= self.capacity, (count, self.capacity)
        rows = (torch.arange(count, device=device) + self.written) % self.capacity
        columns = (new.actions.reshape(count, -1), new.rewards[:, None], new.terminals[:, None])
        facts = np.concatenate(columns, axis=1, dtype=np.float32)  # (N, A + 2)
        for name, values in (("before", new.before), ("after", new.after), ("facts", facts)):
            getattr(self, name)[rows] = torch.as_tensor(values, device=device)
        self.goals[rows] = torch.as_tensor(new.goals, device=device)
        self.written += count


class ModelMix:
    """Batches of data and model transitions; has what `train.fit` asks of a buffer.

    Args:
        data: draws the rows of data, and the states where model rollouts begin.
        model: predicts.
        judge: judges by the data's instructions, in the buffer's order.
        learner: acts, in observations.
        ring: keeps the transitions.
        real_share: share of a batch that is data.
        horizon: steps of a model rollout.
        rollouts: how many begin together.
        refresh: updates from one time to the next.
        explore: share of the steps whose action is drawn uniformly.
        rng: draws everything that is the model's; belongs to the mix from now on.
    """

    def __init__(
        self,
        data: MixedBuffer,
        model: Model,
        judge: Judge,
        learner: DiscreteCOMBO | COMBO,
        ring: ModelBuffer,
        *,
        real_share: float,
        horizon: int,
        rollouts: int,
        refresh: int,
        explore: float,
        rng: np.random.Generator,
    ) -> None:
        self.data = data
        self.ring = ring
        self.updates: int = 0
        self._model, self._judge, self._learner = model, judge, learner
        self.real_share = real_share
        self.horizon = horizon
        self.rollouts = rollouts
        self.refresh = refresh
        self.explore = explore
        self._rng = rng

    def sample(self, n: int) -> TransitionBatch:
        """Draw n transitions, those of the data first; roll the model out where that is due."""
        if self.updates == 0:  # the learner may come from a training on other goals
            self.ring.clear()
        if self.updates % self.refresh == 0:
            self._roll_out()
        self.updates += 1
        count = data_rows(n, self.real_share)
        rows = (self._rng.random(n - count) * len(self.ring)).astype(np.int64)
        return TransitionBatch.concat([self.data.sample(count), self.gather(rows)])

    def gather(self, rows: np.ndarray) -> TransitionBatch:
        """Join the model's transitions at these rows (n,) of the ring into observations and columns."""
        row = torch.as_tensor(rows, device=self.data.device)
        goals = self.ring.goals[row]
        actions, rewards, terminals = self.ring.facts[row].split(self.ring.widths, 1)
        return TransitionBatch(
            observations=self.data.observe(self.ring.before[row], goals),
            actions=actions,
            rewards=rewards * self.data.reward_scale,
            next_observations=self.data.observe(self.ring.after[row], goals),
            terminals=terminals,
        )

    def _roll_out(self) -> None:
        states, goals = self.data.begins(self.data.draw(self.rollouts))
        judge = self._judge.take(goals)
        spec = self.data.spec
        self.ring.add(roll_out(spec, self._model, judge, states, goals, self._act, self.horizon, self._rng))

    @torch.no_grad()
    def _act(self, states: np.ndarray, goals: np.ndarray) -> np.ndarray:
        """Act as the policy would, but by chance in a share of the rows: -> (N,) int64 or (N, A) float32."""
        device = self.data.device
        place, goal = torch.as_tensor(states, device=device), torch.as_tensor(goals, device=device)
        chosen = self._learner.sample_action(self.data.observe(place, goal)).numpy(force=True)
        if self.data.spec.action_kind == "discrete":
            random = self._rng.integers(self.data.spec.action_size, size=chosen.shape)
        else:
            random = self._rng.uniform(-1, 1, chosen.shape).astype(np.float32)
        free = self._rng.random(len(states)) < self.explore
        return np.where(free.reshape(-1, *(1,) * (chosen.ndim - 1)), random, chosen)

    def state(self) -> JsonObject:
        """Return where the random draws and the rollouts stand, JSON-ready; the ring is the learner's."""
        return {"data": self.data.state(), "model": dict(self._rng.bit_generator.state), "done": self.updates}

    def restore(self, state: JsonObject) -> None:
        """Continue from a `state`."""
        self.data.restore(state["data"])
        self._rng.bit_generator.state = dict(state["model"])
        self.updates = state["done"]
