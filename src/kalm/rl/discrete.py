"""Learners that read actions as numbers: behaviour cloning and CQL, with d3rlpy's losses and fewer passes.

Stock d3rlpy evaluates Q(s, .) twice per update, for the temporal-difference and for the conservative term;
here once, which halves the backward pass. Losses stay tensors: a metric is read when it is written down.
"""

from __future__ import annotations

import io
from contextlib import redirect_stderr

import torch
from torch.nn import functional as F

from kalm.rl.learner import Losses, TransitionBatch, descend, encoders, optimizers
from kalm.rl.mlp import forward, linears
from kalm.rl.settings import TrainConfig

with redirect_stderr(io.StringIO()):  # d3rlpy imports gym, which prints five lines about its successor
    from d3rlpy.algos import DiscreteBCConfig, DiscreteCQLConfig
    from d3rlpy.algos.qlearning.torch.bc_impl import DiscreteBCImpl
    from d3rlpy.algos.qlearning.torch.cql_impl import DiscreteCQLImpl


def bc(config: TrainConfig) -> DiscreteBCConfig:
    """Return the settings of behaviour cloning: the cross-entropy alone.

    d3rlpy's default adds a penalty on the squared outputs.
    """
    return DiscreteBCConfig(
        beta=0.0, batch_size=config.batch, **encoders(config, ""), **optimizers(config, "")
    )


def cql(config: TrainConfig) -> DiscreteCQLConfig:
    """Return the settings of conservative Q-learning."""
    return DiscreteCQLConfig(
        alpha=config.cql_alpha,
        gamma=config.gamma,
        batch_size=config.batch,
        **encoders(config, ""),
        **optimizers(config, ""),
    )


class BC(DiscreteBCImpl):
    """Cross-entropy of the data's actions."""

    def losses(self, batch: TransitionBatch) -> Losses:
        """Return every loss term."""
        logits = forward(linears(self._modules.imitator), batch.observations)  # (B, A)
        imitation = F.cross_entropy(logits, batch.actions.long().view(-1))
        penalty = self._beta * (logits.log_softmax(1) ** 2).mean() if self._beta else torch.zeros(())
        return {"loss": imitation + penalty, "imitation_loss": imitation, "regularization_loss": penalty}

    def inner_update(self, batch: TransitionBatch, grad_step: int) -> Losses:  # type: ignore[override]
        """Take one step."""
        losses = self.losses(batch)
        descend(self._modules.optim, losses["loss"])
        return losses


class CQL(DiscreteCQLImpl):
    """Huber error of double Q-learning + alpha * (log-sum-exp of Q - Q of the data's action)."""

    def losses(self, batch: TransitionBatch) -> Losses:
        """Return every loss term."""
        nets = [linears(q_func) for q_func in self._modules.q_funcs]
        values = torch.stack([forward(net, batch.observations) for net in nets])  # (M, B, A)
        actions = batch.actions.long()  # (B, 1)
        chosen = values.gather(2, actions.expand(len(values), -1, -1))  # (M, B, 1)
        goal = self.goal(batch).expand_as(chosen)  # (M, B, 1)
        td_loss = F.huber_loss(chosen, goal, reduction="none").mean(dim=(1, 2)).sum()
        conservative = (values.mean(0).logsumexp(1, keepdim=True) - chosen.mean(0)).mean()
        return {
            "loss": td_loss + self._alpha * conservative,
            "td_loss": td_loss,
            "conservative_loss": conservative,
        }

    @torch.no_grad()
    def goal(self, batch: TransitionBatch) -> torch.Tensor:
        """Return r + gamma * Q'(s', argmax Q(s', .)), without what follows a terminal: (B, 1)."""
        nets, targets = self._modules.q_funcs, self._modules.targ_q_funcs
        here = torch.stack([forward(linears(net), batch.next_observations) for net in nets]).mean(0)  # (B, A)
        then = torch.stack([forward(linears(net), batch.next_observations) for net in targets])  # (M, B, A)
        best = then.min(0).values.gather(1, here.argmax(1, keepdim=True))  # (B, 1)
        return batch.rewards + self._gamma**batch.intervals * best * (1 - batch.terminals)

    def inner_update(self, batch: TransitionBatch, grad_step: int) -> Losses:  # type: ignore[override]
        """Take one step; replace the target network when it is due."""
        losses = self.losses(batch)
        descend(self._modules.optim, losses["loss"])
        if grad_step % self._target_update_interval == 0:
            self.update_target()
        return losses
