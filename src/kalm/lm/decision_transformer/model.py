"""`ConditionedLM`: a language model that acts for a goal and a wanted return (Decision Transformer).

It is a `GroundedLM` with one embedding more, that of the return. The state head, the text head and the
transition network have nothing to do here, so the former two do not learn and the latter does not exist.

Unusual: what to ask for is read off the goal. A success earns 100 or 1 depending on the kind of goal, so one
number for all would ask for something that no rollout of this goal ever had. `fit_aims` therefore regresses
what successful rollouts earned on the model's own reading of their goals (ridge regression on the mean hidden
state of the prompt, in closed form, after training): goals that read alike are asked for alike.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from kalm.data.rollouts import RolloutSet
from kalm.dynamics.normalizer import Normalizer
from kalm.lm.backbone import Backbone
from kalm.lm.decoding import prompt_embeddings
from kalm.lm.heads import embedding
from kalm.lm.model import GroundedLM, autocast
from kalm.lm.packing import PackedBatch

AIMED_GOALS = 512  # sentences that the regression learns from, at most; all would take as long as 60 steps
RIDGE = 1e-2  # penalty, as a share of the mean variance of the hidden states


class DecisionTransformer(nn.Module):
    """A backbone that reads goal, returns, states and actions, and says the next action.

    Args:
        grounded: a backbone with state and action modules; no other owner may train it.
    """

    aim: Tensor
    aim_range: Tensor

    def __init__(self, grounded: GroundedLM) -> None:
        super().__init__()
        self.grounded = grounded
        width = grounded.backbone.width
        self.embed_return: nn.Sequential = embedding(nn.Linear(1, width), width, grounded.backbone.scale)
        self.returns: Normalizer = Normalizer()  # returns to go
        self.register_buffer("aim", torch.zeros(width + 1))  # (D + 1,) slopes and, last, the constant
        self.register_buffer("aim_range", torch.zeros(2))  # least and most that a goal's successes earned
        used = {id(weight) for weight in grounded.backbone.body.parameters()}
        for weight in (*grounded.state_head.parameters(), *grounded.lm.parameters()):
            if id(weight) not in used:
                weight.requires_grad_(False)

    @property
    def backbone(self) -> Backbone:
        """The language model."""
        return self.grounded.backbone

    def fit_scales(self, real: RolloutSet, rollouts: RolloutSet) -> None:
        """Take the scales of states from real data, and those of returns from all that is learnt from."""
        self.grounded.fit_scales(real)
        self.returns.fit(torch.from_numpy(rollouts.returns_to_go).double())

    def forward(self, batch: PackedBatch) -> Tensor:
        """Loss of each action of a batch: (r,); cross-entropy, or squared error per action number."""
        rows, width = batch.position.shape
        tokens = self.grounded.embed(batch).flatten(0, 1)  # (B*L, D)
        returns = self.return_tokens(batch.returns).to(tokens.dtype)
        tokens = tokens.index_copy(0, batch.return_at, returns).reshape(rows, width, -1)
        hidden = self.grounded.body(tokens, batch.visible, batch.position).flatten(0, 1)  # (B*L, D)
        asking = hidden[batch.ask_action_at]  # (r, D)
        return self.grounded.action_losses(asking, batch.acting_states, batch.want_actions)

    def return_tokens(self, returns: Tensor) -> Tensor:
        """Embed returns: (g,) -> (g, D)."""
        return self.embed_return(self.returns.normal(returns)[:, None])

    def aims(self, gist: Tensor) -> Tensor:
        """Say what to ask for at goals that read like this: hidden states (N, D) -> returns (N,)."""
        wanted = gist.to(self.aim.dtype) @ self.aim[:-1] + self.aim[-1]
        return wanted.clamp(self.aim_range[0], self.aim_range[1])

    @torch.inference_mode()
    def fit_aims(self, rollouts: RolloutSet, precision: str) -> None:
        """Learn what successes at a goal earn on average, from its reading; from all where none succeed."""
        numbers, earned, weights = _earned(rollouts)
        texts = [rollouts.instructions[number].text for number in numbers]
        with autocast(self.grounded.device, precision):
            gist = prompt_embeddings(self.grounded, texts).to(torch.float64)  # (G, D)
        self.aim.copy_(_ridge(gist, torch.from_numpy(earned), torch.from_numpy(weights)))
        self.aim_range.copy_(torch.tensor([earned.min(), earned.max()]))


def _earned(rollouts: RolloutSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return instructions (G,), the mean first return of their successes (G,), and their weights (G,)."""
    counted = rollouts.weights * (rollouts.success if rollouts.success.any() else 1.0)  # (N,)
    size = len(rollouts.instructions)
    first = rollouts.returns_to_go[rollouts.action_starts]  # (N,)
    weights = np.bincount(rollouts.which, counted, size)
    sums = np.bincount(rollouts.which, counted * first, size)
    numbers = np.flatnonzero(weights)
    if len(numbers) > AIMED_GOALS:
        numbers = numbers[np.linspace(0, len(numbers) - 1, AIMED_GOALS).astype(np.int64)]
    return numbers, sums[numbers] / weights[numbers], weights[numbers]


def _ridge(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Weighted ridge regression: (G, D), (G,), (G,) -> slopes and an unpenalised constant (D + 1,)."""
    share = weights / weights.sum()
    x_mean, y_mean = share @ x, share @ y
    centred = x - x_mean
    covariance = (centred * share[:, None]).T @ centred  # (D, D)
    penalty = RIDGE * covariance.diagonal().mean() + 1e-12
    slopes = torch.linalg.solve(
        covariance + penalty * torch.eye(len(covariance), dtype=x.dtype), centred.T @ (share * (y - y_mean))
    )
    return torch.cat([slopes, (y_mean - x_mean @ slopes)[None]])
