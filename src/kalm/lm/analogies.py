"""Known sentences that a language model reads as most alike: other words to ask in.

A sentence that the data never had may be half understood. Said in words of the data it is understood well, if
they mean the same; whether they do, imagination shows, for the rollout has to reach the new sentence's goal.
So for each new sentence its neighbours among the known ones are ranked, one per goal: the next one is worth
a try only if it means something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch.nn import functional as F

from kalm.errors import KalmError
from kalm.lm.decoding import prompt_embeddings
from kalm.lm.model import GroundedLM, autocast
from kalm.types import Goal, Instruction


@torch.inference_mode()
def analogies(
    model: GroundedLM, texts: Sequence[str], known: Sequence[Instruction], count: int, precision: str
) -> dict[str, list[str]]:
    """Rank the known sentences by how alike they are read.

    Args:
        model: the model that reads.
        texts: new sentences.
        known: sentences of the data, with their goals.
        count: how many to return.
        precision: see `GroundConfig.precision`.

    Returns:
        For each text the most alike sentence of each of the `count` most alike goals, the best first.

    Raises:
        KalmError: there are fewer known goals.
    """
    goals = len({instruction.goal for instruction in known})
    if count > goals:
        raise KalmError(f"imagine.analogies={count}: the known sentences have only {goals} goals. Lower it.")
    with autocast(model.device, precision):
        read = prompt_embeddings(model, [*texts, *(instruction.text for instruction in known)]).float()
    new, old = read[: len(texts)], read[len(texts) :]
    # All prompts are alike in what they share.
    new, old = (F.normalize(part - old.mean(0), dim=1) for part in (new, old))
    ranked = (new @ old.T).argsort(dim=1, descending=True).tolist()  # (N, K)
    return {
        text: _one_per_goal((known[i] for i in row), count) for text, row in zip(texts, ranked, strict=True)
    }


def _one_per_goal(ranked: Iterable[Instruction], count: int) -> list[str]:
    """Return the first sentence of each of the first `count` goals."""
    found: dict[Goal, str] = {}
    for instruction in ranked:
        found.setdefault(instruction.goal, instruction.text)
        if len(found) == count:
            break
    return list(found.values())
