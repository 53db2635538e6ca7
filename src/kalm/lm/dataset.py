"""What is learnt in which order: packed rows of examples for every epoch, from (seed, epoch) alone.

A plan holds only numbers of rollouts and token counts; sequences are spelled when their batch comes, so a
training of any size starts at once, and one that resumes finds the very batch that was next.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError
from kalm.lm import packing, phrases
from kalm.lm.packing import PackedRow
from kalm.lm.prompts import PROMPTS, PromptBuilder
from kalm.lm.settings import GroundConfig
from kalm.runs.seeding import derive_rng

# Rollouts that share one reading of a goal: more save tokens, fewer put more different goals in a batch.
SHARED_GOAL = 4
# Without memory every step is an example of its own, and steps side by side are nearly the same example. So a
# rollout is dealt out over so many places in the epoch, step by step, each with a reading of the goal.
DEALT = 4


@dataclass(frozen=True)
class _Planned:
    """A group before it is spelled.

    Attributes:
        task: its name.
        rollouts: that it shows.
        tokens: how many it will have.
        template: of generation's prompt.
        steps: of the rollout in generation without memory.
        at: the step of each rollout in dynamics.
        text: how a replayed text begins and ends.
    """

    task: str
    rollouts: tuple[int, ...]
    tokens: int
    template: str = ""
    steps: slice = field(default_factory=lambda: slice(None))
    at: tuple[int, ...] = ()
    text: tuple[str, str] = ("", "")


class GroundingDataset:
    """What is learnt in which order: packed rows for every epoch, from (seed, epoch) alone."""

    def __init__(
        self, rollouts: RolloutSet, prompt_builder: PromptBuilder, config: GroundConfig, seed: int
    ) -> None:
        self.rollouts = rollouts
        self.prompt_builder = prompt_builder
        self.config = config
        self.seed = seed
        self._epoch: tuple[int, list[list[_Planned]]] = (-1, [])
        self.steps_per_epoch: int = max(1, len(self._rows(0)) // config.rows)
        self.steps: int = max(1, round(config.epochs * self.steps_per_epoch))

    def groups(self, step: int, part: int = 0, parts: int = 1) -> list[list[PackedRow]]:
        """Return the rows of one step's batch, spelled; or a part of them, when processes divide the step.

        Raises:
            KalmError: the batch has fewer rows than parts.
        """
        if self.config.rows < parts:
            raise KalmError(
                f"a batch of {self.config.rows} rows cannot be divided into {parts} parts (processes times "
                "ground.accumulate). Raise ground.rows, or use fewer."
            )
        epoch, at = divmod(step, self.steps_per_epoch)
        rows = self._rows(epoch)
        # An epoch may pack into fewer rows than the first did; its last batch is filled from its front.
        first, last = at * self.config.rows, (at + 1) * self.config.rows
        rows = [rows[row % len(rows)] for row in range(first + part, last, parts)]
        return [[self._spell(planned) for planned in row] for row in rows]

    def tokens(self) -> int:
        """Tokens of the first epoch, without padding."""
        return sum(planned.tokens for row in self._rows(0) for planned in row)

    def examples(self) -> Counter[str]:
        """Examples of the first epoch, per task; without memory, a rollout's parts are counted."""
        counts: Counter[str] = Counter()
        for row in self._rows(0):
            for planned in row:
                counts[planned.task] += max(1, len(planned.rollouts))  # a replayed text has none
        return counts

    def _rows(self, epoch: int) -> list[list[_Planned]]:
        if self._epoch[0] != epoch:
            rng = derive_rng(self.seed, "ground", epoch)
            groups = [
                *self._generation(rng),
                *self._explanation(rng),
                *self._dynamics(rng),
                *self._replay(derive_rng(self.seed, "ground", epoch, "replay")),
            ]
            groups = [groups[i] for i in rng.permutation(len(groups))]
            packed = packing.pack([group.tokens for group in groups], self.config.row_tokens)
            order = rng.permutation(len(packed))
            self._epoch = (epoch, [[groups[i] for i in packed[row]] for row in order])
        return self._epoch[1]

    def _generation(self, rng: np.random.Generator) -> list[_Planned]:
        chosen = self._choose(self.config.tasks.generation, rng)
        if not self.prompt_builder.memory:
            return [planned for index in chosen.tolist() for planned in self._dealt(index, rng)]
        chosen = chosen[np.argsort(self.rollouts.which[chosen], kind="stable")]
        starts = np.flatnonzero(np.diff(self.rollouts.which[chosen], prepend=-1))
        groups = []
        for same in np.split(chosen, starts[1:]):
            for first in range(0, len(same), SHARED_GOAL):
                part = same[first : first + SHARED_GOAL]
                steps = int(self.rollouts.lengths[part].sum())
                template, prompt = self._prompt(part[0], rng)
                tokens = prompt + (self.prompt_builder.entities + 2) * steps
                groups.append(_Planned("generation", tuple(part.tolist()), tokens, template))
        return groups

    def _dealt(self, index: int, rng: np.random.Generator) -> list[_Planned]:
        """Deal out the steps of a rollout."""
        groups = []
        for first in range(min(DEALT, int(self.rollouts.lengths[index]))):
            steps = slice(first, None, DEALT)
            count = len(range(int(self.rollouts.lengths[index]))[steps])
            template, prompt = self._prompt(index, rng)
            tokens = prompt + (self.prompt_builder.entities + 2) * count
            groups.append(_Planned("generation", (index,), tokens, template, steps))
        return groups

    def _prompt(self, index: int, rng: np.random.Generator) -> tuple[str, int]:
        """Draw how a rollout's goal is asked for; return that and its number of tokens."""
        template = list(PROMPTS.values())[int(rng.integers(len(PROMPTS)))]
        text = self.rollouts.instructions[self.rollouts.which[index]].text
        return template, len(self.prompt_builder.goal_prompt(text, template))

    def _explanation(self, rng: np.random.Generator) -> list[_Planned]:
        chosen = self._choose(self.config.tasks.explanation, rng)
        if not len(chosen):
            return []
        prompt = len(self.prompt_builder.explanation(self.rollouts, int(chosen[0])).prompt)
        bodies = [len(self.prompt_builder.explanation(self.rollouts, int(index)).body) for index in chosen]
        return self._share("explanation", chosen, bodies, prompt)

    def _dynamics(self, rng: np.random.Generator) -> list[_Planned]:
        chosen = self._choose(self.config.tasks.dynamics, rng)
        if not len(chosen):
            return []
        example = self.prompt_builder.dynamics(self.rollouts, 0, 0)
        steps = rng.integers(self.rollouts.lengths[chosen])
        return self._share(
            "dynamics",
            chosen,
            [len(example.body)] * len(chosen),
            len(example.prompt),
            steps.tolist(),
        )

    def _replay(self, rng: np.random.Generator) -> list[_Planned]:
        groups = []
        for _ in range(round(self.config.tasks.text_replay * len(self.rollouts))):
            text, answer = phrases.translation(rng)
            example = self.prompt_builder.replay(text, answer)
            tokens = len(example.prompt) + len(example.body)
            groups.append(_Planned("replay", (), tokens, text=(text, answer)))
        return groups

    def _share(
        self,
        task: str,
        chosen: np.ndarray,
        bodies: Sequence[int],
        prompt: int,
        at: Sequence[int] = (),
    ) -> list[_Planned]:
        """Put bodies behind copies of a prompt that is the same for all, at most half a row each."""
        places = packing.pack(bodies, max(1, self.config.row_tokens // 2 - prompt), open_rows=1)
        return [
            _Planned(
                task,
                tuple(int(chosen[i]) for i in place),
                prompt + sum(bodies[i] for i in place),
                at=tuple(at[i] for i in place) if at else (),
            )
            for place in places
        ]

    def _choose(self, share: float, rng: np.random.Generator) -> np.ndarray:
        count = round(share * len(self.rollouts))
        order = [rng.permutation(len(self.rollouts)) for _ in range(math.ceil(share))]
        return np.concatenate([*order, np.zeros(0, np.int64)])[:count].astype(np.int64)

    def _spell(self, planned: _Planned) -> PackedRow:
        if planned.task == "generation":
            parts = [
                self.prompt_builder.generations(self.rollouts, i, planned.template, planned.steps)
                for i in planned.rollouts
            ]
            examples = [example for part in parts for example in part]
        elif planned.task == "explanation":
            examples = [self.prompt_builder.explanation(self.rollouts, i) for i in planned.rollouts]
        elif planned.task == "replay":
            examples = [self.prompt_builder.replay(*planned.text)]
        else:
            pairs = zip(planned.rollouts, planned.at, strict=True)
            examples = [self.prompt_builder.dynamics(self.rollouts, i, step) for i, step in pairs]
        return packing.group(examples)
