"""Predicting next states: the model's answers to the dynamics prompt, many at a time.

The prompt is the same for all transitions, so several stand behind one reading of it (`kalm.lm.packing`).
Errors are measured beside those of a predictor that says "nothing moves": most of a state stays as it is, so
a small error alone says little.
"""

from __future__ import annotations

import numpy as np
import torch

from kalm.data.rollouts import RolloutSet
from kalm.lm import packing
from kalm.lm.model import GroundedLM, autocast

SHARED_PROMPT = 8  # transitions behind one reading of the prompt
ROWS = 32  # readings per batch


@torch.inference_mode()
def predict(
    model: GroundedLM, rollouts: RolloutSet, picked: np.ndarray, precision: str = "auto"
) -> np.ndarray:
    """Predict the states after some of the rollouts' actions, each from the state before it alone.

    Args:
        model: the grounded model, on any device.
        rollouts: real or imagined ones.
        picked: (M,) rows of `rollouts.actions`.
        precision: see `GroundConfig.precision`.

    Returns:
        (M, S) states.
    """
    prompt_builder = model.prompt_builder()
    owner = rollouts.owner[picked]
    steps = picked - rollouts.action_starts[owner]
    examples = [prompt_builder.dynamics(rollouts, int(i), int(t)) for i, t in zip(owner, steps, strict=True)]
    groups = [
        [packing.group(examples[first : first + SHARED_PROMPT])]
        for first in range(0, len(examples), SHARED_PROMPT)
    ]
    found = [np.zeros((0, rollouts.spec.state_size))]
    for first in range(0, len(groups), ROWS):
        batch = packing.batch(groups[first : first + ROWS], rollouts, model.backbone.two_way_prompt).to(
            model.device
        )
        with autocast(model.device, precision):
            hidden = model.body(model.embed(batch), batch.visible, batch.position).flatten(0, 1)  # (B*L, D)
            states = model.predicted_states(hidden[batch.ask_state_at], batch.present_states)
        found.append(states.double().numpy(force=True))
    return np.concatenate(found)


def squared_errors(
    model: GroundedLM, rollouts: RolloutSet, picked: np.ndarray, precision: str = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared errors of the model, and of "nothing moves", per state number: (M,), (M,)."""
    before = rollouts.states[rollouts.before[picked]]
    after = rollouts.states[rollouts.before[picked] + 1]
    predicted = predict(model, rollouts, picked, precision)
    return ((predicted - after) ** 2).mean(axis=1), ((before - after) ** 2).mean(axis=1, dtype=np.float64)
