"""Fitting the action network: many passes over the data's transitions, behind sentences that are read once.

A batch is a few sentences and some transitions of each, because looking up is per sentence and choosing per
transition. Sentences are drawn alike, however many rollouts they have: a long task must not drown a short
one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kalm.data.rollouts import RolloutSet
from kalm.lm.decoding import prefill, there
from kalm.lm.model import GroundedLM, autocast
from kalm.lm.prompts import PROMPTS
from kalm.runs.progress import Advance, silent
from kalm.training.loop import StepLosses, fit
from kalm.training.optimizer import gradient_step, schedule, warmup_steps

SENTENCES = 32  # per batch
TRANSITIONS = 16  # of each
KEPT = 8192  # readings that are kept; of more sentences some are read again
RATE = 2e-3
WARMUP = 0.05
CLIP = 1.0  # largest norm of a gradient


def fit_action_network(
    model: GroundedLM,
    rollouts: RolloutSet,
    steps: int,
    seed: int,
    precision: str = "auto",
    advance: Advance = silent,
) -> None:
    """Fit a model's action network in place, with AdamW and a cosine schedule; nothing else of it changes.

    Args:
        model: with an action network (`Design.action_network`), on any device.
        rollouts: real rollouts.
        steps: batches of 32 sentences with 16 transitions each.
        seed: of sentences, prompts and transitions.
        precision: of the reading, see `GroundConfig.precision`.
        advance: told of finished steps.
    """
    network = model.action_network
    assert network is not None, model.design
    rng = np.random.default_rng(seed)
    transitions = _Transitions(rollouts)
    readings = _Readings(model, transitions.texts, rng, precision)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.0)
    device = model.device

    def update(_: int) -> StepLosses:
        chosen = rng.integers(len(transitions.texts), size=SENTENCES)  # (B,)
        rows = np.stack([rng.choice(transitions.rows[number], TRANSITIONS) for number in chosen]).ravel()
        states = torch.from_numpy(rollouts.states[rollouts.before[rows]]).to(device)
        wanted = torch.from_numpy(rollouts.actions[rows]).to(device)
        found = network.look_up(*readings(chosen)).repeat_interleave(TRANSITIONS, dim=0)  # (B * T, K + 1, W)
        loss = network.losses(found, model.scales.normal(states), wanted).mean()
        gradient_step(optimizer, loss, CLIP)
        return {"loss": loss}

    network.train().requires_grad_(True)
    rates = schedule(optimizer, "cosine", steps, warmup=warmup_steps(WARMUP, steps))
    fit(update, steps, schedulers=[rates], advance=advance)
    network.eval().requires_grad_(False)
    network.fitted.fill_(True)


class _Transitions:
    """Which transitions belong to which sentence.

    Attributes:
        texts: the U sentences that have any.
        rows: of each, its rows of `rollouts.actions`.
    """

    def __init__(self, rollouts: RolloutSet) -> None:
        texts = [instruction.text for instruction in rollouts.instructions]
        number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        of = np.array([number[text] for text in texts])[rollouts.which][rollouts.owner]  # (M,) of each action
        order = np.argsort(of, kind="stable")
        there, starts = np.unique(of[order], return_index=True)
        distinct = list(number)
        self.texts: list[str] = [distinct[i] for i in there]
        self.rows: list[np.ndarray] = np.split(order, starts[1:])


class _Readings:
    """What a frozen body makes of sentences, each read when it is first asked for.

    Every sentence stands in one of the prompts that it may come in, drawn once.
    """

    def __init__(
        self, model: GroundedLM, texts: Sequence[str], rng: np.random.Generator, precision: str
    ) -> None:
        builder, templates = model.prompt_builder(), list(PROMPTS.values())
        self.model = model
        self.precision = precision
        self.prompts: list[np.ndarray] = [
            builder.goal_prompt(text, templates[int(rng.integers(len(templates)))]).value for text in texts
        ]
        self.kept: dict[int, Tensor] = {}  # number -> hidden states (P, H), half as wide as they were read

    @torch.no_grad()
    def __call__(self, numbers: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return hidden states of these sentences (B, P, H), and which are real (B, P) bool."""
        missing = [number for number in dict.fromkeys(numbers.tolist()) if number not in self.kept]
        fresh: dict[int, Tensor] = {}
        if missing:
            with autocast(self.model.device, self.precision):
                hidden = prefill(self.model, [self.prompts[number] for number in missing])
            fresh = {
                number: row[: len(self.prompts[number])].half().clone()
                for number, row in zip(missing, hidden, strict=True)
            }
            self.kept |= dict(list(fresh.items())[: max(0, KEPT - len(self.kept))])
        rows = [fresh[n] if n in fresh else self.kept[n] for n in numbers.tolist()]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        real = there([self.prompts[number] for number in numbers]).to(padded.device)
        return padded.float(), real
