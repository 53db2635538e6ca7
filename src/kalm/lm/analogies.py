"""Known sentences that a language model reads as most alike: other words to ask in.

A sentence that the data never had may be half understood. Said in words of the data it is understood well, if
they mean the same; whether they do, imagination shows, for the rollout has to reach the new sentence's goal.
So for each new sentence its neighbours among the known ones are ranked, one per goal: the next one is worth
a try only if it means something else.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from kalm.errors import KalmError
from kalm.lm.grounded import GroundedLM, autocast
from kalm.lm.reading import gists
from kalm.types import Instruction


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
    goals = {goal: number for number, goal in enumerate(dict.fromkeys(i.goal for i in known))}
    if count > len(goals):
        raise KalmError(
            f"imagine.analogies={count}: the known sentences have only {len(goals)} goals. Lower it."
        )
    with autocast(model.device, precision):
        read = gists(model, [*texts, *(instruction.text for instruction in known)]).float()
    new, old = read[: len(texts)], read[len(texts) :]
    # All prompts are alike in what they share.
    new, old = (F.normalize(part - old.mean(0), dim=1) for part in (new, old))
    alike = new @ old.T  # (N, K)
    owner = torch.tensor([goals[instruction.goal] for instruction in known])  # (K,)
    best, sentence = _best_of(alike, owner, len(goals))
    ranked = best.argsort(dim=1, descending=True)[:, :count]  # (N, count) goals
    chosen = sentence.gather(1, ranked).tolist()
    return {text: [known[i].text for i in row] for text, row in zip(texts, chosen, strict=True)}


def _best_of(values: Tensor, owner: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return the largest value of each group of columns, and its column: (N, K), (K,) -> (N, G) each."""
    inside = owner[None] == torch.arange(groups)[:, None]  # (G, K)
    best = values[:, None].masked_fill(~inside, -torch.inf).max(dim=2)  # (N, G)
    return best.values, best.indices
