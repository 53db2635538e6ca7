"""Behaviour cloning: copy the data's actions.

::

    discrete     - log softmax(f(s))_a
    continuous   (tanh f(s) - a)^2, the mean over the action's numbers

Unusual: the cross-entropy stands alone, where d3rlpy adds a penalty on the squared outputs by default.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch.nn import functional as F

from kalm.rl.algorithms.base import Learner, LearnerSettings, LossTerms, Output, descend, fused_adam
from kalm.rl.batch import TransitionBatch
from kalm.rl.networks import MLP


class _Cloning(Learner):
    """What both kinds of actions have in common."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: LearnerSettings,
        device: str,
        settings: None = None,
    ) -> None:
        super().__init__(observation_size, action_size, config, device)
        self.policy: MLP = MLP((observation_size,), config.hidden, action_size)
        self.to(device)
        self.optimizers: dict[str, torch.optim.Adam] = {
            "policy": fused_adam(self.policy.parameters(), config.lr)
        }

    @property
    def acting(self) -> MLP:
        """Logits of the actions, or actions before tanh."""
        return self.policy

    def update(self, batch: TransitionBatch, step: int) -> LossTerms:
        """Take one step."""
        losses = self.losses(batch)
        descend(self.optimizers["policy"], losses["loss"])
        return losses


class DiscreteBC(_Cloning):
    """Cross-entropy of the data's actions."""

    def losses(self, batch: TransitionBatch) -> LossTerms:
        """Return the cross-entropy."""
        return {"loss": F.cross_entropy(self.policy(batch.observations), batch.actions.long().view(-1))}


class BC(_Cloning):
    """Squared error between tanh of the network and the data's actions."""

    vectors = True
    output: ClassVar[Output] = "tanh"

    def losses(self, batch: TransitionBatch) -> LossTerms:
        """Return the squared error."""
        return {"loss": F.mse_loss(self.policy(batch.observations).tanh(), batch.actions)}
