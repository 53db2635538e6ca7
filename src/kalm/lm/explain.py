"""Explaining rollouts: batched greedy decoding of text, with a key/value cache (paper, rollout explanation).

The prompt is the same for all rollouts, so it is read once and its cache fanned out. The rollouts of a batch
are then read together, the shorter ones padded at their end; from there on every row writes one word per
step, at its own position, and never sees its padding::

    cache    prompt | s0 a0 s1 "Goal" ":" .  .  .  .    | w1 w2 ...
             prompt | s0 a0 s1 a1 s2 a2 s3 "Goal" ":"   | w1 w2 ...

Rows that wrote their end leave. Each text depends on its own rollout alone, so the batch size changes
nothing.
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


@torch.inference_mode()
def explain(
    model: GroundedLM,
    rollouts: RolloutSet,
    prompt: tuple[str, str] = EXPLANATION,
    *,
    words: int = WORDS,
    batch: int = 128,
    precision: str = "auto",
) -> list[str]:
    """Let the model say what each rollout is about.

    Args:
        model: the grounded model, on any device.
        rollouts: N rollouts; only their states and actions are shown.
        prompt: text before and after the rollout (`sequence.explanation_prompts`).
        words: largest number of tokens written; fewer where the context ends before.
        batch: rollouts read together.
        precision: see `GroundConfig.precision`.

    Returns:
        N texts, in the order of the rollouts.

    Raises:
        KalmError: a rollout fills the model's context.
    """
    prompt_builder = model.prompt_builder()
    texts = [""] * len(rollouts)
    order = np.argsort(rollouts.lengths, kind="stable")  # alike in length: little padding
    for first in range(0, len(order), batch):
        rows = order[first : first + batch].tolist()
        examples = [prompt_builder.question(rollouts, row, prompt) for row in rows]
        with autocast(model.device, precision):
            written = _write(model, prompt_builder, rollouts, examples, words)
        for row, ids in zip(rows, written, strict=True):
            texts[row] = str(model.backbone.tokenizer.decode(ids, skip_special_tokens=True)).strip()
    return texts


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
) -> list[list[int]]:
    """Return the token ids that follow each of n examples of one prompt, without the end token."""
    longest = len(examples[0].prompt) + max(len(example.body) for example in examples)
    words = min(words, prompt_builder.context - longest)
    if words < 1:
        raise KalmError(
            f"a rollout of {longest} tokens leaves no room for words in the model's context of "
            f"{prompt_builder.context}. Explain shorter rollouts."
        )
    reading = DecodeState(model, [examples[0].prompt.value], np.zeros(len(examples)))
    last = _read_bodies(reading, rollouts, examples)
    written = np.full((len(examples), words), prompt_builder.end)  # (n, W)
    rows, going = np.arange(len(examples)), np.ones(len(examples), bool)
    for step in range(words):
        word = model.backbone.logits(last).argmax(dim=-1)  # (n,)
        written[rows[going], step] = word.numpy(force=True)[going]
        going &= written[rows, step] != prompt_builder.end
        if not going.any() or step + 1 == words:
            break
        if worth_leaving(going):
            reading.keep(np.flatnonzero(going))
            word, rows = word[torch.from_numpy(going).to(word.device)], rows[going]
            going = np.ones(len(rows), bool)
        last = reading.read(model.lm.get_input_embeddings()(word)[:, None])
    return [_before(prompt_builder.end, row.tolist()) for row in written]


def _read_bodies(reading: DecodeState, rollouts: RolloutSet, examples: Sequence[Example]) -> Tensor:
    """Read what follows the prompt, the shorter ones padded: -> last hidden states (n, D)."""
    nothing = Tokens.text([])
    rows = [[packing.PackedRow(nothing, (example.body,))] for example in examples]
    batch = packing.batch(rows, rollouts, two_way_prompt=False).to(reading.model.device)
    counts = torch.tensor([len(example.body) for example in examples], device=reading.model.device)
    return reading.read(reading.model.embed(batch), counts)


def _before(end: int, ids: list[int]) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
