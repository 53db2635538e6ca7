"""The fine-tuning tasks as token sequences: the only place where prompts are spelled.

An example is a prompt (text) followed by a body in which text tokens, states and actions stand in
one sequence. A token may *ask* for what has to be produced after it (in capitals below the asking token)::

    generation   [Generate a rollout ... goal ... Rollout:]  s0 a0 s1 a1 ...
                                                             A0 S1 A1 S2
    explanation  [Translate the state/action rollout ...]    s0 a0 s1 ... sT "Goal" ":" w1 w2 ...
                                                                                    W1  W2 W3  END
    dynamics     [You are an expert in identifying ...]      st ", after executing action" at ", we ..." ":"
                                                                                                     St+1
    decision     [Generate a rollout ... goal ... Rollout:]  R0 s0 a0 R1 s1 a1 ...
                                                                A0       A1

Decisions are those of a decision transformer (`kalm.lm.decision_transformer`): R is what is still to be
earned. The last answer is no token: nothing follows it that could look at it. A model *without memory*
learns generation from pieces of one step each, ``[s0 a0]``, ``[s1 a1]``, all behind one prompt: where the
next action is easily guessed from the last one, a long sequence teaches to repeat oneself.

With *entity tokens* every state is preceded by one token per named thing of the world (``e1 .. eK s0 a0 e1
.. eK s1 a1``); a state can then be looked up by what the words of the goal mean.

Tokens are columns of integers, `Tokens`; a state is a row number of the rollout set, an action likewise, so
building a sequence copies no numbers. The prompt never looks at its body, so several bodies can share one
reading of the same prompt (`kalm.lm.packing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT, STATE, ACTION, ENTITY, RETURN = 0, 1, 2, 3, 4
NOTHING = -1  # what a token asks for that has no answer

# Paper, appendix on prompts. [X] slots are the places between the strings.
GENERATION = "Translate the textual goal to state/action rollout.\n Goal: {goal}.\n Rollout:"
GOAL_ORIENTED = "Generate a rollout for the following goal: {goal}. Rollout:"
EXPLANATION = ("Translate the state/action rollout to textual goal.\n Rollout:", "\n Goal:")
# Only for measuring: asked in words that the model was not trained on. {scene} is the world's.
UNSEEN_EXPLANATION = (
    "Suppose you are playing gaming of {scene}. Please explain the following rollout briefly.\n rollout:",
    "\n Answer:",
)
DYNAMICS = (
    "You are an expert in identifying environmental dynamics change. Current state is",
    ", after executing action",
    ", we get next state:",
)
PROMPTS = {"goal-oriented": GOAL_ORIENTED, "generation": GENERATION}
# Ours: what stands between a text and its continuation (`kalm.lm.phrases`).
REPLAY = "\n In plain words:"


def explanation_prompts(scene: str) -> dict[str, tuple[str, str]]:
    """Return the two prompts for explanations, as text before and after the rollout, by name."""
    before, after = UNSEEN_EXPLANATION
    return {"seen_prompt": EXPLANATION, "unseen_prompt": (before.format(scene=scene), after)}


@dataclass(frozen=True)
class Tokens:
    """A stretch of tokens, columnar.

    Attributes:
        kind: (L,) int8, TEXT, STATE, ACTION, ENTITY or RETURN.
        value: (L,) int64, token id, or row of the state or action in the rollout set; of an entity
            its state's row times the number of entities, plus its own number; of a return the row of
            the action that it stands before.
        asks: (L,) int8, kind of what has to be produced after this token, or NOTHING.
        answer: (L,) int64, its value.
    """

    kind: np.ndarray  # (L,) int8
    value: np.ndarray  # (L,) int64
    asks: np.ndarray  # (L,) int8
    answer: np.ndarray  # (L,) int64

    def __len__(self) -> int:
        return len(self.kind)

    @classmethod
    def text(cls, ids: Iterable[int]) -> Tokens:
        """Tokens of a text."""
        value = np.fromiter(ids, dtype=np.int64)
        return cls.silent(np.full(len(value), TEXT, np.int8), value)

    @classmethod
    def answered(cls, lead: Sequence[int], answer: Sequence[int]) -> Tokens:
        """Tokens of the text `lead` (at least one) and of the text `answer`, which has to be produced."""
        tokens = cls.text([*lead, *answer[:-1]])
        asking = np.arange(len(lead) - 1, len(tokens))
        tokens.asks[asking], tokens.answer[asking] = TEXT, answer
        return tokens

    @classmethod
    def action(cls, row: int) -> Tokens:
        """Return the token of a single action."""
        return cls.silent(np.array([ACTION], np.int8), np.array([row]))

    @classmethod
    def state(cls, row: int, entities: int) -> Tokens:
        """Return the tokens of a single state."""
        return cls.rollout(row, 0, 0, entities)

    @classmethod
    def rollout(
        cls, first_state: int, first_action: int, length: int, entities: int, learn: bool = False
    ) -> Tokens:
        """Interleave s0, a0, s1, ...; with `learn` all after s0 is asked for, and sT is no token."""
        block = entities + 2
        state = first_state + np.arange(length + 1)  # (T + 1,)
        kind = np.tile(np.array([ENTITY] * entities + [STATE, ACTION], np.int8), length + 1)
        value = np.empty((length + 1, block), np.int64)
        value[:, :entities] = state[:, None] * entities + np.arange(entities)
        value[:, -2] = state
        value[:, -1] = first_action + np.arange(length + 1)
        tokens = cls.silent(kind, value.reshape(-1))
        if learn:
            tokens.asks[entities::block], tokens.answer[entities::block] = ACTION, value[:, -1]
            tokens.asks[entities + 1 :: block], tokens.answer[entities + 1 :: block] = STATE, state + 1
        return tokens.first(length * block if learn else (length + 1) * block - 1)

    @classmethod
    def decisions(cls, first_state: int, first_action: int, length: int, entities: int) -> Tokens:
        """Interleave R0, s0, a0, R1, s1, ...; every action is asked for, and the last is no token."""
        block = entities + 3
        plain = cls.rollout(first_state, first_action, length, entities).first(length * (block - 1))
        row = first_action + np.arange(length)  # (T,)
        returns = np.full(length, RETURN, np.int8)
        tokens = cls.silent(
            np.column_stack([returns, plain.kind.reshape(length, -1)]).reshape(-1),
            np.column_stack([row, plain.value.reshape(length, -1)]).reshape(-1),
        )
        asking = slice(entities + 1, None, block)  # states
        tokens.asks[asking], tokens.answer[asking] = ACTION, row
        return tokens.first(length * block - 1)

    @classmethod
    def silent(cls, kind: np.ndarray, value: np.ndarray) -> Tokens:
        """Tokens that ask for nothing."""
        return cls(kind, value, np.full(len(kind), NOTHING, np.int8), np.zeros(len(kind), np.int64))

    @classmethod
    def join(cls, parts: Iterable[Tokens]) -> Tokens:
        """Put stretches one after another."""
        parts = list(parts)
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__annotations__))

    def first(self, count: int) -> Tokens:
        """Return the first `count` tokens."""
        return Tokens(self.kind[:count], self.value[:count], self.asks[:count], self.answer[:count])


@dataclass(frozen=True)
class Example:
    """One sequence to learn from: a prompt, and a body that follows it."""

    prompt: Tokens
    body: Tokens


class PromptBuilder:
    """Spells examples with one tokenizer; each distinct string is tokenized once."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, context: int, entities: int = 0, memory: bool = True
    ) -> None:
        self.tokenizer = tokenizer
        self.context = context
        self.entities = entities
        self.memory = memory
        self.start: int | None = _first_id(tokenizer, "cls_token_id", "bos_token_id")
        end = _first_id(tokenizer, "sep_token_id", "eos_token_id")
        if end is None:
            raise KalmError(
                "the tokenizer has neither an end-of-text nor a separator token; texts could not end."
            )
        self.end = end
        self._ids: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens.

        A text that spells one, such as ``</s>`` or ``[SEP]``, is taken as these letters: a sentence must not
        be able to end itself.
        """
        if text not in self._ids:
            found = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)
            self._ids[text] = found["input_ids"]
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

    def require_room(self, rollouts: RolloutSet) -> None:
        """Raise KalmError when some rollout, with its goal before it or after it, exceeds the context."""
        told = len(self.prompt(EXPLANATION[0])) + len(self.ids(EXPLANATION[1])) + self.entities + 1
        words = np.zeros(len(rollouts.instructions), np.int64)
        for number in np.unique(rollouts.which):
            text = rollouts.instructions[number].text
            asked = [len(self.goal_prompt(text, template)) for template in PROMPTS.values()]
            words[number] = max(told + len(self.ids(text)), *asked)
        needed = words[rollouts.which] + (self.entities + 2) * rollouts.lengths  # (N,)
        longest = int(np.argmax(needed))
        if needed[longest] > self.context:
            raise KalmError(
                f"a rollout of {rollouts.lengths[longest]} steps and its goal need {needed[longest]} "
                f"positions, the model has {self.context}: {int((needed > self.context).sum())} of "
                f"{len(rollouts)} rollouts are too long. Collect shorter ones, or "
                "ground a backbone with a longer context."
            )

    def generation(self, rollouts: RolloutSet, index: int, template: str) -> Example:
        """Goal to rollout: states and actions after s0 are learnt."""
        instruction = rollouts.instructions[rollouts.which[index]]
        return Example(
            self.goal_prompt(instruction.text, template), self._rollout(rollouts, index, learn=True)
        )

    def generations(
        self, rollouts: RolloutSet, index: int, template: str, steps: slice = slice(None)
    ) -> list[Example]:
        """Goal to rollout as the model learns it: whole, or without memory an example for each of `steps`."""
        if self.memory:
            return [self.generation(rollouts, index, template)]
        prompt = self.goal_prompt(rollouts.instructions[rollouts.which[index]].text, template)
        state, action = int(rollouts.state_starts[index]), int(rollouts.action_starts[index])
        chosen = range(int(rollouts.lengths[index]))[steps]
        bodies = (Tokens.rollout(state + t, action + t, 1, self.entities, learn=True) for t in chosen)
        return [Example(prompt, body) for body in bodies]

    def explanation(self, rollouts: RolloutSet, index: int) -> Example:
        """Rollout to goal: the words are learnt."""
        text = rollouts.instructions[rollouts.which[index]].text
        answer = Tokens.answered(self.ids(EXPLANATION[1]), [*self.ids(text), self.end])
        body = Tokens.join([self._rollout(rollouts, index, learn=False), answer])
        return Example(self.prompt(EXPLANATION[0]), body)

    def question(self, rollouts: RolloutSet, index: int, prompt: tuple[str, str]) -> Example:
        """Rollout between the two parts of a prompt: its explanation is yet to be written."""
        lead = Tokens.text(self.ids(prompt[1]))
        body = Tokens.join([self._rollout(rollouts, index, learn=False), lead])
        return Example(self.prompt(prompt[0]), body)

    def dynamics(self, rollouts: RolloutSet, index: int, step: int) -> Example:
        """State and action to next state, which is learnt."""
        state = int(rollouts.state_starts[index]) + step
        body = Tokens.join(
            [
                Tokens.state(state, self.entities),
                Tokens.text(self.ids(DYNAMICS[1])),
                Tokens.action(int(rollouts.action_starts[index]) + step),
                Tokens.text(self.ids(DYNAMICS[2])),
            ]
        )
        body.asks[-1], body.answer[-1] = STATE, state + 1
        return Example(self.prompt(DYNAMICS[0]), body)

    def decision(self, rollouts: RolloutSet, index: int) -> Example:
        """Goal and returns to actions, which are learnt."""
        text = rollouts.instructions[rollouts.which[index]].text
        body = Tokens.decisions(
            int(rollouts.state_starts[index]),
            int(rollouts.action_starts[index]),
            int(rollouts.lengths[index]),
            self.entities,
        )
        return Example(self.goal_prompt(text, GOAL_ORIENTED), body)

    def replay(self, text: str, answer: str) -> Example:
        """Text to text: the words of the answer are learnt."""
        return Example(self.prompt(text), Tokens.answered(self.ids(REPLAY), [*self.ids(answer), self.end]))

    def _rollout(self, rollouts: RolloutSet, index: int, learn: bool) -> Tokens:
        return Tokens.rollout(
            int(rollouts.state_starts[index]),
            int(rollouts.action_starts[index]),
            int(rollouts.lengths[index]),
            self.entities,
            learn,
        )


def _first_id(tokenizer: PreTrainedTokenizerBase, *names: str) -> int | None:
    return next((found for name in names if (found := getattr(tokenizer, name, None)) is not None), None)
