"""Real and imagined transitions, from which batches are cut by index arithmetic.

Goal vectors stand once per instruction, with room for a state in front, so that an observation is one
gathered row whose first S numbers are then overwritten. Vectors of discrete actions (one-hot) exist in
batches only.

::

    observation   [ s_t (S) | enc(G) (E) ]
    batch         [ real rows ..., imagined rows ... ]
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch.nn import functional as F

from kalm.data.rollouts import RolloutSet
from kalm.dynamics.normalizer import Normalizer
from kalm.errors import KalmError
from kalm.rl.batch import TransitionBatch
from kalm.rl.encoder import GoalEncoder
from kalm.rl.transitions import Columns, TransitionTable, resident
from kalm.types import SOURCES, Instruction, JsonObject, WorldSpec

# Noise is drawn once for so many copies of a goal's vector. A transition always has the same one.
NOISY_COPIES = 64


class MixedBuffer:
    """Transitions of one or two `RolloutSet`s, sampled within each in proportion to their rollouts' weights.

    Args:
        real: rollouts of the offline data.
        imagined: imagined rollouts, or None.
        encoder: gives each instruction its vector.
        mix: share of a batch that is imagined: round(mix * n) of n; ignored without imagined rollouts.
        rng: draws the transitions; belongs to the buffer from now on.
        device: torch device that holds the table and the batches.
        vectors: give discrete actions as one-hot vectors; continuous ones are vectors anyway.
        reward_scale: rewards are multiplied by it.
        normalizer: of the states of observations; None: they are left as they are.
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
        normalizer: Normalizer | None = None,
        goal_noise: float = 0.0,
    ) -> None:
        sets = [part for part in (real, imagined) if part is not None]
        _require(sets, mix)
        self.spec: WorldSpec = real.spec
        self.device = device
        self.mix: float = 0.0 if imagined is None else mix
        self._one_hot = self.spec.action_size if vectors and self.spec.action_kind == "discrete" else None
        self.reward_scale = reward_scale
        self._normalizer = normalizer
        firsts = np.cumsum([0, *(len(part.instructions) for part in sets)])
        self._parts = [
            TransitionTable(part, int(first), device) for part, first in zip(sets, firsts, strict=False)
        ]
        self._rng = rng
        instructions = [item for part in sets for item in part.instructions]
        encoded = encoder.encode([item.text for item in instructions])  # (goals, E)
        self._copies = NOISY_COPIES if goal_noise else 1
        self.instructions: list[Instruction] = [item for item in instructions for _ in range(self._copies)]
        encoded = encoded.repeat(self._copies, axis=0)  # (goals, E) from now on
        if goal_noise:
            lengths = np.linalg.norm(encoded, axis=1, keepdims=True)  # (goals, 1)
            noise = rng.standard_normal(encoded.shape, dtype=np.float32) / encoded.shape[1] ** 0.5
            encoded = encoded + goal_noise * lengths * noise
        room = np.zeros((len(encoded), self.spec.state_size), encoded.dtype)  # for the state
        self._goals = resident(np.concatenate([room, encoded], axis=1), device)  # (goals, S + E)

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

    def sample(self, n: int) -> TransitionBatch:
        """Draw n transitions: what `Learner.update` takes."""
        return self.gather(self.draw(n))

    def real_rows(self, n: int) -> int:
        """Return how many rows of a batch of n are real; they come first."""
        return n - round(self.mix * n)

    def draw(self, n: int) -> np.ndarray:
        """Draw rows: the real ones first, then round(mix * n) imagined ones: (n,) int64."""
        real, uniform = self.real_rows(n), self._rng.random(n)
        imagined = self._parts[-1].rows(uniform[real:]) + self.counts[0]
        return np.concatenate([self._parts[0].rows(uniform[:real]), imagined])

    def gather(self, rows: np.ndarray) -> TransitionBatch:
        """Join the transitions at these rows (n,) into observations (n, S + E) and columns (n, 1)."""
        found = self._columns(np.asarray(rows))
        return TransitionBatch(
            observations=self.observe(found.before, found.goal),
            actions=self._action(found.action),
            rewards=found.reward.unsqueeze(1) * self.reward_scale,
            next_observations=self.observe(found.after, found.goal),
            terminals=found.terminal.unsqueeze(1).float(),
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
        return states if self._normalizer is None else self._normalizer.normal(states)

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

    def by_source(self, batch: TransitionBatch) -> dict[str, TransitionBatch]:
        """Split a batch that `sample` made into its real and its imagined rows, without copying them."""
        real = self.real_rows(len(batch))
        cuts = {"real": slice(None, real), "imagined": slice(real, None)}
        return {source: batch.rows(cuts[source]) for source in SOURCES}

    def state(self) -> JsonObject:
        """Return where the random draws stand, JSON-ready."""
        return dict(self._rng.bit_generator.state)

    def restore(self, state: Mapping[str, object]) -> None:
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
                    f"{source} rollouts have {what} {here}, real ones {there}. Both must come from one "
                    "environment."
                )
