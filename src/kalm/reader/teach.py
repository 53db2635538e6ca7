"""Teaching a language model to read, by text alone, about things that occur in no environment.

The loss is that of choosing: at each place of a plan where more than one word may come (`PlanTree`), the
cross-entropy among those words alone. That is what reading does later, and it spares the vocabulary.

What makes it affordable on a CPU: requests about one scene share the reading of its prompt
(`kalm.lm.packing`), adapters stand in the upper layers only, so that the gradient stops half way down, and
a row is as long as its scene, without padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError
from kalm.lm import packing
from kalm.lm.backbone import Backbone
from kalm.lm.loading import load_backbone
from kalm.lm.packing import PackedRow
from kalm.lm.prompts import TEXT, Tokens
from kalm.reader import grammar
from kalm.reader.adapter import AdapterFacts, adapter_weights, is_adapter_folder, read_facts, save_adapter
from kalm.reader.decode import ReadingModel
from kalm.reader.grammar import ReadingLesson
from kalm.reader.measure import measure_grammar
from kalm.reader.model import Spelling, WordScores, add_adapters, spelling
from kalm.reader.prompts import make_menu
from kalm.reader.settings import TeachConfig
from kalm.runs.io import fingerprint
from kalm.runs.metrics import Metrics
from kalm.runs.progress import Advance, silent
from kalm.runs.seeding import derive_rng, derive_seed
from kalm.training.callbacks import LogLosses, SaveCheckpoint, WriteMetrics
from kalm.training.checkpoint import NAME, Checkpoint
from kalm.training.loop import StepLosses, fit
from kalm.training.optimizer import schedule, warmup_steps
from kalm.training.random_state import own_random_stream
from kalm.training.shards import trained
from kalm.types import WorldSpec

LOG_EVERY = 10
TEACHING = "teaching"  # folder of checkpoint and metrics
Watch = Callable[[str, int], AbstractContextManager[Advance]]
NOWHERE = WorldSpec("text", (), "discrete", 1, 1)  # packing knows rollouts; there are none


@dataclass(frozen=True)
class Choices:
    """A lesson as tensors.

    Attributes:
        batch: one row of tokens; `ask_text_at` are the places where a plan chooses.
        words: (U,) every token id that may come anywhere.
        allowed: (n, U) bool, which of them may come at each place.
        chosen: (n,) which of them comes.
    """

    batch: packing.PackedBatch
    words: Tensor
    allowed: Tensor
    chosen: Tensor


def choices(lesson: ReadingLesson, spelled: Spelling) -> Choices:
    """Spell a lesson."""
    menu = make_menu(lesson.scene.sentences, lesson.scene.things)
    tree = spelled.tree(menu)
    bodies: list[Tokens] = []
    options: list[list[int]] = []
    for request in lesson.requests:
        lead, plan = spelled.request(request.text), tree.spell(request.steps)
        body = Tokens.text([*lead, *plan[:-1]])
        for at, (token, may) in enumerate(zip(plan, tree.choices(request.steps), strict=True), len(lead) - 1):
            if len(may) > 1:
                body.asks[at], body.answer[at] = TEXT, token
                options.append(may)
        bodies.append(body)
    row = PackedRow(Tokens.text(spelled.prompt(menu)), tuple(bodies))
    batch = packing.batch([[row]], RolloutSet.from_rollouts(NOWHERE, []), two_way_prompt=False)
    words = sorted({token for may in options for token in may})
    place = {token: number for number, token in enumerate(words)}
    allowed = torch.zeros(len(options), len(words), dtype=torch.bool)
    for at, may in enumerate(options):
        allowed[at, [place[token] for token in may]] = True
    chosen = torch.tensor([place[int(token)] for token in batch.want_text])
    return Choices(batch, torch.tensor(words), allowed, chosen)


def choice_losses(backbone: Backbone, scores: WordScores, taught: Choices, device: torch.device) -> Tensor:
    """Return the cross-entropy of every choice of a lesson: (n,)."""
    batch = taught.batch.to(device)
    embedded = backbone.words(batch.text)[None]  # one row: tokens stand in their order
    hidden = backbone.run(embedded, batch.visible, batch.position).flatten(0, 1)  # (L, H)
    logits = scores(hidden[batch.ask_text_at], taught.words.to(device))
    return F.cross_entropy(
        logits.masked_fill(~taught.allowed.to(device), -torch.inf), taught.chosen.to(device), reduction="none"
    )


def make_reader(folder: Path, config: TeachConfig, seed: int, device: str, watch: Watch) -> AdapterFacts:
    """Teach a reader into a folder, going on where a stopped call ended; what is finished is not made again.

    Args:
        folder: gets the reader (`kalm.reader.adapter`), and in ``teaching/`` checkpoint and metrics.
        config: settings.
        seed: root of the lessons.
        device: torch device to compute on.
        watch: given what is done and how much of it there is, opens what shows progress.

    Raises:
        KalmError: the base model cannot be had, or the folder holds another teaching.
    """
    if is_adapter_folder(folder):
        facts = read_facts(folder)
        if (facts.settings, facts.seed, facts.grammar) == (config, seed, grammar.VERSION):
            return facts
        raise KalmError(
            f"{folder} holds a reader that was taught with other settings, seed or grammar. Give another "
            "--out, or --overwrite."
        )
    backbone = load_backbone(config.base, "causal")
    with own_random_stream(device, derive_seed(seed, "teach", "init")):
        add_adapters(backbone, config)
        cast("nn.Module", backbone.model).to(device)
        with watch("teach", config.steps) as advance:
            teach(backbone, config, seed, folder / TEACHING, advance)
    weights = {name: weight.half().float() for name, weight in adapter_weights(backbone).items()}
    with torch.no_grad():  # what is measured is what is stored
        for name, weight in adapter_weights(backbone).items():
            weight.copy_(weights[name])
    model, spelled = ReadingModel(backbone, WordScores(backbone)), spelling(backbone)
    with watch("measure", config.held_out) as advance:
        found = measure_grammar(model, spelled, config.held_out, seed, advance=advance)
    calibration = found.calibrate()
    facts = AdapterFacts(
        config.base,
        backbone.origin.digest,
        grammar.VERSION,
        seed,
        config,
        calibration,
        found.to_json(calibration),
    )
    save_adapter(backbone, facts, folder)
    return facts


def teach(
    backbone: Backbone, config: TeachConfig, seed: int, folder: Path, advance: Advance = silent
) -> None:
    """Teach a backbone with fresh adapters in place, going on from the folder's checkpoint if there is one.

    Args:
        backbone: has its adapters (`model.add_adapters`).
        config: settings.
        seed: root of the lessons.
        folder: gets checkpoint and metrics.
        advance: told of every step.

    Raises:
        KalmError: a loss is not finite, or the checkpoint is another teaching's.
    """
    weights = trained(backbone.model)
    device = next(iter(weights.values())).device
    optimizer = torch.optim.AdamW(
        weights.values(), config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay, fused=True
    )
    spelled, scores = spelling(backbone), WordScores(backbone)

    def update(step: int) -> StepLosses:
        lessons = [taught_lesson(config, seed, step, part) for part in range(config.lessons)]
        spelt = [choices(lesson, spelled) for lesson in lessons]
        count = sum(len(part.chosen) for part in spelt)
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for part in spelt:
            loss = choice_losses(backbone, scores, part, device).sum() / count
            loss.backward()
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(weights.values(), config.clip)
        optimizer.step()
        return {"loss": total}

    identity = fingerprint([config.model_dump(), backbone.origin.digest, grammar.VERSION, seed])
    checkpoint = Checkpoint(folder / NAME, identity, weights, {"optimizer": optimizer}, device)
    resumed = checkpoint.restore()
    done = resumed.step if resumed else 0
    metrics = Metrics(folder, done)
    rising = warmup_steps(config.warmup, config.steps)
    backbone.model.train()
    fit(
        update,
        config.steps,
        done,
        schedulers=[schedule(optimizer, "cosine", config.steps, warmup=rising, done=done)],
        callbacks=[
            LogLosses(_finite, LOG_EVERY, config.checkpoint_every),
            WriteMetrics(metrics),
            SaveCheckpoint(checkpoint, config.checkpoint_every, at_end=True),
        ],
        advance=advance,
    )
    backbone.model.eval()
    metrics.close()


def taught_lesson(config: TeachConfig, seed: int, step: int, part: int) -> ReadingLesson:
    """Return one of the lessons of a step."""
    return grammar.lesson(derive_rng(seed, "teach", step, part), config.requests)


def _finite(losses: StepLosses) -> dict[str, float]:
    values = {name: float(loss) for name, loss in losses.items()}
    if not all(map(math.isfinite, values.values())):
        raise KalmError(f"the losses of the teaching are {values}. Lower lr.")
    return values
