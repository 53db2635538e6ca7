"""Explaining rollouts: batched beam search for text, with a key/value cache (paper, rollout explanation).

The prompt is the same for all rollouts, so it is read once and its cache fanned out. The rollouts of a batch
are then read together, the shorter ones padded at their end; from there on every row writes one word per
step, at its own position, and never sees its padding::

    cache    prompt | s0 a0 s1 "Goal" ":" .  .  .  .    | w1 w2 ...
             prompt | s0 a0 s1 a1 s2 a2 s3 "Goal" ":"   | w1 w2 ...

With several beams every row is fanned out again after the rollout was read. Rollouts whose texts have all
ended leave. Each text depends on its own rollout alone, so the batch size changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kalm.data.rollouts import RolloutSet
from kalm.envs.base import World
from kalm.errors import KalmError
from kalm.lm import packing
from kalm.lm.decoding import DecodeState, worth_leaving
from kalm.lm.model import GroundedLM, autocast
from kalm.lm.prompts import EXPLANATION, Example, PromptBuilder, Tokens

ALL = "all"  # every slot of the goal is right
WORDS = 32  # tokens per explanation; the longest sentence of the offline data has fewer


def explain(
    model: GroundedLM,
    rollouts: RolloutSet,
    prompt: tuple[str, str] = EXPLANATION,
    *,
    words: int = WORDS,
    batch: int = 128,
    precision: str = "auto",
) -> list[str]:
    """Let the model say what each rollout is about, in the words that are likeliest one by one.

    See `hypotheses` for what it is given.

    Returns:
        N texts, in the order of the rollouts.
    """
    found = hypotheses(model, rollouts, prompt, beams=1, words=words, batch=batch, precision=precision)
    return [next(iter(texts)) for texts in found]


@torch.inference_mode()
def hypotheses(
    model: GroundedLM,
    rollouts: RolloutSet,
    prompt: tuple[str, str] = EXPLANATION,
    *,
    beams: int,
    words: int = WORDS,
    batch: int = 128,
    precision: str = "auto",
) -> list[dict[str, float]]:
    """Find several texts that the model may say of each rollout, by beam search.

    Args:
        model: the grounded model, on any device.
        rollouts: N rollouts; only their states and actions are shown.
        prompt: text before and after the rollout (`sequence.explanation_prompts`).
        beams: texts that are followed at a time.
        words: largest number of tokens written; fewer where the context ends before.
        batch: texts written together.
        precision: see `GroundConfig.precision`.

    Returns:
        N times at most `beams` texts with their log-likelihoods, the likeliest first.

    Raises:
        KalmError: a rollout fills the model's context.
    """
    prompt_builder = model.prompt_builder()
    found: list[dict[str, float]] = [{} for _ in range(len(rollouts))]
    order = np.argsort(rollouts.lengths, kind="stable")  # alike in length: little padding
    together = max(1, batch // beams)
    for first in range(0, len(order), together):
        rows = order[first : first + together].tolist()
        examples = [prompt_builder.question(rollouts, row, prompt) for row in rows]
        with autocast(model.device, precision):
            written, scores = _write(model, prompt_builder, rollouts, examples, words, beams)
        for row, texts, likely in zip(rows, written.tolist(), scores.tolist(), strict=True):
            for ids, score in zip(texts, likely, strict=True):
                ids = _before(prompt_builder.end, ids)
                text = str(model.backbone.tokenizer.decode(ids, skip_special_tokens=True)).strip()
                found[row].setdefault(text, score)
    return found


def verdicts(texts: Sequence[str], rollouts: RolloutSet, world: World) -> dict[str, np.ndarray]:
    """Judge explanations by keywords against the goals that the rollouts were made for.

    Returns:
        Slot -> (M,) bool over the rollouts whose goal has that slot, and ``all``: every slot is right.
    """
    found: dict[str, list[bool]] = {}
    for text, which in zip(texts, rollouts.which, strict=True):
        slots = world.explains(text, rollouts.instructions[which].goal)
        if slots:
            for name, right in {**slots, ALL: all(slots.values())}.items():
                found.setdefault(name, []).append(right)
    return {name: np.array(flags, dtype=bool) for name, flags in found.items()}


def _write(
    model: GroundedLM,
    prompt_builder: PromptBuilder,
    rollouts: RolloutSet,
    examples: Sequence[Example],
    words: int,
    beams: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the token ids that follow each of n examples of one prompt, and their log-likelihoods.

    Returns:
        (n, K, W) filled up with the end token, and (n, K), the likeliest first.
    """
    longest = len(examples[0].prompt) + max(len(example.body) for example in examples)
    words = min(words, prompt_builder.context - longest)
    if words < 1:
        raise KalmError(
            f"a rollout of {longest} tokens leaves no room for words in the model's context of "
            f"{prompt_builder.context}. Explain shorter rollouts."
        )
    reading = DecodeState(model, [examples[0].prompt.value], np.zeros(len(examples)))
    last = _read_bodies(reading, rollouts, examples)  # (n, D)
    if beams > 1:
        reading.keep(np.repeat(np.arange(len(examples)), beams))
        last = last.repeat_interleave(beams, dim=0)
    search = _Beams(len(examples), beams, words, prompt_builder.end, last.device)
    for step in range(words):
        parents, word = search.extend(model.backbone.logits(last), step)  # (m * K,) each
        going = search.going()
        if not going.any() or step + 1 == words:
            break
        places = parents
        if worth_leaving(going):
            staying = np.repeat(going, beams)
            places, word = parents[staying], word[torch.from_numpy(staying).to(word.device)]
            search.leave(going)
        if not np.array_equal(places, np.arange(len(reading.rows))):
            reading.keep(places)
        last = reading.read(model.lm.get_input_embeddings()(word)[:, None])
    return search.finish()


class _Beams:
    """K texts each of n rollouts, of which m are still written.

    At first all K are the same, so only the first may be followed.
    """

    def __init__(self, n: int, beams: int, words: int, end: int, device: torch.device) -> None:
        self.end, self.beams = end, beams
        self.rows: np.ndarray = np.arange(n)  # (m,) of the n
        self.ids: Tensor = torch.full((n, beams, words), end, device=device)  # of those still written
        self.scores: Tensor = torch.full((n, beams), -torch.inf, device=device)
        self.scores[:, 0] = 0
        self.ended: Tensor = torch.zeros(n, beams, dtype=torch.bool, device=device)
        self._ids, self._scores = self.ids.numpy(force=True).copy(), self.scores.numpy(force=True).copy()

    def extend(self, logits: Tensor, step: int) -> tuple[np.ndarray, Tensor]:
        """Take the K best of all texts that are one word longer: (m * K, V) -> their parents, their words."""
        likely = torch.log_softmax(logits, dim=-1).unflatten(0, (-1, self.beams))  # (m, K, V)
        vocabulary = likely.shape[-1]
        likely = likely.masked_fill(self.ended[..., None], -torch.inf)
        likely[..., self.end] = likely[..., self.end].masked_fill(self.ended, 0)  # an ended text stays
        total = (self.scores[..., None] + likely).flatten(1)  # (m, K * V)
        self.scores, best = total.topk(self.beams, dim=1)  # (m, K)
        parent, word = best // vocabulary, best % vocabulary
        self.ids = self.ids.gather(1, parent[..., None].expand_as(self.ids))
        self.ids[:, :, step] = word
        self.ended = self.ended.gather(1, parent) | (word == self.end)
        first = torch.arange(len(best), device=best.device)[:, None] * self.beams
        return (first + parent).flatten().numpy(force=True), word.flatten()

    def going(self) -> np.ndarray:
        """Return which rollouts have a text that has not ended: (m,)."""
        return ~self.ended.all(1).numpy(force=True)

    def leave(self, going: np.ndarray) -> None:
        """Forget the other rollouts, whose texts are complete."""
        self._put()
        index = torch.from_numpy(going).to(self.ids.device)
        self.rows, self.ids, self.scores = self.rows[going], self.ids[index], self.scores[index]
        self.ended = self.ended[index]

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what was written, (n, K, W), and how likely it is, (n, K)."""
        self._put()
        return self._ids, self._scores

    def _put(self) -> None:
        self._ids[self.rows] = self.ids.numpy(force=True)
        self._scores[self.rows] = self.scores.numpy(force=True)


def _read_bodies(reading: DecodeState, rollouts: RolloutSet, examples: Sequence[Example]) -> Tensor:
    """Read what follows the prompt, the shorter ones padded: -> last hidden states (n, D)."""
    nothing = Tokens.text([])
    rows = [[packing.PackedRow(nothing, (example.body,))] for example in examples]
    batch = packing.batch(rows, rollouts, two_way_prompt=False).to(reading.model.device)
    counts = torch.tensor([len(example.body) for example in examples], device=reading.model.device)
    return reading.read(reading.model.embed(batch), counts)


def _before(end: int, ids: list[int]) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
