"""Language warm-up: a small backbone learns relation words and indirect requests before it is grounded.

The weak spots of the default backbone are not the names of things but words of direction, which are nearly
the same to it, and requests that say the opposite of what they want. Both are learnt from texts of our own
about other things (`kalm.lm.phrases`), in the form in which goals are read later: as a prompt. One pass
gives two losses:

* *words*: behind some prompts the plain meaning of the sentence is produced as text;
* *contrast*: the mean hidden state of a prompt is more like that of the same meaning in other words than like
  those of its near misses, which in the same words tell of another direction or of the things exchanged
  (InfoNCE).

What learns is what grounding will train of the language model (`kalm.lm.lora`). The seed alone decides
everything, and the work takes minutes at most, so nothing of it is stored: grounding that was stopped before
its first checkpoint does it again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError
from kalm.lm import packing, phrases
from kalm.lm.model import GroundedLM, autocast
from kalm.lm.packing import PackedRow
from kalm.lm.phrases import Meaning
from kalm.lm.prompts import Example, PromptBuilder, Tokens
from kalm.lm.settings import GroundConfig
from kalm.runs import processes
from kalm.runs.metrics import Metrics
from kalm.runs.progress import Advance, silent
from kalm.runs.seeding import derive_rng
from kalm.training.callbacks import LogLosses, WriteMetrics
from kalm.training.loop import StepLosses, fit
from kalm.training.optimizer import gradient_step, schedule, warmup_steps

TEMPERATURE = 0.05  # cosines are divided by it
TRANSLATED = 0.3  # share of sentences whose meaning is produced as text
# Share of complaints on either side: that two complaints agree would teach nothing of what they mean.
COMPLAINTS = (0.5, 0.0)
RISE = 0.1  # share of steps with rising learning rate; then it falls to 0
LOG_EVERY = 10
METRICS = "language"


def warm_up(
    model: GroundedLM, config: GroundConfig, seed: int, folder: Path, advance: Advance = silent
) -> None:
    """Train a model's language in place.

    Args:
        model: about to be grounded.
        config: settings; those of the warm-up are `language`.
        seed: root of the texts.
        folder: gets ``language/metrics.jsonl``.
        advance: told about every step.

    Raises:
        KalmError: the settings leave nothing of the language model to learn, or a loss is not finite.
    """
    weights = [p for p in model.backbone.model.parameters() if p.requires_grad]
    if not weights:
        raise KalmError("nothing of the backbone learns, so language cannot. Set ground.language.steps=0.")
    settings = config.language
    optimizer = torch.optim.AdamW(weights, settings.lr, weight_decay=config.weight_decay, fused=True)
    prompt_builder = model.prompt_builder()
    metrics = Metrics(folder / METRICS) if processes.is_main() else None

    def update(step: int) -> StepLosses:
        lesson = Lesson(prompt_builder, config, derive_rng(seed, "language", step))
        contrast, words = lesson_losses(model, lesson, config)
        gradient_step(
            optimizer, settings.contrast_weight * contrast + settings.text_weight * words, config.clip
        )
        return {"contrast": contrast.detach(), "words": words.detach()}

    model.train()
    rising = warmup_steps(RISE, settings.steps)
    fit(
        update,
        settings.steps,
        schedulers=[schedule(optimizer, "cosine", settings.steps, warmup=rising)],
        callbacks=[LogLosses(_finite, LOG_EVERY, prefix="train/"), WriteMetrics(metrics)],
        advance=advance,
    )
    if metrics:
        metrics.close()


class Lesson:
    """The sentences of one step: two for every meaning.

    Attributes:
        examples: 2N examples; those at i and i + N say the same in different words.
        neither: (2N, 2N) bool, pairs that are neither alike nor different.
    """

    def __init__(self, prompt_builder: PromptBuilder, config: GroundConfig, rng: np.random.Generator) -> None:
        meanings: list[Meaning] = []
        sides: tuple[list[str], list[str]] = ([], [])
        for _ in range(config.language.contrasts):
            contrast = phrases.contrast(rng)
            meanings += contrast
            for side, complaints in zip(sides, COMPLAINTS, strict=True):
                # One pattern for all of a contrast: only what is meant tells its sentences apart.
                pattern, short = phrases.pattern(contrast[0], rng, complaints), bool(rng.integers(2))
                side += [phrases.say(meaning, pattern, short) for meaning in contrast]
        translated = rng.random(2 * len(meanings)) < TRANSLATED * (config.language.text_weight > 0)
        self.examples: list[Example] = [
            prompt_builder.replay(text, phrases.plainly(meaning)) if asked else prompted(prompt_builder, text)
            for text, meaning, asked in zip([*sides[0], *sides[1]], meanings * 2, translated, strict=True)
        ]
        self.neither: Tensor = torch.from_numpy(np.tile(converse(meanings), (2, 2)))  # (2N, 2N)


def prompted(prompt_builder: PromptBuilder, text: str) -> Example:
    """Spell a text as a prompt that nothing follows."""
    return Example(prompt_builder.prompt(text), Tokens.text([]))


def read_prompts(model: GroundedLM, examples: Sequence[Example], row_tokens: int) -> tuple[Tensor, Tensor]:
    """Read examples of text in one pass.

    Returns:
        The mean hidden state of each prompt, (N, D), and the mean cross-entropy of the words asked for.
    """
    groups = [packing.group([example]) for example in examples]
    rows = packing.pack([len(group) for group in groups], row_tokens, open_rows=len(groups))
    nothing = RolloutSet.from_rollouts(model.spec, [])
    laid = [[groups[index] for index in row] for row in rows]
    batch = packing.batch(laid, nothing, model.backbone.two_way_prompt).to(model.device)
    hidden = model.body(model.embed(batch), batch.visible, batch.position).flatten(0, 1)  # (B*L, D)
    at, owner = (part.to(model.device) for part in _prompts(groups, rows, batch.position.shape[1]))
    sums = hidden.new_zeros(len(groups), hidden.shape[1]).index_add(0, owner, hidden[at])
    words = F.cross_entropy(
        model.backbone.logits(hidden[batch.ask_text_at]), batch.want_text, reduction="sum"
    )
    return sums / owner.bincount()[:, None], words / max(len(batch.want_text), 1)


def info_nce(vectors: Tensor, neither: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Mean cross-entropy of finding each vector's partner among all others by cosine.

    Args:
        vectors: (2N, D); those at i and i + N belong together.
        neither: (2N, 2N) bool, pairs to leave out.
        temperature: divides the cosines.
    """
    count = len(vectors)
    unit = F.normalize(vectors.float(), dim=1)
    likeness = unit @ unit.T / temperature  # (2N, 2N)
    hidden = neither.to(vectors.device) | torch.eye(count, dtype=torch.bool, device=vectors.device)
    partner = torch.arange(count, device=vectors.device).roll(count // 2)
    return F.cross_entropy(likeness.masked_fill(hidden, -torch.inf), partner)


def converse(meanings: Sequence[Meaning]) -> np.ndarray:
    """Which pairs of meanings are true together though they move different things: N -> (N, N) bool.

    The lamp left of the sofa is the sofa right of the lamp: not the same request, but no near miss either.
    """
    turned = [tuple(phrases.turned(fact) for fact in meaning) for meaning in meanings]
    return np.array([[one == other and other != self for other in meanings]
                     for one, self in zip(turned, meanings, strict=True)])  # fmt: skip


def lesson_losses(model: GroundedLM, lesson: Lesson, config: GroundConfig) -> tuple[Tensor, Tensor]:
    """Return the losses of a lesson: contrast and words, one number each."""
    with autocast(model.device, config.precision):
        vectors, words = read_prompts(model, lesson.examples, config.row_tokens)
    return info_nce(vectors, lesson.neither), words


def _finite(losses: StepLosses) -> dict[str, float]:
    values = {name: float(loss) for name, loss in losses.items()}
    if not all(map(math.isfinite, values.values())):
        raise KalmError(f"the losses of the language warm-up are {values}. Lower ground.language.lr.")
    return values


def _prompts(groups: Sequence[PackedRow], rows: Sequence[Sequence[int]], width: int) -> tuple[Tensor, Tensor]:
    """Return the flat index of every prompt token, and the number of the group that it belongs to."""
    at, owner = [], []
    for number, row in enumerate(rows):
        start = number * width
        for index in row:
            size = len(groups[index].prompt)
            at.append(np.arange(start, start + size))
            owner.append(np.full(size, index))
            start += len(groups[index])
    return torch.from_numpy(np.concatenate(at)), torch.from_numpy(np.concatenate(owner))
