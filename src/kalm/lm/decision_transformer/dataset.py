"""Which rollouts stand in which batch of a decision transformer: from (seed, block) alone.

Real and imagined rollouts are mixed as `kalm.rl.buffer` mixes transitions: `mix` is the share of actions that
are imagined, and each rollout counts in proportion to its weight. Here it is rollouts that are drawn, so
longer ones bring more actions; the share of imagined rollouts makes up for a difference in mean length.

Unusual: rollouts are drawn by the thousand (a *block*), not one by one. Within a block, rollouts with the
same sentence stand behind one reading of it, up to a few, which halves the tokens; and drawing is systematic,
every rollout as often as its weight says, give or take once. A training that resumes finds the batch that was
next.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError
from kalm.lm import packing
from kalm.lm.dataset import SHARED_GOAL
from kalm.lm.decision_transformer.settings import DecisionTransformerConfig
from kalm.lm.packing import PackedRow
from kalm.lm.prompts import ACTION, GOAL_ORIENTED, PromptBuilder
from kalm.runs.seeding import derive_rng

BLOCK = 8192  # rollouts drawn together


class DecisionDataset:
    """Packed rows of real and imagined rollouts, block by block.

    Args:
        real: rollouts of the offline data.
        imagined: imagined rollouts, or None.
        mix: share of actions that are imagined; ignored without imagined rollouts.
        prompt_builder: of the model that learns.
        config: sizes of rows and batches.
        seed: of all draws.

    Raises:
        KalmError: a rollout is longer than the model's context.
    """

    def __init__(
        self,
        real: RolloutSet,
        imagined: RolloutSet | None,
        mix: float,
        prompt_builder: PromptBuilder,
        config: DecisionTransformerConfig,
        seed: int,
    ) -> None:
        assert 0 <= mix <= 1, mix
        parts = [real] if imagined is None else [real, imagined]
        self.rollouts: RolloutSet = RolloutSet.concat(parts)
        self.prompt_builder = prompt_builder
        self.config = config
        self.seed = seed
        self.counts: list[tuple[int, int]] = _counts(parts, mix)
        self.prompts: np.ndarray = np.array(
            [len(prompt_builder.goal_prompt(i.text, GOAL_ORIENTED)) for i in self.rollouts.instructions]
        )
        self.bodies: np.ndarray = (prompt_builder.entities + 3) * self.rollouts.lengths - 1  # (N,) tokens
        self._require_room()
        self._block: tuple[int, list[list[np.ndarray]]] = (-1, [])
        self.steps_per_block: int = max(1, len(self._rows(0)) // config.rows)

    def groups(self, step: int) -> list[list[PackedRow]]:
        """Return the rows of one step's batch, spelled."""
        block, at = divmod(step, self.steps_per_block)
        rows = self._rows(block)
        # A block may pack into fewer rows than the first did; its last batch is filled from its front.
        first = at * self.config.rows
        picked = [rows[row % len(rows)] for row in range(first, first + self.config.rows)]
        return [[self._spell(same) for same in row] for row in picked]

    def sources(self, groups: Sequence[Sequence[PackedRow]]) -> np.ndarray:
        """Source of each action that a batch asks for: (r,) int8, index into `kalm.types.SOURCES`."""
        bodies = [body for row in groups for group in row for body in group.bodies]
        actions = np.concatenate([body.answer[body.asks == ACTION] for body in bodies])
        return self.rollouts.source[self.rollouts.owner[actions]]

    def _rows(self, block: int) -> list[list[np.ndarray]]:
        """Rollouts behind each prompt of each packed row."""
        if self._block[0] != block:
            rng = derive_rng(self.seed, "decision", block)
            groups = self._shared(self._draw(rng))
            groups = [groups[i] for i in rng.permutation(len(groups))]
            which = self.rollouts.which
            tokens = [int(self.prompts[which[same[0]]] + self.bodies[same].sum()) for same in groups]
            packed = packing.pack(tokens, self.config.row_tokens)
            order = rng.permutation(len(packed))
            self._block = (block, [[groups[i] for i in packed[row]] for row in order])
        return self._block[1]

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw the rollouts of a block in random order: -> (BLOCK,) int64."""
        drawn, first = [], 0
        for size, count in self.counts:
            drawn.append(first + systematic(self.rollouts.weights[first : first + size], count, rng))
            first += size
        return rng.permutation(np.concatenate(drawn))

    def _shared(self, drawn: np.ndarray) -> list[np.ndarray]:
        """Put rollouts of one sentence together, a few at a time."""
        drawn = drawn[np.argsort(self.rollouts.which[drawn], kind="stable")]
        starts = np.flatnonzero(np.diff(self.rollouts.which[drawn], prepend=-1))
        return [
            same[at : at + SHARED_GOAL]
            for same in np.split(drawn, starts[1:])
            for at in range(0, len(same), SHARED_GOAL)
        ]

    def _spell(self, same: np.ndarray) -> PackedRow:
        return packing.group([self.prompt_builder.decision(self.rollouts, int(index)) for index in same])

    def _require_room(self) -> None:
        needed = self.prompts[self.rollouts.which] + self.bodies
        longest = int(np.argmax(needed))
        if needed[longest] > self.prompt_builder.context:
            raise KalmError(
                f"a rollout of {self.rollouts.lengths[longest]} steps with returns and its goal needs "
                f"{needed[longest]} positions, the model has {self.prompt_builder.context}. Learn from "
                "shorter rollouts, or use a backbone with a longer context."
            )


def systematic(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw rows in proportion to weights, each within one of its due: (N,) -> (count,) int64."""
    order = rng.permutation(len(weights))
    edges = np.cumsum(weights[order], dtype=np.float64)
    at = (np.arange(count) + rng.random()) / max(count, 1) * edges[-1]
    return order[np.searchsorted(edges, at, side="right").clip(max=len(order) - 1)]


def _counts(parts: list[RolloutSet], mix: float) -> list[tuple[int, int]]:
    """Return the number of rollouts of each part, and how many of them a block has."""
    if len(parts) == 1:
        return [(len(parts[0]), BLOCK)]
    lengths = [float(np.average(part.lengths, weights=part.weights)) for part in parts]
    real, imagined = (1 - mix) / lengths[0], mix / lengths[1]
    count = round(BLOCK * imagined / (real + imagined))
    return [(len(parts[0]), BLOCK - count), (len(parts[1]), count)]
