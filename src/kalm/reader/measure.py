"""How often a reader is right: on the goals of an environment, and on held-out wordings of the grammar."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kalm.envs.base import World
from kalm.envs.rollout import initial_states
from kalm.reader import grammar
from kalm.reader.decode import ReadingModel, write_plans
from kalm.reader.plans import Calibration, Plan, log_odds
from kalm.reader.prompts import make_menu
from kalm.reader.reader import Reader, Spells
from kalm.runs.progress import Advance, silent
from kalm.runs.seeding import derive_rng
from kalm.types import Instruction, JsonObject

PRECISION = 0.9  # share of right ones that the plans above the threshold are to reach
PULL = 0.1  # strength of the pull to the model's own probabilities
REQUESTS = 12  # per scene of the grammar


@dataclass(frozen=True)
class Share:
    """How many of some plans are right.

    Attributes:
        count: plans.
        right: share of them that are right.
        sure: share of them that the reader is sure of.
        right_when_sure: share of right ones among those; 1 where there are none.
    """

    count: int
    right: float
    sure: float
    right_when_sure: float

    @classmethod
    def of(cls, right: np.ndarray, sure: np.ndarray) -> Share:
        """Count: (N,) bool each."""
        trusted = right[sure]
        return cls(
            len(right),
            float(right.mean()),
            float(sure.mean()),
            float(trusted.mean()) if len(trusted) else 1.0,
        )


def measure_goals(
    reader: Reader, world: World, instructions: Sequence[Instruction], advance: Advance = silent
) -> JsonObject:
    """Compare what a reader makes of instructions, in a scene drawn for each, with their goals' structure.

    Returns:
        ``{"levels": {LEVEL: share}, "kinds": {KIND: share}, "wrong": [...]}``; a share is a `Share` as JSON.
    """
    states = initial_states(world, instructions, np.arange(len(instructions)), "tested")
    plans = reader.read([instruction.text for instruction in instructions], world, states, advance)
    right = np.array(
        [world.is_plan(plan.goals, asked.goal) for plan, asked in zip(plans, instructions, strict=True)], bool
    )
    sure = np.array([plan.sure for plan in plans], bool)

    def shares(names: Sequence[str]) -> JsonObject:
        chosen = np.array(names)
        return {
            name: vars(Share.of(right[chosen == name], sure[chosen == name])) for name in dict.fromkeys(names)
        }

    return {
        "levels": shares([instruction.level for instruction in instructions]),
        "kinds": shares([f"{instruction.level}: {instruction.goal.label}" for instruction in instructions]),
        "wrong": [
            _wrong(plan, asked)
            for plan, asked, hit in zip(plans, instructions, right, strict=True)
            if not hit
        ],
    }


def _wrong(plan: Plan, asked: Instruction) -> JsonObject:
    return {**plan.to_json(), "level": asked.level, "wording": asked.wording, "goal": asked.goal.to_json()}


@dataclass(frozen=True)
class HeldOut:
    """How a model does on wordings that it was not taught.

    Attributes:
        kinds: (N,) kind of each request.
        right: (N,) bool, the most probable plan is the one that was asked for.
        probability: (N,) what the model gives that plan.
        wrong: requests that were misread, with what came.
    """

    kinds: np.ndarray
    right: np.ndarray
    probability: np.ndarray
    wrong: tuple[str, ...]

    def calibrate(self) -> Calibration:
        """Fit confidence and threshold."""
        scale, shift = platt(np.array([log_odds(p) for p in self.probability.tolist()]), self.right)
        fitted = Calibration(scale, shift)
        confidence = np.array([fitted.confidence(p) for p in self.probability.tolist()])
        return Calibration(scale, shift, threshold(confidence, self.right))

    def to_json(self, calibration: Calibration) -> JsonObject:
        """Return shares by kind, and over all, JSON-ready."""
        sure = (
            np.array([calibration.confidence(p) for p in self.probability.tolist()]) >= calibration.threshold
        )
        kinds = {
            str(kind): vars(Share.of(self.right[self.kinds == kind], sure[self.kinds == kind]))
            for kind in dict.fromkeys(self.kinds.tolist())
        }
        return {"all": vars(Share.of(self.right, sure)), "kinds": kinds}


def measure_grammar(
    model: ReadingModel,
    spelled: Spells,
    scenes: int,
    seed: int,
    part: grammar.Part = "held out",
    advance: Advance = silent,
) -> HeldOut:
    """Let a model read requests of the grammar about this many scenes."""
    kinds, right, probability, wrong = [], [], [], []
    for number in range(scenes):
        lesson = grammar.lesson(derive_rng(seed, "measure", part, number), REQUESTS, part)
        menu = make_menu(lesson.scene.sentences, lesson.scene.things)
        asked = [spelled.request(request.text) for request in lesson.requests]
        written = write_plans(model, spelled.prompt(menu), asked, spelled.tree(menu))
        for request, plans in zip(lesson.requests, written, strict=True):
            kinds.append(request.kind)
            right.append(plans[0].steps == request.steps)
            probability.append(math.exp(plans[0].log_probability))
            if not right[-1]:
                came = "; ".join(menu.short[step] for step in plans[0].steps) or "own words"
                meant = "; ".join(menu.short[step] for step in request.steps) or "own words"
                wrong.append(f"{request.kind}: {request.text!r} was read as {came}, meant was {meant}")
        advance(1)
    return HeldOut(np.array(kinds), np.array(right, bool), np.array(probability), tuple(wrong))


def platt(odds: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Fit the line in log-odds that makes what happened most probable: (N,) float, (N,) bool -> scale, shift.

    With Platt's own smoothed targets, so that a model that is always right is not taken to be always sure,
    and a weak pull to the model's own probabilities, so that few requests give no steep line.
    """
    hits = int(right.sum())
    targets = np.where(right, (hits + 1) / (hits + 2), 1 / (len(right) - hits + 2))
    columns = np.stack([odds, np.ones(len(odds))], axis=1)  # (N, 2)
    own = np.array([1.0, 0.0])

    def loss(line: np.ndarray) -> float:
        odds = columns @ line
        return float((np.logaddexp(0, odds) - targets * odds).sum() + PULL * ((line - own) ** 2).sum() / 2)

    line = own
    for _ in range(100):  # Newton's method, which settles within ten steps
        chance = np.exp(-np.logaddexp(0, -columns @ line))
        slope = columns.T @ (chance - targets) + PULL * (line - own)
        curve = (columns * (chance * (1 - chance))[:, None]).T @ columns + PULL * np.eye(2)
        step = np.linalg.solve(curve, slope)
        while loss(line - step) > loss(line) and np.abs(step).max() > 1e-9:
            step = step / 2
        line = line - step
    return float(line[0]), float(line[1])


def threshold(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the least confidence from 0.5 on above which `PRECISION` of plans are right: (N,), (N,) bool."""
    order = np.argsort(-confidence)
    shares = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    good = np.flatnonzero(shares >= PRECISION)
    least = float(confidence[order][good[-1]]) if len(good) else 1.0
    return max(0.5, least)
