"""Evaluating a model while it is trained: what it loses on held-out rollouts, and what it can do already.

This is quick, so its numbers come from few rollouts; `kalm.evaluation.grounding` measures the final model
with intervals. Every evaluation takes the same goals, initial states and held-out rollouts, so that curves
move because the model does. Goals are of the split `tune`, for this is what one looks at while choosing
settings; a level without a sentence of that split has no curve. Names of numbers are ``family/line``: a
family is one panel of the report.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from kalm.data.rollouts import RolloutSet
from kalm.data.scoring import first_true, one_step, violated
from kalm.envs.base import World
from kalm.envs.rollout import initial_states
from kalm.envs.sentences import of_split
from kalm.lm import packing
from kalm.lm.explain import ALL, explain, verdicts
from kalm.lm.generate import imagine_rollouts
from kalm.lm.model import GroundedLM, autocast
from kalm.lm.packing import PackedRow
from kalm.lm.predict import squared_errors
from kalm.lm.prompts import GOAL_ORIENTED, Example, PromptBuilder, explanation_prompts
from kalm.lm.settings import GroundConfig
from kalm.runs.seeding import derive_rng, derive_seed
from kalm.types import LEVELS, Conditions, Instruction

SHARED_PROMPT = 4  # examples behind one reading of their prompt


class GroundingMonitor:
    """Measures a model again and again on the same goals and held-out rollouts."""

    def __init__(
        self,
        model: GroundedLM,
        world: World,
        held_out: RolloutSet,
        prompt_builder: PromptBuilder,
        config: GroundConfig,
        seed: int,
        conditions: Conditions = "plain",
    ) -> None:
        self.model = model
        self.world = world
        self.held_out = held_out
        self.config = config
        every = np.arange(len(held_out))
        explanations = [prompt_builder.explanation(held_out, int(i)) for i in every]
        dynamics = [prompt_builder.dynamics(held_out, int(i), 0) for i in every]
        tasks = {  # lists of examples that share a prompt
            "generation": [prompt_builder.generations(held_out, int(i), GOAL_ORIENTED) for i in every],
            "explanation": _shares(explanations),
            "dynamics": _shares(dynamics),
        }
        self.rows: dict[str, list[list[PackedRow]]] = {
            name: _rows(shares, config.row_tokens) for name, shares in tasks.items()
        }
        self.explained: RolloutSet = held_out.take(every[: config.explain_rollouts])
        rng = derive_rng(seed, "ground", "watch")
        self.seeds: list[int] = [
            derive_seed(seed, "ground", "watch", i) for i in range(config.match_rollouts)
        ]
        self.tries: dict[str, tuple[list[Instruction], np.ndarray]] = {}  # what to do, and from where
        for level in LEVELS:
            suite = of_split(world.suite(level), "tune")
            if not suite:
                continue
            picked = [suite[i] for i in rng.integers(len(suite), size=config.match_rollouts)]
            self.tries[level] = picked, initial_states(world, picked, self.seeds, conditions)
        # One transition per rollout: those of the same rollout are alike.
        self.transitions: np.ndarray = held_out.action_starts + rng.integers(held_out.lengths)

    @torch.inference_mode()
    def evaluate(self) -> dict[str, float]:
        """Return the numbers of this moment, for the metrics (`kalm.training.callbacks.Evaluate`)."""
        self.model.eval()
        values = {**self._losses(), **self._dynamics()}
        if self.config.explain_rollouts:
            values |= self._explanations()
        if self.config.match_rollouts:
            for level in self.tries:
                values |= self._imagined(level)
        return values

    def _losses(self) -> dict[str, float]:
        values = {}
        for task, rows in self.rows.items():
            batch = packing.batch(rows, self.held_out, self.model.backbone.two_way_prompt).to(
                self.model.device
            )
            with autocast(self.model.device, self.config.precision):
                losses = self.model(batch)
            for name, count in zip(losses._fields, batch.answers, strict=True):
                if count:
                    values[f"held_out/{task}_{name}"] = float(getattr(losses, name))
        return values

    def _dynamics(self) -> dict[str, float]:
        """Root mean square error of the next state, in units of states, and relative to "nothing moves"."""
        errors = squared_errors(self.model, self.held_out, self.transitions, self.config.precision)
        model, still = (float(np.sqrt(error.mean())) for error in errors)
        values = {"dynamics/model": model, "dynamics/nothing_moves": still}
        return {**values, "relative_error/dynamics": model / still} if still else values

    def _explanations(self) -> dict[str, float]:
        """Shares of explanations that name all of the goal, and each slot of it."""
        values = {}
        for name, prompt in explanation_prompts(self.world.scene).items():
            texts = explain(self.model, self.explained, prompt, precision=self.config.precision)
            for slot, right in verdicts(texts, self.explained, self.world).items():
                place = f"explanation/{name}" if slot == ALL else f"{name}/{slot}"
                values[place] = float(right.mean())
        return values

    def _imagined(self, level: str) -> dict[str, float]:
        """Shares of a level's rollouts that reach their goal, and reach it first, and hold what cannot be."""
        instructions, starts = self.tries[level]
        result = imagine_rollouts(
            self.model,
            self.world,
            instructions,
            self.seeds,
            starts=starts,
            precision=self.config.precision,
        )
        found = result.rollouts
        values = {f"match/{level}": float(found.success.sum() / len(self.seeds))}
        if not len(found):
            return values
        first = first_true(found, self.world)
        if (decided := first != "").any():
            values[f"goal_first/{level}"] = float((first[decided] == "goal").mean())
        action, change = one_step(found, self.world)
        if len(action):
            family = f"one_step_{level}"
            values |= {f"{family}/action": float(action.mean()), f"{family}/state": float(change.mean())}
        for name, (rows, _) in violated(found, self.world).items():
            values[f"{name}/{level}"] = float(rows.mean())
        return values


def _shares(examples: Sequence[Example]) -> list[Sequence[Example]]:
    """Divide examples of one prompt among so many readings of it."""
    return [examples[at : at + SHARED_PROMPT] for at in range(0, len(examples), SHARED_PROMPT)]


def _rows(shares: Sequence[Sequence[Example]], row_tokens: int) -> list[list[PackedRow]]:
    """Pack examples, each share of them behind one reading of their prompt, into rows without padding."""
    groups = [packing.group(share) for share in shares]
    packed = packing.pack([len(group) for group in groups], row_tokens)
    return [[groups[i] for i in row] for row in packed]
