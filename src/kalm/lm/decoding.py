"""Reading with a key/value cache: rows that a model reads on and on, each prompt read only once.

A `DecodeState` begins with prompts; rows that share a prompt share what was read of it. Then all rows take
their tokens together. Rows that ended leave the batch in bulk, so little is computed for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from kalm.lm.cache import block_cache, contents, overwrite, rewind
from kalm.lm.model import GroundedLM
from kalm.lm.prompts import GOAL_ORIENTED

# Rows leave the cache in bulk: selecting rows copies it, so it must pay.
DROP_SHARE = 0.2
READ_TOGETHER = 64


def worth_leaving(going: np.ndarray) -> bool:
    """Whether enough of the rows have ended, (N,) bool, to go on without them."""
    return going.mean() <= 1 - DROP_SHARE


@dataclass(frozen=True)
class _Begun:
    """What was read of U prompts, before any row went on."""

    layers: list[tuple[Tensor, Tensor]]  # keys and values, (U, H, P, E) each; empty: nothing is read on
    real: Tensor  # (U, P) bool
    looked: Tensor | None  # (U, K + 1, W)


class DecodeState:
    """N rows being read by one model.

    Args:
        model: the model that reads.
        prompts: token ids of U distinct prompts.
        owner: (N,) the prompt of each row.
        restartable: rows may begin anew behind another of the prompts (`restart`).
        reads_on: rows read more than their prompts; else no keys and values are kept.
        looked: (U, K + 1, W) what `Readings` has of the prompts; they are read again only if rows read on.

    Attributes:
        found: (h, K + 1, W) what the action network looked up in each held row's prompt, if it acts.
        rows: (h,) which of the N rows are still held; some of them may have ended.
    """

    def __init__(
        self,
        model: GroundedLM,
        prompts: Sequence[np.ndarray],
        owner: np.ndarray,
        restartable: bool = False,
        reads_on: bool = True,
        looked: Tensor | None = None,
    ) -> None:
        self.model = model
        self.cache: Cache | None = block_cache() if reads_on else None
        real = there(prompts).to(model.device)  # (U, P)
        lengths = real.sum(1)  # (U,)
        fan = torch.from_numpy(np.asarray(owner, dtype=np.int64)).to(model.device)
        if reads_on or looked is None:
            looked = look_up(model, prefill(model, prompts, self.cache), real)
        self.found: Tensor | None = None if looked is None else looked[fan]  # (N, K + 1, W)
        layers = contents(self.cache) if self.cache is not None else []
        self._begun = _Begun(layers, real, looked) if restartable else None
        if self.cache is not None:
            self.cache.batch_select_indices(fan)
        self.width: int = real.shape[1]  # columns of the cache that hold prompts
        self.visible: Tensor = real[fan]  # (N, C) columns of the cache that each row sees
        self.position: Tensor = lengths[fan, None]  # (N, 1) of the next token
        self.rows: np.ndarray = np.arange(len(fan))

    @property
    def longest(self) -> int:
        """Largest number of tokens that a row has read."""
        return int(self.position.max())

    def read(self, tokens: Tensor, counts: Tensor | None = None) -> Tensor:
        """Let every row read up to k tokens: (N, k, D) -> hidden states of the last one (N, D).

        Args:
            tokens: embedded tokens.
            counts: (N,) how many of them each row reads, at least 1; None: all. What follows is padding.
        """
        assert self.cache is not None, "reads_on=True"
        n, width = tokens.shape[:2]
        column = torch.arange(width, device=tokens.device)
        real = column < (width if counts is None else counts[:, None])  # (k,) or (N, k)
        earlier = (column[None, :] <= column[:, None]).expand(n, -1, -1)  # (N, k, k)
        mask = torch.cat([self.visible[:, None].expand(-1, width, -1), earlier], dim=2)  # (N, k, C + k)
        hidden = self.model.body(tokens, mask[:, None], self.position + column, self.cache)
        self.visible = torch.cat([self.visible, real.expand(n, -1)], dim=1)
        if counts is None:
            self.position = self.position + width
            return hidden[:, -1]
        self.position = self.position + counts[:, None]
        return hidden[torch.arange(n, device=tokens.device), counts - 1]

    def rate_actions(self, hidden: Tensor | None, states: Tensor) -> Tensor:
        """Rate or give the actions of the held rows.

        Args:
            hidden: (h, D) of the tokens of the present states; None, where there is a network, is enough.
            states: (h, S) these states.

        Returns:
            (h, A).
        """
        if self.found is not None and self.model.action_network:
            # In bfloat16 a position is only known to millimetres.
            with torch.autocast(states.device.type, enabled=False):
                return self.model.action_network.rate(self.found.float(), self.model.scales.normal(states))
        assert hidden is not None
        return self.model.rate_actions(hidden, states)

    def restart(self, places: np.ndarray, owner: np.ndarray) -> None:
        """Let some held rows forget what they read, and begin behind other prompts: (n,), (n,) of the U."""
        assert self._begun is not None, "restartable=True"
        index, new = (torch.from_numpy(part).to(self.position.device) for part in (places, owner))
        begun = self._begun
        if self.cache is not None:
            overwrite(self.cache, index, [(keys[new], values[new]) for keys, values in begun.layers])
        self.visible[index] = False
        self.visible[index, : self.width] = begun.real[new]
        self.position[index] = begun.real[new].sum(1, keepdim=True)
        if self.found is not None and begun.looked is not None:
            self.found[index] = begun.looked[new]

    def rewind(self) -> None:
        """Forget everything but the prompts."""
        if self.cache is not None:
            rewind(self.cache, self.width)
        self.visible = self.visible[:, : self.width]
        self.position = self.visible.sum(1, keepdim=True)

    def leave(self, running: np.ndarray) -> np.ndarray:
        """Forget rows that ended, once they are many.

        Args:
            running: (n,) those of the N rows that go on, rising; none that was left out before.

        Returns:
            (n,) the places among the h held rows where they stand.
        """
        place = np.searchsorted(self.rows, running)
        assert np.array_equal(self.rows[place], running), "a row that was left out has returned"
        going = np.zeros(len(self.rows), bool)
        going[place] = True
        if not worth_leaving(going):
            return place
        self.keep(place)
        return np.arange(len(place))

    def spread(self, values: np.ndarray, place: np.ndarray) -> np.ndarray:
        """Put values of running rows at their places: (n, ...) -> (h, ...); the others read zeros, unseen."""
        out = np.zeros((len(self.rows), *values.shape[1:]), values.dtype)
        out[place] = values
        return out

    def keep(self, places: np.ndarray) -> None:
        """Go on with the rows at these places only."""
        index = torch.from_numpy(places).to(self.position.device)
        self.rows = self.rows[places]
        if self.cache is not None:
            self.cache.batch_select_indices(index)
        self.visible, self.position = self.visible[index], self.position[index]
        if self.found is not None:
            self.found = self.found[index]


def there(prompts: Sequence[np.ndarray]) -> Tensor:
    """Return which tokens of U prompts side by side are no padding: -> (U, P) bool."""
    return torch.arange(max(map(len, prompts))) < torch.tensor([len(prompt) for prompt in prompts])[:, None]


def prefill(model: GroundedLM, prompts: Sequence[np.ndarray], cache: Cache | None = None) -> Tensor:
    """Read U prompts side by side: token ids -> hidden states (U, P, D), where they are `there`."""
    real = there(prompts)
    longest = real.shape[1]
    ids = torch.tensor([[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts])  # (U, P)
    column = torch.arange(longest)
    seen = real[:, None, :].expand(-1, longest, -1)  # (U, P, P)
    if not model.backbone.two_way_prompt:
        seen = seen & (column[None, :] <= column[:, None])
    device = model.device
    embedded = model.lm.get_input_embeddings()(ids.to(device))
    positions = column.expand(len(prompts), -1).to(device)
    return model.body(embedded, seen[:, None].to(device), positions, cache)


def look_up(model: GroundedLM, hidden: Tensor, real: Tensor) -> Tensor | None:
    """Look up in prompts, if the model acts by a network: (U, P, D), (U, P) -> (U, K + 1, W)."""
    if not model.acts_by_network or model.action_network is None:
        return None
    return model.action_network.look_up(hidden, real.to(hidden.device))


class Readings:
    """What a model that acts by a network looks up in sentences, each read once; it must stay as it is.

    Sentences are read in groups that all of them together decide, so whoever asks first, or goes on after a
    stop, finds the same numbers.

    Args:
        model: one that reads nothing more than sentences (`GroundedLM.reads_states`).
        texts: all sentences that it may be asked in.
        template: prompt with a slot for the goal.

    Raises:
        KalmError: a sentence is longer than the context.
    """

    def __init__(self, model: GroundedLM, texts: Iterable[str], template: str) -> None:
        builder = model.prompt_builder()
        self.model = model
        self.prompts: dict[str, np.ndarray] = {
            text: builder.goal_prompt(text, template).value for text in sorted(set(texts))
        }
        alike = sorted(self.prompts, key=lambda text: len(self.prompts[text]))  # in length: little padding
        groups = [alike[at : at + READ_TOGETHER] for at in range(0, len(alike), READ_TOGETHER)]
        self.group: dict[str, list[str]] = {text: group for group in groups for text in group}
        self.known: dict[str, Tensor] = {}

    def look_up(self, texts: Iterable[str]) -> Tensor:
        """Return what was looked up in U of the sentences: -> (U, K + 1, W)."""
        texts = list(texts)
        for text in texts:
            if text not in self.known:
                prompts = [self.prompts[one] for one in self.group[text]]
                looked = look_up(self.model, prefill(self.model, prompts), there(prompts))
                assert looked is not None, self.model.design
                self.known |= zip(self.group[text], looked, strict=True)
        return torch.stack([self.known[text] for text in texts])


def prefill_goals(
    model: GroundedLM,
    texts: Sequence[str],
    template: str,
    others: Sequence[str] = (),
    reads_on: bool = True,
    readings: Readings | None = None,
) -> DecodeState:
    """Read the goals of N rows, each distinct one once.

    Args:
        model: the model that reads.
        texts: N sentences.
        template: prompt with a slot for the goal.
        others: sentences that rows may go on to (`DecodeState.restart`): number i is the i-th distinct one of
            these, and each row's own must be among them; none: rows keep to their sentences.
        reads_on: rows read more than their goals.
        readings: what was read before.

    Raises:
        KalmError: a goal is longer than the context.
    """
    prompt_builder = model.prompt_builder()
    distinct = {text: number for number, text in enumerate(dict.fromkeys(others or texts))}
    prompts = [prompt_builder.goal_prompt(text, template).value for text in distinct]
    owner = np.array([distinct[text] for text in texts])
    looked = readings.look_up(distinct) if readings else None
    return DecodeState(model, prompts, owner, bool(others), reads_on, looked)


def prompt_embeddings(model: GroundedLM, texts: Sequence[str]) -> Tensor:
    """Return the mean hidden state of each goal's prompt, on the CPU: (N, D)."""
    prompt_builder = model.prompt_builder()
    prompts = [prompt_builder.goal_prompt(text, GOAL_ORIENTED).value for text in texts]
    parts = [prompts[at : at + READ_TOGETHER] for at in range(0, len(prompts), READ_TOGETHER)]
    return torch.cat([_means(prefill(model, part), there(part)).cpu() for part in parts])


def _means(hidden: Tensor, real: Tensor) -> Tensor:
    """Average over real tokens: (U, P, D), (U, P) -> (U, D)."""
    share = (real / real.sum(1, keepdim=True)).to(hidden)
    return torch.einsum("up,upd->ud", share, hidden)
