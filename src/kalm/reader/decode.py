"""Constrained decoding: plans are written token by token, and only what continues a plan may come.

The scene's prompt is read once, requests are read together behind it, the shorter ones padded at their end.
Then every row chooses, reads what it chose and all that is forced after it, and chooses again::

    cache    prompt | request a . . | red | behind . | blue
             prompt | request b b b | to left of     | cyan ;

Unusual: tokens that are the only ones allowed are never scored. The probability of a plan is the product over
its choices, so those of all plans add up to one. The likeliest words one after another are not always the
likeliest plan: who cannot tell which of four things is meant spreads over four plans what is against leaving
the request as it is. So own words, whose probability shows at the first choice, are among the plans, unless a
tokenizer splits words so finely that a sentence begins with the same token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from kalm.lm.backbone import Backbone
from kalm.lm.cache import block_cache
from kalm.reader.model import WordScores
from kalm.reader.tree import Place, PlanTree
from kalm.runs.progress import Advance, silent

BATCH = 64  # rows that are read together


@dataclass(frozen=True)
class ReadingModel:
    """A language model that writes plans.

    Attributes:
        backbone: on any device, adapters merged.
        scores: of single words.
    """

    backbone: Backbone
    scores: WordScores

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.backbone.word_weight.device


class _Rows:
    """n rows that read on behind one prompt, which is read once.

    Args:
        model: the model that reads.
        prompt: token ids.
        count: number n of rows.
    """

    def __init__(self, model: ReadingModel, prompt: Sequence[int], count: int) -> None:
        self.model = model
        self.cache: Cache = block_cache()
        self.visible = torch.zeros(
            1, 0, dtype=torch.bool, device=model.device
        )  # (n, C) columns that are seen
        self.position = torch.zeros(1, 1, dtype=torch.int64, device=model.device)  # (n, 1) of the next token
        self.read([list(prompt)])
        self.keep(np.zeros(count, dtype=np.int64))

    def read(self, tokens: Sequence[list[int]]) -> Tensor:
        """Let every row read its tokens: -> hidden states of the last ones (n, H)."""
        lengths = torch.tensor([len(ids) for ids in tokens])
        width = int(lengths.max())
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in tokens])  # (n, k), padded at its end
        column = torch.arange(width)
        real = (column < lengths[:, None]).to(self.model.device)  # (n, k)
        earlier = (
            (column[None, :] <= column[:, None]).to(real.device).expand(len(tokens), -1, -1)
        )  # (n, k, k)
        mask = torch.cat([self.visible[:, None].expand(-1, width, -1), earlier], dim=2)  # (n, k, C + k)
        hidden = self.model.backbone.run(
            self.model.backbone.words(ids.to(real.device)),
            mask[:, None],
            self.position + column.to(real.device),
            self.cache,
        )
        self.visible = torch.cat([self.visible, real], dim=1)
        self.position = self.position + lengths[:, None].to(real.device)
        return hidden[torch.arange(len(tokens)), lengths - 1]

    def keep(self, places: np.ndarray) -> None:
        """Go on with the rows at these places, any of them as often as it is named."""
        index = torch.from_numpy(places).to(self.position.device)
        self.cache.batch_select_indices(index)
        self.visible, self.position = self.visible[index], self.position[index]


@dataclass(frozen=True)
class Written:
    """A plan as it was written.

    Attributes:
        steps: numbers of the plain sentences; empty: own words.
        log_probability: sum over the choices.
    """

    steps: tuple[int, ...]
    log_probability: float


@dataclass
class _Row:
    """One plan being written."""

    request: int
    place: Place
    draws: np.random.Generator | None = None  # None: the likeliest word is taken
    script: Sequence[int] = ()  # tokens of the plan that is rated; none: they are chosen
    log_probability: float = 0.0
    own: float = -np.inf  # log probability of leaving the request in its own words
    pending: list[int] = field(default_factory=list)  # tokens that are written but not yet read
    length: int = 0  # tokens that are written

    def write(self, token: int, tree: PlanTree) -> None:
        """Write a token and all that is forced after it."""
        self._append(token, tree)
        while len(may := tree.allowed(self.place)) == 1:
            self._append(may[0], tree)

    def _append(self, token: int, tree: PlanTree) -> None:
        self.place = tree.after(self.place, token)
        self.pending.append(token)
        self.length += 1


@torch.inference_mode()
def write_plans(
    model: ReadingModel,
    prompt: Sequence[int],
    requests: Sequence[Sequence[int]],
    tree: PlanTree,
    *,
    rated: Sequence[Sequence[int]] = (),
    samples: int = 0,
    seeds: Sequence[int] = (),
    temperature: float = 1.0,
    batch: int = BATCH,
    advance: Advance = silent,
) -> list[list[Written]]:
    """Write plans for N requests about one scene.

    Args:
        model: the language model.
        prompt: token ids that all requests share.
        requests: token ids of each request, up to where its plan begins.
        tree: of the plans.
        rated: plans, as numbers of sentences, that are given a probability whether they are likely or not.
        samples: plans of plain sentences drawn per request besides the likeliest; own words are known anyway.
        seeds: (N,) of the draws, one per request, where there are samples.
        temperature: of the draws.
        batch: rows that are read together; it changes nothing else.
        advance: told of finished requests.

    Returns:
        Different plans of each request, the likeliest first.
    """
    found: list[dict[tuple[int, ...], Written]] = [{} for _ in requests]
    order = np.argsort([len(ids) for ids in requests], kind="stable")  # alike in length: little padding
    scripts = [tree.spell(steps) for steps in rated]
    each = 1 + len(scripts) + samples
    together = max(1, batch // each)
    for first in range(0, len(order), together):
        numbers = order[first : first + together].tolist()
        state = _Rows(model, prompt, len(numbers))
        hidden = state.read([list(requests[number]) for number in numbers])
        rows = []
        for number in numbers:
            rows.append(_Row(number, tree.start()))
            rows += [_Row(number, tree.start(), script=script) for script in scripts]
            rows += [
                _Row(number, tree.start(), np.random.default_rng([seeds[number], draw]))
                for draw in range(samples)
            ]
        if each > 1:
            fan = np.repeat(np.arange(len(numbers)), each)
            state.keep(fan)
            hidden = hidden[torch.from_numpy(fan).to(hidden.device)]
        for row in _write(model, state, hidden, rows, tree, temperature):
            for plan in (Written(row.place.steps, row.log_probability), Written((), row.own)):
                if np.isfinite(plan.log_probability):
                    found[row.request].setdefault(plan.steps, plan)
        advance(len(numbers))
    return [sorted(plans.values(), key=lambda plan: -plan.log_probability) for plans in found]


def _write(
    model: ReadingModel,
    state: _Rows,
    hidden: Tensor,
    rows: list[_Row],
    tree: PlanTree,
    temperature: float,
) -> list[_Row]:
    """Write every row to its end."""
    going = list(range(len(rows)))
    while True:
        _choose(model, hidden, [rows[i] for i in going], tree, temperature)
        left = [at for at, i in enumerate(going) if not rows[i].place.done]
        if not left:
            return rows
        if len(left) < len(going):
            state.keep(np.asarray(left))
            going = [going[at] for at in left]
        hidden = state.read([rows[i].pending for i in going])
        for i in going:
            rows[i].pending = []


def _choose(
    model: ReadingModel, hidden: Tensor, rows: Sequence[_Row], tree: PlanTree, temperature: float
) -> None:
    """Let every row choose its next token, given its last hidden state: (n, H)."""
    allowed = [tree.allowed(row.place) for row in rows]
    words = sorted({token for may in allowed for token in may})
    column = {token: number for number, token in enumerate(words)}
    logits = model.scores(hidden, torch.tensor(words, device=hidden.device)).double().cpu().numpy()  # (n, U)
    for row, may, scores in zip(rows, allowed, logits, strict=True):
        raw = scores[[column[token] for token in may]]
        chances = raw - np.logaddexp.reduce(raw)
        wanted = chances.copy() if row.draws is None else raw / temperature + row.draws.gumbel(size=len(raw))
        if tree.is_start(row.place) and tree.own_word in may:
            own = may.index(tree.own_word)
            row.own = float(chances[own])
            wanted[own] = -np.inf  # known without being written: what is written are sentences
        pick = may.index(row.script[row.length]) if row.script else int(wanted.argmax())
        row.log_probability += float(chances[pick])
        row.write(may[pick], tree)
