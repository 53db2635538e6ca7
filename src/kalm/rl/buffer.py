"""Real and imagined transitions as one table, from which d3rlpy's batches are cut by index arithmetic.

Nothing is copied per transition: states stand once, as in `RolloutSet`, goal vectors once per instruction, and a
transition is three indices (its state, its goal, its action). A batch joins them. Goal vectors are stored with room
for a state in front, so that an observation is one gathered row with its first S numbers overwritten.

::

    row of an observation   [ s_t (S) | enc(G) (E) ]
    terminal = 1            only on the last action of a rollout that reached its goal; a timed-out one goes on
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import DatasetInfo, Signature, Transition, TransitionMiniBatch
from d3rlpy.torch_utility import TorchMiniBatch

from kalm.data.rollouts import RolloutSet
from kalm.rl.encoder import GoalEncoder


class MixedBuffer:
    """Transitions of one or two `RolloutSet`s, sampled uniformly within each.

    It has what d3rlpy's `fit` and `update` ask of a replay buffer for Q-learning algorithms.

    Args:
        real: rollouts of the offline data.
        imagined: imagined rollouts, or None.
        encoder: gives each instruction its vector.
        mix: share of a batch that is imagined: round(mix * n) of n; ignored without imagined rollouts.
        rng: draws the transitions; belongs to the buffer from now on.
        device: torch device that holds the table and the batches.
    """

    def __init__(
        self,
        real: RolloutSet,
        imagined: RolloutSet | None,
        encoder: GoalEncoder,
        mix: float,
        rng: np.random.Generator,
        device: str = "cpu",
    ) -> None:
        parts = [part for part in (real, imagined) if part is not None]
        assert all(part.transitions for part in parts) and 0 <= mix <= 1, (parts, mix)
        self.spec, self.device = real.spec, device
        self.mix = 0.0 if imagined is None else mix
        self.counts = [part.transitions for part in parts]
        self._rng = rng
        self._states = self._column([part.states for part in parts])  # (states, S)
        self._actions = self._column([_action_rows(part) for part in parts])  # (N, 1) or (N, A) float32
        self._rewards = self._column([part.rewards[:, None] for part in parts])  # (N, 1)
        self._last = self._column([_last_rows(part) for part in parts])  # (N, 1) last action of its rollout
        self._terminals = self._column([_terminal_rows(part) for part in parts])  # (N, 1)
        self._before = self._column(_shifted([part.before for part in parts], [len(p.states) for p in parts]))
        goals = [part.which[part.owner].astype(np.int64) for part in parts]
        self._goal = self._column(_shifted(goals, [len(part.instructions) for part in parts]))  # (N,)
        texts = [instruction.text for part in parts for instruction in part.instructions]
        vectors = encoder.encode(texts)
        self._padded = self._column([np.pad(vectors, ((0, 0), (self.spec.state_size, 0)))])  # (goals, S + E)

    def _column(self, parts: list[np.ndarray]) -> torch.Tensor:
        joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return torch.as_tensor(joined, device=self.device)

    @property
    def observation_size(self) -> int:
        """Length S + E of an observation."""
        return self._padded.shape[1]

    @property
    def transition_count(self) -> int:
        """Number of transitions, real and imagined."""
        return sum(self.counts)

    def sample(self, n: int) -> TorchMiniBatch:
        """Draw n transitions as tensors on the device: what `algo.impl.update` takes."""
        return self.gather(self.draw(n))

    def sample_transition_batch(self, batch_size: int) -> TransitionMiniBatch:
        """Draw transitions as arrays: what `algo.update` takes. The same draw as `sample`."""
        return self.gather_arrays(self.draw(batch_size))

    def draw(self, n: int) -> np.ndarray:
        """Draw rows: the real ones first, then round(mix * n) imagined ones: (n,) int64."""
        imagined = round(self.mix * n)
        rows = self._rng.integers(0, self.counts[0], n - imagined)
        if not imagined:
            return rows
        return np.concatenate([rows, self._rng.integers(self.counts[0], self.transition_count, imagined)])

    def gather(self, rows: np.ndarray) -> TorchMiniBatch:
        """Join the transitions at these rows (n,) into observations (n, S + E) and columns (n, 1)."""
        row = torch.as_tensor(rows, device=self.device)
        before, size = self._before[row], self.spec.state_size
        observations = self._padded.index_select(0, self._goal[row])  # (n, S + E)
        next_observations = observations.clone()
        observations[:, :size] = self._states.index_select(0, before)
        next_observations[:, :size] = self._states.index_select(0, before + 1)
        rewards = self._rewards[row]
        return TorchMiniBatch(
            observations=observations,
            actions=self._actions[row],
            rewards=rewards,
            next_observations=next_observations,
            next_actions=self._next_actions(row),
            returns_to_go=torch.zeros_like(rewards),
            terminals=self._terminals[row],
            intervals=torch.ones_like(rewards),
            device=self.device,
        )

    def _next_actions(self, row: torch.Tensor) -> torch.Tensor:
        """Return the action after each, zero after a rollout's last, as d3rlpy does."""
        following = (row + 1).clamp_(max=self.transition_count - 1)
        return self._actions[following] * (1 - self._last[row])

    def gather_arrays(self, rows: np.ndarray) -> TransitionMiniBatch:
        """Join the transitions at these rows as arrays (views of the tensors where the device is the CPU)."""
        batch = self.gather(rows)
        names = ("observations", "actions", "rewards", "next_observations", "next_actions", "terminals", "intervals")
        return TransitionMiniBatch(**{name: getattr(batch, name).cpu().numpy() for name in names}, transitions=())

    def sample_transition(self) -> Transition:
        """Draw one transition; d3rlpy's `fit` reads the shape of an observation from it."""
        rows = self.draw(1)
        batch = self.gather_arrays(rows)
        ends = torch.nonzero(self._last[rows[0] :, 0])
        end = int(rows[0]) + int(ends[0]) + 1
        return Transition(
            observation=batch.observations[0],
            action=batch.actions[0],
            reward=batch.rewards[0],
            next_observation=batch.next_observations[0],
            next_action=batch.next_actions[0],
            terminal=float(batch.terminals[0, 0]),
            interval=1,
            rewards_to_go=self._rewards[rows[0] : end].cpu().numpy(),
        )

    @property
    def dataset_info(self) -> DatasetInfo:
        """Shapes and action kind, from the world's spec and never from the data."""
        float32 = [np.dtype(np.float32)]
        return DatasetInfo(
            observation_signature=Signature(float32, [(self.observation_size,)]),
            action_signature=Signature(float32, [tuple(self._actions.shape[1:])]),
            reward_signature=Signature(float32, [(1,)]),
            action_space=ActionSpace(2 if self.spec.action_kind == "discrete" else 1),
            action_size=self.spec.action_size,
        )

    def state(self) -> dict[str, Any]:
        """Return where the random draws stand, JSON-ready."""
        return dict(self._rng.bit_generator.state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue the draws from a `state`."""
        self._rng.bit_generator.state = dict(state)


def _action_rows(part: RolloutSet) -> np.ndarray:
    return part.actions.reshape(part.transitions, -1).astype(np.float32, copy=False)


def _last_rows(part: RolloutSet) -> np.ndarray:
    last = np.zeros((part.transitions, 1), dtype=np.float32)
    last[part.last_action] = 1
    return last


def _terminal_rows(part: RolloutSet) -> np.ndarray:
    terminal = np.zeros((part.transitions, 1), dtype=np.float32)
    terminal[part.last_action[part.success]] = 1
    return terminal


def _shifted(columns: list[np.ndarray], sizes: list[int]) -> list[np.ndarray]:
    """Move the indices of each part behind the tables of the parts before it."""
    return [column + sum(sizes[:i]) for i, column in enumerate(columns)]
