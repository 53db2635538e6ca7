"""`RolloutSet`: many rollouts as flat columns. Immutable; every change returns a new set.

Rollouts differ in length, so states and actions of all of them lie end to end, and `lengths` says where each
ends. A set of N rollouts with T_i actions has sum(T_i) actions and sum(T_i + 1) states: the state after the
last action is kept, because without it the last transition would be lost.

::

    states   s0   s1   s2   ...  sT | s0  s1 ...       sum(T_i) + N rows
    actions     a0   a1   ...  a(T-1) |  a0 ...        sum(T_i) rows
    rewards     r0   r1   ...  r(T-1) |  r0 ...        sum(T_i) rows

Each rollout has a weight, 1 unless it was given another: training draws its transitions in proportion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from kalm.envs.rollout import EpisodeRecorder
from kalm.types import SOURCES, Instruction, JsonObject, Rollout, Source, WorldSpec

EVEN = np.ones(0, np.float32)  # stands for: every rollout has the weight 1


@dataclass(frozen=True, eq=False)
class RolloutSet:
    """N rollouts of one world, columnar and ragged.

    Attributes:
        spec: the world they belong to.
        instructions: table of the distinct instructions in use.
        which: (N,) int32 index of each rollout's instruction.
        lengths: (N,) int32 number of actions.
        states: (sum(T) + N, S) float32.
        actions: (sum(T),) int64, or (sum(T), A) float32.
        rewards: (sum(T),) float32.
        success: (N,) bool, the last transition reaches the goal.
        source: (N,) int8 index into `kalm.types.SOURCES`.
        weights: (N,) float32 above 0, how much each rollout counts in training; all 1 by default.
    """

    spec: WorldSpec
    instructions: tuple[Instruction, ...]
    which: np.ndarray  # (N,) int32
    lengths: np.ndarray  # (N,) int32
    states: np.ndarray  # (sum(T) + N, S) float32
    actions: np.ndarray  # (sum(T),) int64 or (sum(T), A) float32
    rewards: np.ndarray  # (sum(T),) float32
    success: np.ndarray  # (N,) bool
    source: np.ndarray  # (N,) int8
    weights: np.ndarray = field(default_factory=lambda: EVEN)  # (N,) float32

    def __post_init__(self) -> None:
        if self.weights is EVEN:
            object.__setattr__(self, "weights", np.ones(len(self.lengths), np.float32))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: int) -> Rollout:
        first, count = int(self.action_starts[index]), int(self.lengths[index])
        start = int(self.state_starts[index])
        return Rollout(
            instruction=self.instructions[self.which[index]],
            states=self.states[start : start + count + 1],
            actions=self.actions[first : first + count],
            rewards=self.rewards[first : first + count],
            success=bool(self.success[index]),
            source=SOURCES[self.source[index]],
            weight=float(self.weights[index]),
        )

    def __iter__(self) -> Iterator[Rollout]:
        return (self[index] for index in range(len(self)))

    @cached_property
    def action_starts(self) -> np.ndarray:
        """Row of each rollout's first action: (N,) int64."""
        return (
            np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)[:-1]])
            if len(self)
            else np.zeros(0, int)
        )

    @cached_property
    def state_starts(self) -> np.ndarray:
        """Row of each rollout's first state: (N,) int64."""
        return self.action_starts + np.arange(len(self))

    @property
    def transitions(self) -> int:
        """Total number of actions."""
        return len(self.actions)

    @cached_property
    def owner(self) -> np.ndarray:
        """Rollout that each action belongs to: (sum(T),) int64."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @cached_property
    def before(self) -> np.ndarray:
        """Row of the state before each action: (sum(T),) int64. The state after it is the next row."""
        return np.arange(self.transitions) + self.owner

    @cached_property
    def state_owner(self) -> np.ndarray:
        """Rollout that each state belongs to: (sum(T) + N,) int64."""
        return np.repeat(np.arange(len(self)), self.lengths + 1)

    @cached_property
    def returns_to_go(self) -> np.ndarray:
        """Sum of the rewards from each action to the end of its rollout, undiscounted: (sum(T),) float32."""
        earned = np.concatenate([[0.0], np.cumsum(self.rewards, dtype=np.float64)])  # before each action
        ends = earned[self.action_starts + self.lengths]
        return (ends[self.owner] - earned[:-1]).astype(np.float32)

    @property
    def last_action(self) -> np.ndarray:
        """Row of each rollout's last action: (N,) int64."""
        return self.action_starts + self.lengths - 1

    @property
    def first_states(self) -> np.ndarray:
        """Initial states: (N, S)."""
        return self.states[self.state_starts]

    @property
    def levels(self) -> np.ndarray:
        """Level of each rollout's instruction: (N,) str."""
        names = np.array([instruction.level for instruction in self.instructions], dtype=object)
        return names[self.which] if len(self) else np.zeros(0, dtype=object)

    def take(self, rows: np.ndarray) -> RolloutSet:
        """Return the rollouts at these indices or where this (N,) mask is true, in that order."""
        rows = np.flatnonzero(rows) if np.asarray(rows).dtype == bool else np.asarray(rows, dtype=np.int64)
        lengths = self.lengths[rows]
        actions = _spans(self.action_starts[rows], lengths)
        states = _spans(self.state_starts[rows], lengths + 1)
        used, which = np.unique(self.which[rows], return_inverse=True)
        return replace(
            self,
            instructions=tuple(self.instructions[i] for i in used),
            which=which.astype(np.int32),
            lengths=lengths,
            states=self.states[states],
            actions=self.actions[actions],
            rewards=self.rewards[actions],
            success=self.success[rows],
            source=self.source[rows],
            weights=self.weights[rows],
        )

    def cut(self, lengths: np.ndarray) -> RolloutSet:
        """Return the rollouts with only their first (N,) actions; success is not judged anew."""
        assert lengths.shape == self.lengths.shape and (lengths <= self.lengths).all()
        actions = _spans(self.action_starts, lengths)
        return replace(
            self,
            lengths=lengths.astype(np.int32),
            states=self.states[_spans(self.state_starts, lengths + 1)],
            actions=self.actions[actions],
            rewards=self.rewards[actions],
        )

    def split(self, share: float, rng: np.random.Generator) -> tuple[RolloutSet, RolloutSet]:
        """Split at random; the second part has round(share * N) rollouts."""
        order = rng.permutation(len(self))
        count = round(share * len(self))
        return self.take(np.sort(order[count:])), self.take(np.sort(order[:count]))

    def stats(self) -> JsonObject:
        """Return counts, success and mean length, in all and per level, JSON-ready."""
        levels, sources = self.levels, np.array(SOURCES, dtype=object)[self.source]
        return {
            **self._summary(np.ones(len(self), dtype=bool)),
            "transitions": self.transitions,
            "instructions": len(self.instructions),
            "levels": {level: self._summary(levels == level) for level in sorted(set(levels))},
            "sources": {source: self._summary(sources == source) for source in sorted(set(sources))},
        }

    def _summary(self, mask: np.ndarray) -> JsonObject:
        count = int(mask.sum())
        return {
            "rollouts": count,
            "success": float(self.success[mask].mean()) if count else None,
            "actions": float(self.lengths[mask].mean()) if count else None,
        }

    def digest(self) -> str:
        """Return a hash of all that a training can see: sentences and every column but the source."""
        found = hashlib.sha256("\n".join(instruction.text for instruction in self.instructions).encode())
        names = ("which", "lengths", "states", "actions", "rewards", "success", "weights")
        for name in names:
            found.update(np.ascontiguousarray(getattr(self, name)).data)
        return found.hexdigest()

    def with_scores(self, rewards: np.ndarray, success: np.ndarray) -> RolloutSet:
        """Return the same rollouts with these rewards (sum(T),) and successes (N,)."""
        assert rewards.shape == self.rewards.shape and success.shape == self.success.shape
        return replace(self, rewards=rewards.astype(np.float32), success=success.astype(bool))

    @classmethod
    def from_recorder(
        cls, instructions: Sequence[Instruction], record: EpisodeRecorder, source: Source
    ) -> RolloutSet:
        """Drop the padding of N episodes that were played side by side.

        Args:
            instructions: N instructions, repeats allowed.
            record: the episodes.
            source: where all of them come from.
        """
        assert len(instructions) == len(record), (len(instructions), len(record))
        table: dict[Instruction, int] = {}
        which = [table.setdefault(instruction, len(table)) for instruction in instructions]
        used = np.arange(record.horizon) < record.lengths[:, None]  # (N, H)
        visited = np.arange(record.horizon + 1) <= record.lengths[:, None]  # (N, H + 1)
        return cls(
            spec=record.spec,
            instructions=tuple(table),
            which=np.array(which, dtype=np.int32),
            lengths=record.lengths.copy(),
            states=record.states[visited],
            actions=record.actions[used],
            rewards=record.rewards[used],
            success=record.success.copy(),
            source=np.full(len(record), SOURCES.index(source), dtype=np.int8),
        )

    @classmethod
    def from_rollouts(cls, spec: WorldSpec, rollouts: Sequence[Rollout]) -> RolloutSet:
        """Build a set from single rollouts (small sets and tests)."""
        table: dict[Instruction, int] = {}
        which = [table.setdefault(rollout.instruction, len(table)) for rollout in rollouts]
        actions = [np.asarray(rollout.actions) for rollout in rollouts]
        empty = np.zeros((0, *spec.action_shape))
        return cls(
            spec=spec,
            instructions=tuple(table),
            which=np.array(which, dtype=np.int32),
            lengths=np.array([len(rollout.actions) for rollout in rollouts], dtype=np.int32),
            states=np.concatenate(
                [np.zeros((0, spec.state_size)), *(rollout.states for rollout in rollouts)]
            ).astype(np.float32),
            actions=np.concatenate([empty, *actions]).astype(spec.action_dtype),
            rewards=np.concatenate([np.zeros(0), *(rollout.rewards for rollout in rollouts)]).astype(
                np.float32
            ),
            success=np.array([rollout.success for rollout in rollouts], dtype=bool),
            source=np.array([SOURCES.index(rollout.source) for rollout in rollouts], dtype=np.int8),
            weights=np.array([rollout.weight for rollout in rollouts], dtype=np.float32),
        )

    @classmethod
    def concat(cls, parts: Sequence[RolloutSet]) -> RolloutSet:
        """Join sets of the same world; instruction tables are merged."""
        assert parts, "concat needs at least one set"
        spec = parts[0].spec
        assert all(part.spec == spec for part in parts), [part.spec.name for part in parts]
        table: dict[Instruction, int] = {}
        which = []
        for part in parts:
            new = np.array([table.setdefault(i, len(table)) for i in part.instructions], dtype=np.int32)
            which.append(new[part.which] if len(part) else np.zeros(0, dtype=np.int32))
        return cls(
            spec=spec,
            instructions=tuple(table),
            which=np.concatenate(which),
            **{
                name: np.concatenate([getattr(part, name) for part in parts])
                for name in ("lengths", "states", "actions", "rewards", "success", "source", "weights")
            },
        )


def _spans(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Concatenate the ranges start..start+count of every pair, without a loop."""
    ends = np.cumsum(counts, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total) + np.repeat(starts - (ends - counts), counts)
