"""What a language model makes of relation words before any grounding: rephrased goals matched to plain ones.

Every `rephrase` sentence of CLEVR-Robot is compared, by the mean hidden state of its prompt, with the plain
(`seen`) sentences of all goals. Nothing is trained, so the figures tell what a backbone brings along, before
and after the language warm-up (`kalm.lm.language`), which never sees these sentences.

Complaints are counted apart: read literally they ask for the opposite. So are the wordings held back from
imagination; look at those last, and choose nothing by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from kalm.config import GroundConfig
from kalm.goals.clevr import BALLS, DIRECTIONS
from kalm.goals.language import read_bank
from kalm.goals.suites import suite
from kalm.lm import language
from kalm.lm.grounded import GroundedLM, autocast
from kalm.lm.sequence import GOAL_ORIENTED
from kalm.types import Goal, Instruction

PLAIN = ("seen/00", "seen/07", "seen/13")  # push, move and keep: one wording for each of the tables of words
BATCH = 64
SETTINGS = GroundConfig()


def relation_probe(model: GroundedLM, frame: str = GOAL_ORIENTED) -> dict[str, float]:
    """Return shares of `rephrase` sentences whose nearest plain goal agrees with their own.

    Args:
        model: grounded in CLEVR-Robot or not yet.
        frame: the prompt that sentences stand in.

    Returns:
        ``objects/GROUP``: ball and reference right among all 80 goals; ``direction/GROUP``: direction right
        among the four goals of the sentence's own ball and reference. Groups: plain and complaint, by
        direction (``plain/left``), and their ``_held_back`` wordings.
    """
    plain = [i for i in suite("clevr", "seen") if i.wording in PLAIN]
    asked = suite("clevr", "rephrase")
    goals = _vectors(model, plain, frame)  # (P, D)
    where = np.array([_cell(i.goal) for i in plain])  # (P, 3)
    centres = np.zeros((len(BALLS), len(BALLS), len(DIRECTIONS), goals.shape[1]))
    np.add.at(centres, tuple(where.T), goals)
    lengths = np.linalg.norm(centres, axis=-1, keepdims=True)
    centres /= np.maximum(lengths, 1e-9)
    likeness = np.einsum("nd,brkd->nbrk", _vectors(model, asked, frame), centres)
    likeness[:, lengths[..., 0] == 0] = -np.inf  # no goal relates a ball to itself
    return _shares(asked, likeness)


def _vectors(model: GroundedLM, instructions: Sequence[Instruction], frame: str) -> np.ndarray:
    """Return unit vectors of the sentences' prompts: -> (N, D)."""
    speller = model.speller()
    texts = [frame.format(goal=i.text.rstrip(".")) for i in instructions]
    parts = []
    model.eval()
    for first in range(0, len(texts), BATCH):
        examples = [language.prompted(speller, text) for text in texts[first : first + BATCH]]
        with torch.inference_mode(), autocast(model.device, SETTINGS.precision):
            vectors, _ = language.read(model, examples, SETTINGS.row_tokens)
        parts.append(F.normalize(vectors.float(), dim=1).numpy(force=True))
    return np.concatenate(parts)


def _shares(asked: Sequence[Instruction], likeness: np.ndarray) -> dict[str, float]:
    """Count right answers per group of sentences; likeness: (N, balls, balls, directions)."""
    patterns = read_bank("clevr_rephrase")["patterns"]
    counted: dict[str, list[Any]] = {}
    for instruction, row in zip(asked, likeness, strict=True):
        ball, reference, direction = _cell(instruction.goal)
        best = np.unravel_index(row.argmax(), row.shape)
        complaint = "{wrong" in patterns[int(instruction.wording.split("/")[1])]
        group = ("complaint" if complaint else "plain") + ("_held_back" if instruction.held_back else "")
        right = int(row[ball, reference].argmax()) == direction
        counted.setdefault(f"objects/{group}", []).append(tuple(best[:2]) == (ball, reference))
        counted.setdefault(f"direction/{group}", []).append(right)
        counted.setdefault(f"direction/{group}/{instruction.goal['direction']}", []).append(right)
    return {name: float(np.mean(values)) for name, values in sorted(counted.items())}


def _cell(goal: Goal) -> tuple[int, int, int]:
    return BALLS.index(goal["ball"]), BALLS.index(goal["reference"]), DIRECTIONS.index(goal["direction"])
