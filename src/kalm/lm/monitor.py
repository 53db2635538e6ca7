"""Looking at a model while it is trained: losses on held-out rollouts and quick match rates per level."""

from __future__ import annotations

import numpy as np
import torch

from kalm.config import GroundConfig
from kalm.data.rollouts import RolloutSet
from kalm.envs.base import World
from kalm.lm import collate
from kalm.lm.generate import imagine
from kalm.lm.grounded import GroundedLM, autocast
from kalm.lm.sequence import GOAL_ORIENTED, Speller
from kalm.runs import derive_rng, derive_seed
from kalm.types import LEVELS

MATCH_HORIZON = 25


class Monitor:
    """Held-out losses and quick match rates while training goes."""

    def __init__(
        self,
        model: GroundedLM,
        world: World,
        held_out: RolloutSet,
        speller: Speller,
        config: GroundConfig,
        seed: int,
    ) -> None:
        self.model, self.world, self.held_out, self.config = model, world, held_out, config
        every = np.arange(len(held_out))
        tasks = {
            "generation": [speller.generation(held_out, int(i), GOAL_ORIENTED) for i in every],
            "explanation": [speller.explanation(held_out, int(i)) for i in every],
            "dynamics": [speller.dynamics(held_out, int(i), 0) for i in every],
        }
        self.rows = {
            task: [[collate.group([example])] for example in examples] for task, examples in tasks.items()
        }
        rng = derive_rng(seed, "ground", "watch")
        self.instructions = {}
        for level in LEVELS:
            suite = world.suite(level)
            self.instructions[level] = [
                suite[i] for i in rng.integers(len(suite), size=config.match_rollouts)
            ]
        self.seeds = [derive_seed(seed, "ground", "watch", i) for i in range(config.match_rollouts)]

    @torch.inference_mode()
    def look(self) -> dict[str, float]:
        """Return the numbers of this moment."""
        self.model.eval()
        values: dict[str, float] = {}
        for task, rows in self.rows.items():
            batch = collate.batch(rows, self.held_out, self.model.backbone.two_way_prompt).to(
                self.model.device
            )
            with autocast(self.model.device, self.config.precision):
                losses = self.model(batch)
            answers = {"text": batch.learn_text, "state": batch.learn_state, "action": batch.learn_action}
            for name, learn in answers.items():
                if learn.any():
                    values[f"held_out/{task}_{name}"] = float(getattr(losses, name))
        if self.config.match_rollouts:
            for level, instructions in self.instructions.items():
                result = imagine(
                    self.model,
                    self.world,
                    instructions,
                    self.seeds,
                    horizon=min(MATCH_HORIZON, self.world.spec.horizon),
                    precision=self.config.precision,
                )
                values[f"match/{level}"] = float(result.rollouts.success.sum() / len(instructions))
        return values
