"""Real and imagined transitions as one table, from which d3rlpy's batches are cut by index arithmetic.

States stand once, as in `RolloutSet`, and goal vectors once per instruction; a transition is two links into
these tables and a few facts (action, reward, end), and a batch joins them. Goal vectors have room for a state
in front, so that an observation is one gathered row whose first S numbers are then overwritten.

::

    row of an observation   [ s_t (S) | enc(G) (E) ]
    terminal = 1            only on the last action of a rollout that reached its goal, not at a time-out
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import DatasetInfo, Signature, TransitionMiniBatch
from d3rlpy.torch_utility import TorchMiniBatch

from kalm.data.rollouts import RolloutSet
from kalm.rl.encoder import GoalEncoder


class MixedBuffer:
    """Transitions of one or two `RolloutSet`s, sampled within each in proportion to their rollouts' weights.

    It has what `fit` and `update` of a d3rlpy learner from `algorithms.create` ask of a replay buffer.

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
        self._cumulative = [_cumulative(part) for part in parts]
        self._rng = rng
        width = 1 if self.spec.action_kind == "discrete" else self.spec.action_size
        self._widths = (width, width, 1, 1)
        self._states = self._join([part.states for part in parts])  # (states, S)
        self._facts = self._join([_facts(part) for part in parts])  # (N, A + A + 2)
        before = _shifted([part.before for part in parts], [len(part.states) for part in parts])
        goal = _shifted(
            [part.which[part.owner] for part in parts], [len(part.instructions) for part in parts]
        )
        self._links = self._join([np.stack([before, goal], axis=1)])  # (N, 2) rows of the two tables below
        vectors = encoder.encode([i.text for part in parts for i in part.instructions])  # (goals, E)
        self._goals = self._join([np.pad(vectors, ((0, 0), (self.spec.state_size, 0)))])  # (goals, S + E)

    def _join(self, parts: list[np.ndarray]) -> torch.Tensor:
        return torch.as_tensor(np.concatenate(parts), device=self.device)

    @property
    def observation_size(self) -> int:
        """Length S + E of an observation."""
        return self._goals.shape[1]

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
        real = n - round(self.mix * n)
        uniform = self._rng.random(n)
        return np.concatenate(
            [self._rows(0, uniform[:real]), self._rows(-1, uniform[real:]) + self.counts[0]]
        )

    def _rows(self, part: int, uniform: np.ndarray) -> np.ndarray:
        """Turn numbers in [0, 1) into rows of a part: (n,) -> (n,) int64."""
        cumulative = self._cumulative[part]
        if cumulative is None:
            return (uniform * self.counts[part]).astype(np.int64)
        return np.searchsorted(cumulative, uniform * cumulative[-1], side="right")

    def gather(self, rows: np.ndarray) -> TorchMiniBatch:
        """Join the transitions at these rows (n,) into observations (n, S + E) and columns (n, 1)."""
        row = torch.as_tensor(rows, device=self.device)
        before, goal = self._links.index_select(0, row).unbind(1)  # (n,), (n,)
        observations = self._goals.index_select(0, goal)  # (n, S + E)
        next_observations = observations.clone()
        observations[:, : self.spec.state_size] = self._states.index_select(0, before)
        next_observations[:, : self.spec.state_size] = self._states.index_select(0, before + 1)
        facts = self._facts.index_select(0, row)
        actions, next_actions, rewards, terminals = facts.split(self._widths, 1)
        return TorchMiniBatch(
            observations=observations,
            actions=actions,
            rewards=rewards,
            next_observations=next_observations,
            next_actions=next_actions,
            returns_to_go=torch.zeros_like(rewards),
            terminals=terminals,
            intervals=torch.ones_like(rewards),
            device=self.device,
        )

    def gather_arrays(self, rows: np.ndarray) -> TransitionMiniBatch:
        """Join the transitions at these rows as arrays (views of the tensors where the device is the CPU)."""
        batch = self.gather(rows)
        names = (
            "observations",
            "actions",
            "rewards",
            "next_observations",
            "next_actions",
            "terminals",
            "intervals",
        )
        return TransitionMiniBatch(
            **{name: getattr(batch, name).cpu().numpy() for name in names}, transitions=()
        )

    @property
    def dataset_info(self) -> DatasetInfo:
        """Shapes and action kind, from the world's spec and never from the data."""
        float32 = [np.dtype(np.float32)]
        return DatasetInfo(
            observation_signature=Signature(float32, [(self.observation_size,)]),
            action_signature=Signature(float32, [self._widths[:1]]),
            reward_signature=Signature(float32, [(1,)]),
            action_space=ActionSpace[self.spec.action_kind.upper()],
            action_size=self.spec.action_size,
        )

    def state(self) -> dict[str, Any]:
        """Return where the random draws stand, JSON-ready."""
        return dict(self._rng.bit_generator.state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue the draws from a `state`."""
        self._rng.bit_generator.state = dict(state)


def _facts(part: RolloutSet) -> np.ndarray:
    """Return action, next action (zero after the last), reward and terminal side by side."""
    actions = part.actions.reshape(part.transitions, -1).astype(np.float32)  # (N, A)
    following = np.concatenate([actions[1:], actions[:1]])
    following[part.last_action] = 0
    terminals = np.zeros((part.transitions, 1), dtype=np.float32)
    terminals[part.last_action[part.success]] = 1
    return np.concatenate([actions, following, part.rewards[:, None], terminals], axis=1)


def _cumulative(part: RolloutSet) -> np.ndarray | None:
    """Return the running sum of the transitions' weights, (N,) float64; None where all are equal."""
    weights = part.weights
    assert (weights > 0).all(), weights.min()
    if (weights == weights[0]).all():
        return None
    return np.cumsum(weights[part.owner], dtype=np.float64)


def _shifted(columns: list[np.ndarray], sizes: list[int]) -> np.ndarray:
    """Join index columns, each moved behind the rows of the parts before it: (N,) int64."""
    return np.concatenate([column.astype(np.int64) + sum(sizes[:i]) for i, column in enumerate(columns)])
