"""Explaining rollouts by inverse planning: which sentence, had it been asked for, leads to these actions.

A grounded model knows how likely an action is where a sentence is asked for. By Bayes' rule that also tells
which of the sentences was asked for, if each may have been: the one under which the actions that were taken
are likeliest (Baker, Saxe and Tenenbaum 2009, "Action understanding as inverse planning"). Nothing is learnt
for it. Text that a model writes about a rollout (`kalm.lm.explain`) has to be learnt, which takes far longer
than learning to act.

The sentences are given, e.g. the data's plain ones; so this chooses and words nothing anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from kalm.data.rollouts import RolloutSet
from kalm.lm import packing
from kalm.lm.decoding import prefill_goals
from kalm.lm.model import GroundedLM, autocast
from kalm.lm.packing import PackedRow
from kalm.lm.prompts import GOAL_ORIENTED

BEHIND_NETWORK = 256  # rollouts
BEHIND_PROMPT = 8  # rollouts, in one row
ROWS = 8  # prompts read together


@torch.inference_mode()
def action_surprise(
    model: GroundedLM, rollouts: RolloutSet, texts: Sequence[str], precision: str = "auto"
) -> np.ndarray:
    """Sum up the loss of each rollout's actions, had each sentence been asked for.

    Args:
        model: the grounded model, on any device.
        rollouts: N rollouts; only their states and actions are shown.
        texts: U sentences.
        precision: see `GroundConfig.precision`.

    Returns:
        (N, U) float64: of discrete actions the negative log-likelihood; of continuous ones the squared error,
        or the cross-entropy where values are rated. The least is the explanation.

    Raises:
        KalmError: a sentence or a rollout does not fit the model's context.
    """
    model.prompt_builder().require_room(rollouts)
    rows = np.arange(len(rollouts))
    with autocast(model.device, precision):
        if not model.acts_by_network:
            parts = np.split(rows, rows[BEHIND_PROMPT::BEHIND_PROMPT])
            return np.concatenate([_by_body(model, rollouts.take(part), texts) for part in parts])
        looked = prefill_goals(model, texts, GOAL_ORIENTED, reads_on=False).found
        assert looked is not None, model.design
    parts = np.split(rows, rows[BEHIND_NETWORK::BEHIND_NETWORK])
    return np.concatenate([_by_network(model, rollouts.take(part), looked.float()) for part in parts])


def _by_network(model: GroundedLM, rollouts: RolloutSet, looked: Tensor) -> np.ndarray:
    network = model.action_network
    assert network is not None, model.design
    states = torch.from_numpy(rollouts.states[rollouts.before]).to(model.scales.mean)
    states = model.scales.normal(states)
    actions = torch.from_numpy(rollouts.actions).to(model.device)
    losses = [network.losses(found.expand(len(states), -1, -1), states, actions) for found in looked]
    return _summed(torch.stack(losses), rollouts)


def _by_body(model: GroundedLM, rollouts: RolloutSet, texts: Sequence[str]) -> np.ndarray:
    prompt_builder = model.prompt_builder()
    bodies = tuple(
        example.body
        for row in range(len(rollouts))
        for example in prompt_builder.generations(rollouts, row, GOAL_ORIENTED)
    )
    losses = []
    for first in range(0, len(texts), ROWS):
        prompts = [prompt_builder.goal_prompt(text, GOAL_ORIENTED) for text in texts[first : first + ROWS]]
        rows = [[PackedRow(prompt, bodies)] for prompt in prompts]
        batch = packing.batch(rows, rollouts, model.backbone.two_way_prompt).to(model.device)
        hidden = model.body(model.embed(batch), batch.visible, batch.position).flatten(0, 1)
        losses += [model.action_losses(hidden[batch.ask_action_at], batch.acting_states, batch.want_actions)]
    return _summed(torch.cat(losses).unflatten(0, (len(texts), -1)), rollouts)


def _summed(losses: Tensor, rollouts: RolloutSet) -> np.ndarray:
    """Sum up the losses of actions (U, sum(T)) over each rollout: -> (N, U)."""
    return np.add.reduceat(losses.double().numpy(force=True), rollouts.action_starts, axis=1).T
