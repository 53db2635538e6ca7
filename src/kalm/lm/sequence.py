"""The fine-tuning tasks as token sequences: the only place where prompts are spelled.

An example is a prompt (text) followed by a body in which text tokens, states and actions stand in
one sequence::

    generation   [Generate a rollout ... goal ... Rollout:]  s0 A0 S1 A1 S2 ...
    explanation  [Translate the state/action rollout ...]    s0 a0 s1 ... sT "Goal:" W1 W2 ... END
    dynamics     [You are an expert in identifying ...]      st ", after executing action" at ", we ..." St+1

Capitals are what the model has to produce. Tokens are columns of integers, `Tokens`; a state is a row number
of the rollout set, an action likewise, so building a sequence copies no numbers. The prompt never looks at
its body, so several bodies can share one reading of the same prompt (`kalm.lm.collate`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError

TEXT, STATE, ACTION = 0, 1, 2

# Paper, appendix on prompts. [X] slots are the places between the strings.
GENERATION = "Translate the textual goal to state/action rollout.\n Goal: {goal}.\n Rollout:"
GOAL_ORIENTED = "Generate a rollout for the following goal: {goal}. Rollout:"
EXPLANATION = ("Translate the state/action rollout to textual goal.\n Rollout:", "\n Goal:")
DYNAMICS = (
    "You are an expert in identifying environmental dynamics change. Current state is",
    ", after executing action",
    ", we get next state:",
)
PROMPTS = {"goal-oriented": GOAL_ORIENTED, "generation": GENERATION}


@dataclass(frozen=True)
class Tokens:
    """A stretch of tokens, columnar.

    Attributes:
        kind: (L,) int8, TEXT, STATE or ACTION.
        value: (L,) int64, token id, or row of the state or action in the rollout set.
        learn: (L,) bool, the model has to produce this token.
    """

    kind: np.ndarray  # (L,) int8
    value: np.ndarray  # (L,) int64
    learn: np.ndarray  # (L,) bool

    def __len__(self) -> int:
        return len(self.kind)

    @classmethod
    def text(cls, ids: Iterable[int], learn: bool = False) -> Tokens:
        """Tokens of a text."""
        value = np.fromiter(ids, dtype=np.int64)
        return cls(np.full(len(value), TEXT, np.int8), value, np.full(len(value), learn))

    @classmethod
    def one(cls, kind: int, row: int, learn: bool = False) -> Tokens:
        """Return the token of a single state or action."""
        return cls(np.array([kind], np.int8), np.array([row]), np.array([learn]))

    @classmethod
    def rollout(cls, first_state: int, first_action: int, length: int, learn: bool) -> Tokens:
        """Interleave s0, a0, s1, ...; with `learn` everything after s0 is to be produced."""
        kind = np.full(2 * length + 1, STATE, np.int8)  # (2T + 1,)
        kind[1::2] = ACTION
        value = np.empty(2 * length + 1, np.int64)
        value[0::2] = np.arange(first_state, first_state + length + 1)
        value[1::2] = np.arange(first_action, first_action + length)
        mask = np.full(2 * length + 1, learn)
        mask[0] = False
        return cls(kind, value, mask)

    @classmethod
    def join(cls, parts: Iterable[Tokens]) -> Tokens:
        """Put stretches one after another."""
        parts = list(parts)
        return cls(
            np.concatenate([part.kind for part in parts]),
            np.concatenate([part.value for part in parts]),
            np.concatenate([part.learn for part in parts]),
        )


@dataclass(frozen=True)
class Example:
    """One sequence to learn from: a prompt, and a body that follows it."""

    prompt: Tokens
    body: Tokens


class Speller:
    """Spells examples with one tokenizer; each distinct string is tokenized once."""

    def __init__(self, tokenizer: Any, context: int) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.start = _first_id(tokenizer, "cls_token_id", "bos_token_id")
        end = _first_id(tokenizer, "sep_token_id", "eos_token_id")
        if end is None:
            raise KalmError(
                "the tokenizer has neither an end-of-text nor a separator token; texts could not end."
            )
        self.end = end
        self._ids: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        if text not in self._ids:
            self._ids[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._ids[text]

    def prompt(self, text: str) -> Tokens:
        """Tokens of a prompt, opened by the tokenizer's start token where it has one."""
        start = [] if self.start is None else [self.start]
        return Tokens.text([*start, *self.ids(text)])

    def goal_prompt(self, goal: str, template: str) -> Tokens:
        """Return the prompt asking for a rollout. Raises KalmError when the goal does not fit the context."""
        prompt = self.prompt(template.format(goal=goal.strip().rstrip(".")))
        if len(prompt) + 3 > self.context:
            raise KalmError(
                f"goal of {len(prompt)} tokens is longer than the model's context of {self.context}: "
                f"{goal[:80]!r}..."
            )
        return prompt

    def generation(self, rollouts: RolloutSet, index: int, template: str) -> Example:
        """Goal to rollout: states and actions after s0 are learnt."""
        instruction = rollouts.instructions[rollouts.which[index]]
        return Example(
            self.goal_prompt(instruction.text, template), self._rollout(rollouts, index, learn=True)
        )

    def explanation(self, rollouts: RolloutSet, index: int) -> Example:
        """Rollout to goal: the words are learnt."""
        text = rollouts.instructions[rollouts.which[index]].text
        answer = [*self.ids(text), self.end]
        body = [
            self._rollout(rollouts, index, learn=False),
            Tokens.text(self.ids(EXPLANATION[1])),
            Tokens.text(answer, learn=True),
        ]
        return Example(self.prompt(EXPLANATION[0]), Tokens.join(body))

    def dynamics(self, rollouts: RolloutSet, index: int, step: int) -> Example:
        """State and action to next state, which is learnt."""
        state = int(rollouts.state_starts[index]) + step
        body = [
            Tokens.one(STATE, state),
            Tokens.text(self.ids(DYNAMICS[1])),
            Tokens.one(ACTION, int(rollouts.action_starts[index]) + step),
            Tokens.text(self.ids(DYNAMICS[2])),
            Tokens.one(STATE, state + 1, learn=True),
        ]
        return Example(self.prompt(DYNAMICS[0]), Tokens.join(body))

    def _rollout(self, rollouts: RolloutSet, index: int, learn: bool) -> Tokens:
        return Tokens.rollout(
            int(rollouts.state_starts[index]),
            int(rollouts.action_starts[index]),
            int(rollouts.lengths[index]),
            learn,
        )


def _first_id(tokenizer: Any, *names: str) -> int | None:
    return next((found for name in names if (found := getattr(tokenizer, name, None)) is not None), None)
