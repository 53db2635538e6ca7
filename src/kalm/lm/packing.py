"""Examples to tensors: the only place where padding and packing exist.

Two ways of not computing the same thing twice or nothing at all:

* bodies share prompts: the prompt does not look at what follows it, so bodies of one prompt stand behind a
  single copy of it, each seeing the prompt and itself (a *group*);
* groups share rows: several groups fill a row of a fixed length, none seeing another, instead of padding each
  to the longest.

Both leave every loss exactly as if each example were alone in its row (tested), because the mask hides the
others and positions restart::

    tokens    P P P P | a a a a | b b b || Q Q Q | c c c c c
    group     0 0 0 0   0 0 0 0   0 0 0    1 1 1   1 1 1 1 1
    body      0 0 0 0   1 1 1 1   2 2 2    0 0 0   1 1 1 1 1      0: prompt
    position  0 1 2 3   4 5 6 7   4 5 6    0 1 2   3 4 5 6 7
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kalm.data.rollouts import RolloutSet
from kalm.lm.prompts import ACTION, ENTITY, RETURN, STATE, TEXT, Example, Tokens


@dataclass(frozen=True)
class PackedRow:
    """One prompt and the bodies that follow it."""

    prompt: Tokens
    bodies: tuple[Tokens, ...]

    def __len__(self) -> int:
        return len(self.prompt) + sum(len(body) for body in self.bodies)


@dataclass(frozen=True)
class PackedBatch:
    """B rows of at most L tokens. Flat indices count through the (B, L) grid row by row."""

    visible: Tensor  # (B, 1, L, L) bool: query sees key
    position: Tensor  # (B, L) int64
    text_at: Tensor  # (n,) flat index of each text token
    text: Tensor  # (n,) token ids
    state_at: Tensor  # (m,) flat index of each state
    states: Tensor  # (m, S)
    entity_at: Tensor  # (m * K,) flat index of each entity, state by state
    action_at: Tensor  # (k,) flat index of each action
    actions: Tensor  # (k,) int64 or (k, A) float
    return_at: Tensor  # (g,) flat index of each return
    returns: Tensor  # (g,) sum of the rewards to come
    ask_text_at: Tensor  # (p,) flat index of each token that asks for a word
    want_text: Tensor  # (p,) token ids
    ask_state_at: Tensor  # (q,) flat index of each token that asks for a state
    present_states: Tensor  # (q, S) the state one step earlier
    want_states: Tensor  # (q, S)
    ask_action_at: Tensor  # (r,) flat index of each token that asks for an action: a state
    acting_states: Tensor  # (r, S) that state
    want_actions: Tensor  # (r,) int64 or (r, A) float
    tokens: int  # without padding

    @property
    def answers(self) -> tuple[int, int, int]:
        """Numbers of words, states and actions that are asked for."""
        return len(self.want_text), len(self.want_states), len(self.want_actions)

    def to(self, device: torch.device) -> PackedBatch:
        """Return the batch on a device."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> PackedBatch:
        """Return the batch in memory that a GPU can copy from while it computes."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> PackedBatch:
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **{name: change(value) for name, value in tensors.items()})


def group(examples: Sequence[Example]) -> PackedRow:
    """Join examples of one and the same prompt."""
    assert all(
        e.prompt is examples[0].prompt or np.array_equal(e.prompt.value, examples[0].prompt.value)
        for e in examples
    )
    return PackedRow(examples[0].prompt, tuple(example.body for example in examples))


def pack(lengths: Sequence[int], row_tokens: int, open_rows: int = 16) -> list[list[int]]:
    """Place groups of these lengths in rows of `row_tokens`, first fit among the latest rows.

    Otherwise their order is kept. A group longer than a row gets a row of its own. Returns the group numbers
    of each row.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for index, length in enumerate(lengths):
        first = max(0, len(rows) - open_rows)
        fit = next((row for row in range(first, len(rows)) if room[row] >= length), None)
        if fit is None:
            rows.append([])
            room.append(row_tokens)
            fit = len(rows) - 1
        rows[fit].append(index)
        room[fit] -= length
    return rows


def batch(
    rows: Sequence[Sequence[PackedRow]], rollouts: RolloutSet, two_way_prompt: bool, least_width: int = 0
) -> PackedBatch:
    """Return the tensors of these rows; numbers are fetched from the rollout set here.

    Args:
        rows: the groups of each row.
        rollouts: the set that state and action rows point into.
        two_way_prompt: prompt tokens also see later tokens of the same prompt.
        least_width: rows are padded to at least this length, for a model compiled for it.
    """
    laid = [_lay_out(row) for row in rows]
    width = max(least_width, *(len(tokens) for tokens, *_ in laid))

    def grid(columns: Iterable[np.ndarray], fill: int) -> np.ndarray:
        out = np.full((len(laid), width), fill, dtype=np.int64)  # (B, L)
        for row, column in enumerate(columns):
            out[row, : len(column)] = column
        return out

    groups = grid((group for _, group, _, _ in laid), -1)
    bodies = grid((body for _, _, body, _ in laid), 0)
    positions = grid((position for _, _, _, position in laid), 0)
    offsets = np.concatenate([np.arange(len(tokens)) + row * width for row, (tokens, *_) in enumerate(laid)])
    tokens = Tokens.join([tokens for tokens, *_ in laid])
    return PackedBatch(
        visible=_visible(
            torch.from_numpy(groups), torch.from_numpy(bodies), torch.from_numpy(positions), two_way_prompt
        ),
        position=torch.from_numpy(positions),
        tokens=len(tokens),
        **_columns(tokens, offsets, rollouts),
    )


def _lay_out(row: Sequence[PackedRow]) -> tuple[Tokens, np.ndarray, np.ndarray, np.ndarray]:
    """Tokens, group numbers, body numbers and positions of one row."""
    parts: list[Tokens] = []
    groups: list[int] = []
    bodies: list[int] = []
    starts: list[int] = []
    for number, item in enumerate(row):
        for body, part in enumerate((item.prompt, *item.bodies)):
            parts.append(part)
            groups.append(number)
            bodies.append(body)
            starts.append(0 if body == 0 else len(item.prompt))
    sizes = [len(part) for part in parts]
    position = np.concatenate(
        [np.arange(start, start + size) for start, size in zip(starts, sizes, strict=True)]
    )
    return Tokens.join(parts), np.repeat(groups, sizes), np.repeat(bodies, sizes), position


def _columns(tokens: Tokens, offsets: np.ndarray, rollouts: RolloutSet) -> dict[str, Tensor]:
    at = {kind: np.flatnonzero(tokens.kind == kind) for kind in (TEXT, STATE, ACTION, ENTITY, RETURN)}
    ask = {kind: np.flatnonzero(tokens.asks == kind) for kind in (TEXT, STATE, ACTION)}
    want = tokens.answer[ask[STATE]]
    columns = {
        "text_at": offsets[at[TEXT]],
        "text": tokens.value[at[TEXT]],
        "state_at": offsets[at[STATE]],
        "states": rollouts.states[tokens.value[at[STATE]]],
        "entity_at": offsets[at[ENTITY]],
        "action_at": offsets[at[ACTION]],
        "actions": rollouts.actions[tokens.value[at[ACTION]]],
        "return_at": offsets[at[RETURN]],
        "returns": rollouts.returns_to_go[tokens.value[at[RETURN]]],
        "ask_text_at": offsets[ask[TEXT]],
        "want_text": tokens.answer[ask[TEXT]],
        "ask_state_at": offsets[ask[STATE]],
        "present_states": rollouts.states[want - 1],
        "want_states": rollouts.states[want],
        "ask_action_at": offsets[ask[ACTION]],
        "acting_states": rollouts.states[tokens.value[ask[ACTION]]],
        "want_actions": rollouts.actions[tokens.answer[ask[ACTION]]],
    }
    return {name: torch.from_numpy(column) for name, column in columns.items()}


def _visible(groups: Tensor, bodies: Tensor, positions: Tensor, two_way_prompt: bool) -> Tensor:
    """Whether each query token sees each key token: (B, L) x 3 -> (B, 1, L, L) bool."""
    q, k = (slice(None), slice(None), None), (slice(None), None, slice(None))
    prompt = bodies[k] == 0
    earlier = positions[k] <= positions[q]
    if two_way_prompt:
        earlier = earlier | (prompt & (bodies[q] == 0))
    same = (groups[q] == groups[k]) & (prompt | (bodies[q] == bodies[k]))
    # Padding has group -1 and sees the padding before it, so that no row of the softmax is empty.
    return (same & earlier)[:, None]
