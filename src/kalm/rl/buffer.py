"""Real and imagined transitions, from which d3rlpy's batches are cut by index arithmetic.

Goal vectors stand once per instruction, with room for a state in front, so that an observation is one
gathered row whose first S numbers are then overwritten. Vectors of discrete actions (one-hot) exist in
batches only.

::

    observation   [ s_t (S) | enc(G) (E) ]
    batch         [ real rows ..., imagined rows ... ]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from d3rlpy.constants import ActionSpace
from d3rlpy.dataset import DatasetInfo, Signature, TransitionMiniBatch
from d3rlpy.torch_utility import TorchMiniBatch
from torch.nn import functional as F

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError
from kalm.rl.encoder import GoalEncoder
from kalm.rl.transitions import Columns, TransitionTable, resident
from kalm.rl.units import Units
from kalm.types import SOURCES

# Noise is drawn once for so many copies of a goal's vector. A transition always has the same one.
NOISY_COPIES = 64


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
        vectors: give discrete actions as one-hot vectors; continuous ones are vectors anyway.
        reward_scale: rewards are multiplied by it.
        units: what the states of observations are measured in; None: as they are.
        goal_noise: length of the normal noise on goal vectors, as a share of theirs.

    Raises:
        KalmError: the parts differ in state width or actions, or one is empty, or a mix is not a share.
    """

    def __init__(
        self,
        real: RolloutSet,
        imagined: RolloutSet | None,
        encoder: GoalEncoder,
        mix: float,
        rng: np.random.Generator,
        device: str = "cpu",
        vectors: bool = False,
        reward_scale: float = 1.0,
        units: Units | None = None,
        goal_noise: float = 0.0,
    ) -> None:
        sets = [part for part in (real, imagined) if part is not None]
        _require(sets, mix)
        self.spec, self.device = real.spec, device
        self.mix = 0.0 if imagined is None else mix
        self._vectors = vectors or self.spec.action_kind == "continuous"
        self._one_hot = self.spec.action_size if vectors and self.spec.action_kind == "discrete" else None
        self.reward_scale, self._units = reward_scale, units
        firsts = np.cumsum([0, *(len(part.instructions) for part in sets)])
        self._parts = [
            TransitionTable(part, int(first), device) for part, first in zip(sets, firsts, strict=False)
        ]
        self._rng = rng
        instructions = [item for part in sets for item in part.instructions]
        encoded = encoder.encode([item.text for item in instructions])  # (goals, E)
        self._copies = NOISY_COPIES if goal_noise else 1
        self.instructions = [item for item in instructions for _ in range(self._copies)]
        encoded = encoded.repeat(self._copies, axis=0)  # (goals, E) from now on
        if goal_noise:
            lengths = np.linalg.norm(encoded, axis=1, keepdims=True)  # (goals, 1)
            noise = rng.standard_normal(encoded.shape, dtype=np.float32) / encoded.shape[1] ** 0.5
            encoded = encoded + goal_noise * lengths * noise
        self._goals = resident(np.pad(encoded, ((0, 0), (self.spec.state_size, 0))), device)  # (goals, S + E)

    @property
    def counts(self) -> list[int]:
        """Transitions of each part."""
        return [part.count for part in self._parts]

    @property
    def observation_size(self) -> int:
        """Length S + E of an observation."""
        return self._goals.shape[1]

    @property
    def transition_count(self) -> int:
        """Number of transitions, real and imagined."""
        return sum(self.counts)

    @property
    def nbytes(self) -> int:
        """Memory that the buffer itself needs on the CPU, beside the rollouts it reads."""
        return sum(part.nbytes for part in self._parts) + self._goals.nbytes

    def sample(self, n: int) -> TorchMiniBatch:
        """Draw n transitions as tensors on the device: what `algo.impl.update` takes."""
        return self.gather(self.draw(n))

    def sample_transition_batch(self, batch_size: int) -> TransitionMiniBatch:
        """Draw transitions as arrays: what `algo.update` takes. The same draw as `sample`."""
        return self.gather_arrays(self.draw(batch_size))

    def real_rows(self, n: int) -> int:
        """Return how many rows of a batch of n are real; they come first."""
        return n - round(self.mix * n)

    def draw(self, n: int) -> np.ndarray:
        """Draw rows: the real ones first, then round(mix * n) imagined ones: (n,) int64."""
        real, uniform = self.real_rows(n), self._rng.random(n)
        imagined = self._parts[-1].rows(uniform[real:]) + self.counts[0]
        return np.concatenate([self._parts[0].rows(uniform[:real]), imagined])

    def gather(self, rows: np.ndarray) -> TorchMiniBatch:
        """Join the transitions at these rows (n,) into observations (n, S + E) and columns (n, 1)."""
        found = self._columns(np.asarray(rows))
        rewards = found.reward.unsqueeze(1) * self.reward_scale
        return TorchMiniBatch(
            observations=self.observe(found.before, found.goal),
            actions=self._action(found.action),
            rewards=rewards,
            next_observations=self.observe(found.after, found.goal),
            next_actions=self._action(found.next_action),
            returns_to_go=torch.zeros_like(rewards),
            terminals=found.terminal.unsqueeze(1).float(),
            intervals=torch.ones_like(rewards),
            device=self.device,
        )

    def observe(self, states: torch.Tensor, goals: torch.Tensor) -> torch.Tensor:
        """Put states in front of the vectors of goals: (n, S), (n,) -> (n, S + E)."""
        observations = self._goals.index_select(0, goals)
        observations[:, : self.spec.state_size] = self._measured(states)
        return observations

    def begins(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return states and goals at these rows (n,): -> (n, S), (n,) int64."""
        found = self._columns(rows)
        return found.before.numpy(force=True), found.goal.numpy(force=True)

    def _measured(self, states: torch.Tensor) -> torch.Tensor:
        return states if self._units is None else self._units(states)

    def _columns(self, rows: np.ndarray) -> Columns:
        """Look up each row in its part, and deal the copies of goals out over them."""
        found = self._found(rows)
        if self._copies == 1:
            return found
        return found._replace(goal=found.goal * self._copies + resident(rows % self._copies, self.device))

    def _found(self, rows: np.ndarray) -> Columns:
        """Look up each row in its part; the order of the rows is kept."""
        first = self.counts[0]
        here = rows < first
        if here.all():
            return self._parts[0].columns(rows)
        if not here.any():
            return self._parts[1].columns(rows - first)
        halves = self._parts[0].columns(rows[here]), self._parts[1].columns(rows[~here] - first)
        joined = Columns(*(torch.cat(pair) for pair in zip(*halves, strict=True)))
        real = int(here.sum())
        if here[:real].all():  # a batch as `draw` makes it
            return joined
        back = torch.as_tensor(np.argsort(np.argsort(~here, kind="stable")), device=self.device)
        return Columns(*(column[back] for column in joined))

    def _action(self, action: torch.Tensor) -> torch.Tensor:
        """Give actions the shape that learners read: (n, 1), or vectors (n, A)."""
        if self._one_hot is not None:
            return F.one_hot(action, self._one_hot).float()
        return action.float().reshape(len(action), -1)

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

    def by_source(self, batch: TorchMiniBatch) -> dict[str, TorchMiniBatch]:
        """Split a batch that `sample` made into its real and its imagined rows, without copying them."""
        real = self.real_rows(len(batch.rewards))
        cuts = {"real": slice(None, real), "imagined": slice(real, None)}
        return {source: _rows_of(batch, cuts[source]) for source in SOURCES}

    @property
    def dataset_info(self) -> DatasetInfo:
        """Shapes and action kind, from the world's spec and never from the data."""
        float32 = [np.dtype(np.float32)]
        width = self.spec.action_size if self._vectors else 1
        return DatasetInfo(
            observation_signature=Signature(float32, [(self.observation_size,)]),
            action_signature=Signature(float32, [(width,)]),
            reward_signature=Signature(float32, [(1,)]),
            action_space=ActionSpace.CONTINUOUS if self._vectors else ActionSpace.DISCRETE,
            action_size=self.spec.action_size,
        )

    def state(self) -> dict[str, Any]:
        """Return where the random draws stand, JSON-ready."""
        return dict(self._rng.bit_generator.state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue the draws from a `state`."""
        self._rng.bit_generator.state = dict(state)


def _require(parts: list[RolloutSet], mix: float) -> None:
    if not 0 <= mix <= 1:
        raise KalmError(f"mix is {mix}; it is the share of a batch that is imagined, from 0 to 1.")
    spec = parts[0].spec
    for source, part in zip(SOURCES, parts, strict=False):
        if not part.transitions:
            raise KalmError(f"there are no {source} transitions. Give at least one rollout.")
        for what in ("state_size", "action_kind", "action_size"):
            here, there = getattr(part.spec, what), getattr(spec, what)
            if here != there:
                raise KalmError(
                    f"{source} rollouts have {what} {here}, real ones {there}. Both must come from one world."
                )


def _rows_of(batch: TorchMiniBatch, rows: slice) -> TorchMiniBatch:
    names = ("observations", "actions", "rewards", "next_observations", "next_actions", "returns_to_go")
    columns = {name: getattr(batch, name)[rows] for name in (*names, "terminals", "intervals")}
    return TorchMiniBatch(**columns, device=batch.device)
