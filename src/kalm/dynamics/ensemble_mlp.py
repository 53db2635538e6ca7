"""Several small networks as one, and how they are fitted: with held-out data that say when to stop.

M networks are M slices of one batched product, so an ensemble costs one call per layer. They differ in their
first weights and in the batches they see. What is kept is each network's state at the evaluation where the
mean held-out loss was smallest; after `patience` evaluations without a smaller one the fitting stops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kalm.data.rollouts import RolloutSet
from kalm.dynamics.normalizer import Normalizer
from kalm.dynamics.settings import DynamicsConfig
from kalm.errors import KalmError
from kalm.runs.progress import Advance, silent
from kalm.runs.seeding import derive_rng
from kalm.training.callbacks import EarlyStopping
from kalm.training.loop import StepLosses, fit
from kalm.training.optimizer import gradient_step, schedule, warmup_steps

WARMUP = 0.1  # share of steps with rising learning rate
CLIP = 10.0  # largest gradient norm of all members together


class EnsembleMLP(nn.Module):
    """M multi-layer perceptrons that are computed together; inputs are brought to mean 0 and deviation 1.

    Args:
        count: number M of networks.
        sizes: numbers in, numbers of each hidden layer, numbers out.
        generator: draws the first weights.

    Attributes:
        inputs: units of the inputs.
    """

    def __init__(self, count: int, sizes: Sequence[int], generator: torch.Generator) -> None:
        super().__init__()
        pairs = list(zip(sizes, sizes[1:], strict=False))
        self.weights: nn.ParameterList = nn.ParameterList(
            torch.randn(count, wide, out, generator=generator) / math.sqrt(wide) for wide, out in pairs
        )
        self.biases: nn.ParameterList = nn.ParameterList(torch.zeros(count, 1, out) for _, out in pairs)
        self.inputs: Normalizer = Normalizer(sizes[0])

    @property
    def count(self) -> int:
        """Number M of networks."""
        return len(self.biases[0])

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute all members: (N, F), the same for all, or (M, N, F) -> (M, N, O)."""
        hidden = self.inputs.normal(inputs)
        hidden = hidden.expand(self.count, *hidden.shape[-2:])
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if layer < last:
                hidden = functional.silu(hidden)
        return hidden


def fit_ensemble_mlp(
    network: EnsembleMLP,
    loss: Callable[[Tensor], Tensor],
    held_out_loss: Callable[[], Tensor],
    rows: int,
    steps: int,
    config: DynamicsConfig,
    generator: torch.Generator,
    advance: Advance = silent,
) -> float:
    """Fit a network in place and return its smallest held-out loss.

    Args:
        network: its members are fitted.
        loss: mean loss of the rows (M, B) int64 of the data, one batch per member.
        held_out_loss: mean loss of all held-out rows.
        rows: number of rows to draw from.
        steps: largest number of steps.
        config: batch, learning rate, when to evaluate and how patient to be.
        generator: draws the batches.
        advance: told of finished steps.

    Raises:
        KalmError: the held-out loss is no longer finite.
    """
    device = network.inputs.mean.device
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.lr, weight_decay=1e-4)
    rising = warmup_steps(WARMUP, steps)
    best = EarlyStopping(
        network,
        held_out_loss,
        config.evaluate_every,
        config.patience,
        "Lower dynamics.lr: the fitting diverged.",
    )

    def update(_: int) -> StepLosses:
        batch = torch.randint(rows, (network.count, config.batch), generator=generator).to(device)
        found = loss(batch)
        gradient_step(optimizer, found * network.count, CLIP)  # as if each member were alone
        return {"loss": found}

    fit(
        update,
        steps,
        schedulers=[schedule(optimizer, "cosine", steps, warmup=rising)],
        callbacks=[best],
        advance=advance,
        advance_every=config.evaluate_every,
    )
    best.restore_best()
    return best.best


def held_out(real: RolloutSet, config: DynamicsConfig, seed: int) -> tuple[RolloutSet, RolloutSet]:
    """Split real rollouts into those to learn from and those to judge by; the same for all models.

    Raises:
        KalmError: one of the parts is empty.
    """
    learn, held = real.split(config.held_out, derive_rng(seed, "dynamics", "held out"))
    if not len(learn) or not len(held):
        raise KalmError(
            f"{len(real)} real rollouts are too few to fit models of the dynamics with "
            f"dynamics.held_out={config.held_out}. Collect more."
        )
    return learn, held
