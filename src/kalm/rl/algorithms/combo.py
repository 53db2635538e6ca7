"""COMBO (Yu et al. 2021): conservative Q-learning on data and on short rollouts of a model of the world.

The policy in training takes a few steps in a forward ensemble from states of the data, real and imagined
(`kalm.rl.model_buffer`), and every batch is part data, part model. With d those transitions and D the data
among them,

::

    loss = mean_d 1/2 (r + gamma Q'(s', pi(s')) - Q(s, a))^2
         + alpha ( mean_d log sum_a exp Q(s, a)  -  mean_D Q(s, a) )

so values are pushed down on what the policy might do and up on what the data did. Networks, targets and
optimizers are those of CQL; only the loss differs.

Unusual: values are pushed down at all of d, where the paper takes the model's states alone. With those,
nothing sets the data's action apart from its neighbours, and policies are far worse in both worlds
(docs/log.md). And the error is squared where discrete CQL uses Huber's: the conservative term has no lower
bound, as model states are not the data's, so against an error that grows linearly values can run away. The
weight alpha is fixed, as in the paper.
"""

from __future__ import annotations

from pydantic import Field

from kalm.rl.algorithms.base import LearnerSettings, LossTerms, squared_error
from kalm.rl.algorithms.cql import CQL, CQLConfig, DiscreteCQL
from kalm.rl.batch import TransitionBatch
from kalm.runs.section import Section


class COMBOConfig(Section):
    """Conservative offline model-based policy optimization."""

    alpha: float = Field(
        default=10.0, ge=0, description="weight of the conservative term beside half of the squared error"
    )
    samples: int = Field(
        default=10, gt=0, description="continuous actions: how many it draws, see train.cql.samples"
    )
    real_share: float = Field(
        default=0.8, gt=0, lt=1, description="share of a batch that is data; the rest is the model's"
    )
    horizon: int = Field(default=5, gt=0, description="largest number of steps in the model")
    rollouts: int = Field(default=2_000, gt=0, description="model rollouts that begin together")
    refresh: int = Field(default=500, gt=0, description="updates from one time to the next")
    explore: float = Field(
        default=0.1, ge=0, le=1, description="share of the model's actions that are drawn uniformly"
    )
    target: int = Field(
        default=500, gt=0, description="discrete actions: updates between copies to the target network"
    )


class DiscreteCOMBO(DiscreteCQL):
    """The loss on batches whose first rows are data and whose other rows are the model's."""

    scaled = True

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: LearnerSettings,
        device: str,
        settings: COMBOConfig,
    ) -> None:
        stock = CQLConfig(alpha=settings.alpha)
        super().__init__(observation_size, action_size, config, device, stock)
        self.target_every: int = settings.target
        self.real_share: float = settings.real_share

    def losses(self, batch: TransitionBatch) -> LossTerms:
        """Return the temporal-difference error and the conservative term."""
        values = self.q(batch.observations)  # (B, A)
        chosen = values.gather(1, batch.actions.long())  # (B, 1)
        td_loss = 0.5 * (chosen - self.target(batch)).square().mean()
        data = chosen[: data_rows(len(batch), self.real_share)]
        return self.weighed(td_loss, values.logsumexp(1).mean() - data.mean())


class COMBO(CQL):
    """The same with an actor; the sum over actions is CQL's, by samples of the policy and uniform ones.

    CQL's squared error has no half, so alpha is doubled.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: LearnerSettings,
        device: str,
        settings: COMBOConfig,
    ) -> None:
        stock = CQLConfig(alpha=2 * settings.alpha, samples=settings.samples)
        super().__init__(observation_size, action_size, config, device, stock)
        self.real_share: float = settings.real_share

    def critic_losses(self, batch: TransitionBatch) -> LossTerms:
        """Return the temporal-difference error and the conservative term."""
        target, actions, log_probs = self.target_and_samples(batch)
        chosen = self.critics(batch.observations, batch.actions)  # (2, B, 1)
        others = self.critics.over_actions(batch.observations, actions) - log_probs  # (2, B, 3n)
        data = chosen[:, : data_rows(len(batch), self.real_share)]
        conservative = self.alpha * (others.logsumexp(2).mean(1) - data.mean(dim=(1, 2))).sum()
        td_loss = squared_error(chosen, target)
        return {"critic_loss": td_loss + conservative, "td_loss": td_loss, "conservative_loss": conservative}


def data_rows(n: int, real_share: float) -> int:
    """Return how many rows of a batch of n are data; the others are the model's. At least one of each."""
    return min(max(round(real_share * n), 1), n - 1)
