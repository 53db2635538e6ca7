"""What a reader makes of an instruction: plans, and how sure it is of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kalm.types import Goal, Instruction, JsonObject


@dataclass(frozen=True)
class Plan:
    """One way to say a request in plain sentences of the data.

    Attributes:
        request: what was asked.
        steps: plain sentences with their goals, in order; empty: the request stays in its own words.
        probability: what the model gives this plan among all there are.
        confidence: the probability that the plan is right, as measured on wordings that were not taught; of
            an untaught model the same as `probability`.
        sure: the confidence is not below the reader's threshold. A plan that is not should not be used.
    """

    request: str
    steps: tuple[Instruction, ...]
    probability: float
    confidence: float
    sure: bool

    @property
    def usable(self) -> tuple[Instruction, ...]:
        """Its steps where the reader is sure of them, else none: the request stays in its own words."""
        return self.steps if self.sure else ()

    @property
    def goals(self) -> tuple[Goal, ...]:
        """The goals of its steps, for `World.is_plan`."""
        return tuple(step.goal for step in self.steps)

    @property
    def text(self) -> str:
        """The plain sentences one after another, or what stands for the request's own words."""
        return " ".join(step.text for step in self.steps) if self.steps else "(in its own words)"

    def to_json(self) -> JsonObject:
        """Return JSON-ready values."""
        return {
            "request": self.request,
            "steps": [step.text for step in self.steps],
            "probability": self.probability,
            "confidence": self.confidence,
            "sure": self.sure,
        }


@dataclass(frozen=True)
class Calibration:
    """How a plan's probability becomes a confidence: a line in log-odds (Platt scaling).

    Attributes:
        scale: factor of the log-odds of the probability.
        shift: added to them.
        threshold: plans of less confidence should not be used.
    """

    scale: float = 1.0
    shift: float = 0.0
    threshold: float = 0.5

    def confidence(self, probability: float) -> float:
        """Return the probability that a plan is right."""
        odds = self.scale * log_odds(probability) + self.shift
        return 1 / (1 + math.exp(-odds)) if odds > -700 else 0.0


def log_odds(probability: float) -> float:
    """Return the log-odds of a probability, which may be 1 or 0 to machine precision."""
    inner = min(max(probability, 1e-7), 1 - 1e-7)
    return math.log(inner / (1 - inner))
