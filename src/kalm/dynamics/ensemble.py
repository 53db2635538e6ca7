"""What an action does to a state: an ensemble of networks fitted on real transitions.

Each member says how the state changes as a normal distribution per state number. Where members agree the
answer is known from the data; where they disagree nobody has been there (as in MOPO and COMBO).

Unusual: the loss is the likelihood of the change, weighted by the predicted standard deviation (beta-NLL,
Seitzer et al. 2022, beta = 0.5). The plain likelihood is content with large variances where states are hard
to predict; this one predicts means as well as the squared error does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kalm.data.rollouts import RolloutSet
from kalm.data.scoring import transitions
from kalm.dynamics import storage
from kalm.dynamics.ensemble_mlp import EnsembleMLP, fit_ensemble_mlp, held_out
from kalm.dynamics.entity_view import EntityView
from kalm.dynamics.normalizer import Normalizer
from kalm.dynamics.settings import DynamicsConfig
from kalm.runs.progress import Advance, silent
from kalm.runs.seeding import derive_seed
from kalm.types import WorldSpec

KIND = "forward"
BETA = 0.5
LOG_VARIANCE = (-10.0, 2.0)  # of changes in units of their deviation
CHUNK = 8_192  # transitions judged together
USUAL = 0.99  # share of real transitions that are called usual


@dataclass(frozen=True)
class Prediction:
    """Next states of N transitions, as each of M members sees them.

    Attributes:
        mean: (M, N, S) float32 next states.
        spread: (M, N, S) float32 standard deviations, in the units of states.
    """

    mean: np.ndarray  # (M, N, S) float32
    spread: np.ndarray  # (M, N, S) float32


@dataclass(frozen=True)
class Errors:
    """How well an ensemble predicts held-out real transitions.

    Attributes:
        transitions: how many.
        error: root mean square error of the members' mean, per state number.
        nothing_moves: the same for the prediction that the state stays as it is.
        disagreement: largest distance between members on 99 % of the transitions.
        distance: largest distance between next state and prediction on 99 % of the transitions.
    """

    transitions: int
    error: float
    nothing_moves: float
    disagreement: float
    distance: float


class ForwardEnsemble(nn.Module):
    """M forward models of one world.

    Args:
        spec: the world.
        members: number M of models.
        hidden: hidden layers of each.
        seed: draws the first weights.
    """

    limits: Tensor  # (2, S) smallest and largest numbers of the real states

    def __init__(self, spec: WorldSpec, members: int, hidden: tuple[int, ...], seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.hidden: tuple[int, ...] = tuple(hidden)
        self.errors: Errors | None = None  # known once it is fitted
        self._view = EntityView(spec)
        sizes = (spec.state_size + self._view.encoded_size, *hidden, 2 * spec.state_size)
        self.network: EnsembleMLP = EnsembleMLP(members, sizes, torch.Generator().manual_seed(seed))
        # In the order of `EntityView.column_order`; the deviation is 0 where a number never changes.
        self.changes: Normalizer = Normalizer(spec.state_size)
        self.register_buffer("limits", torch.zeros(2, spec.state_size))

    def predict(self, states: np.ndarray, actions: np.ndarray) -> Prediction:
        """Predict the states after actions: (N, S), (N,) or (N, A)."""
        mean, spread = self._predict(self._view.tensor(states), self._view.tensor(actions))
        return Prediction(mean.numpy(force=True), spread.numpy(force=True))

    @torch.no_grad()
    def sample(self, states: np.ndarray, actions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw the state after each action from a member chosen by chance: (N, S), (N,) or (N, A) -> (N, S).

        No number leaves the range that it has in the real rollouts: a draw may be fed back, and beyond what
        the models have seen an error grows from step to step. The members share the rows out among
        themselves, so a draw costs what one member costs.
        """
        count, members = len(states), self.network.count
        grid = np.resize(rng.permutation(count), (-(-count // members), members)).T  # (M, N / M) rows
        grid = grid[rng.permutation(members)]
        noise = rng.standard_normal((*grid.shape, states.shape[1]), dtype=np.float32)
        before = self._view.tensor(states).float()
        columns, inputs = self._inputs(before, self._view.tensor(actions))
        rows = self._view.tensor(grid)
        change, spread = self._decode_change(columns[rows], *self._heads(inputs[rows]))
        after = np.empty(states.shape, np.float32)
        drawn = before[rows] + change + spread * self._view.tensor(noise)
        after[grid] = drawn.clamp(*self.limits).numpy(force=True)
        return after

    @torch.no_grad()
    def _predict(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        states = states.float()
        columns, inputs = self._inputs(states, actions)
        columns = columns.expand(self.network.count, -1, -1)
        change, spread = self._decode_change(columns, *self._heads(inputs))
        return states + change, spread

    def _decode_change(self, columns: Tensor, change: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
        """Turn what the heads say into changes and deviations in the order and units of states."""
        change = self.changes.denormal(change)
        spread = (log_variance / 2).exp() * self.changes.std
        back = torch.empty_like(change)
        return back.scatter(2, columns, change), back.scatter(2, columns, spread)

    def _inputs(self, states: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Columns (N, S) in the order of the input, and inputs (N, S + P)."""
        columns = self._view.column_order(states, self._view.acted_on(actions))
        return columns, torch.cat(
            [self._view.encode_state(states, columns), self._view.encode_action(actions)], dim=1
        )

    def _heads(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Scaled change and its log variance, (M, N, S) each; the variance is bounded softly."""
        change, free = self.network(inputs).chunk(2, dim=-1)
        low, high = LOG_VARIANCE
        bounded = high - functional.softplus(high - free)
        return change, low + functional.softplus(bounded - low)

    def _loss(self, inputs: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
        change, log_variance = self._heads(inputs[rows])
        error = (change - targets[rows]).square()
        weight = (BETA * log_variance.detach()).exp()
        return 0.5 * (weight * (error * (-log_variance).exp() + log_variance)).mean()

    def save(self, folder: Path) -> None:
        """Write the ensemble; `load` gives it back to the bit."""
        about = {
            "kind": KIND,
            "world": self.spec.to_json(),
            "members": self.network.count,
            "hidden": list(self.hidden),
            "errors": self.errors and asdict(self.errors),
        }
        storage.save(folder, self, about)


def load_ensemble(folder: Path, device: str = "cpu") -> ForwardEnsemble:
    """Read a saved ensemble.

    Raises:
        KalmError: no ensemble there, or a damaged one.
    """
    about = storage.facts(folder, KIND)
    spec = WorldSpec.from_json(about["world"])
    ensemble = ForwardEnsemble(spec, about["members"], tuple(about["hidden"]))
    storage.load_weights(folder, ensemble)
    ensemble.errors = about["errors"] and Errors(**about["errors"])
    return _on(ensemble, device)


def fit_ensemble(
    real: RolloutSet, config: DynamicsConfig, seed: int, device: str = "cpu", advance: Advance = silent
) -> ForwardEnsemble:
    """Fit an ensemble on the transitions of real rollouts; a share of the rollouts is held out.

    Raises:
        KalmError: too few rollouts to hold any out, or the fitting diverged.
    """
    learn, held = held_out(real, config, seed)
    first = derive_seed(seed, "dynamics", KIND, "weights")
    ensemble = _on(ForwardEnsemble(real.spec, config.members, config.hidden, first), device)
    inputs, targets = _examples(ensemble, learn)
    ensemble.network.inputs.fit(inputs)
    ensemble.changes.fit(targets, constant=0.0)
    lowest, highest = (ensemble._view.tensor(end) for end in (real.states.min(0), real.states.max(0)))
    ensemble.limits.copy_(torch.stack([lowest, highest]))
    unit = Normalizer(real.spec.state_size).to(device).fit(targets)
    targets = unit.normal(targets)
    held_inputs, held_targets = _examples(ensemble, held)
    held_targets = unit.normal(held_targets)

    def held_loss() -> Tensor:
        change, _ = ensemble._heads(held_inputs)
        return (change.mean(dim=0) - held_targets).square().mean()

    fit_ensemble_mlp(
        ensemble.network,
        partial(ensemble._loss, inputs, targets),
        held_loss,
        len(inputs),
        config.forward_steps,
        config,
        torch.Generator().manual_seed(derive_seed(seed, "dynamics", KIND, "batches")),
        advance,
    )
    ensemble.errors = measure_ensemble(ensemble, held)
    return ensemble


def measure_ensemble(ensemble: ForwardEnsemble, rollouts: RolloutSet) -> Errors:
    """Compare predictions with the transitions of these rollouts."""
    states, actions, after = transitions(rollouts)
    apart, away = surprise(ensemble, states, actions, after)
    still = np.square(after - states).mean(dtype=np.float64)
    return Errors(
        transitions=len(after),
        error=float(np.sqrt(np.square(away).mean(dtype=np.float64) / states.shape[1])),
        nothing_moves=float(np.sqrt(still)),
        disagreement=float(np.quantile(apart, USUAL)),
        distance=float(np.quantile(away, USUAL)),
    )


def surprise(
    ensemble: ForwardEnsemble, states: np.ndarray, actions: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return `disagreement` and `distance` of N transitions, (N,) each, a part at a time."""
    apart, away = np.zeros(len(states), np.float32), np.zeros(len(states), np.float32)
    for first in range(0, len(states), CHUNK):
        part = slice(first, first + CHUNK)
        prediction = ensemble.predict(states[part], actions[part])
        apart[part], away[part] = disagreement(prediction), distance(prediction, after[part])
    return apart, away


def disagreement(prediction: Prediction) -> np.ndarray:
    """Return the largest distance between the next states of two members: -> (N,) float32, in state units."""
    means = prediction.mean
    largest = np.zeros(means.shape[1], np.float32)
    for one in range(len(means) - 1):
        apart = np.linalg.norm(means[one + 1 :] - means[one], axis=2)  # (M - one - 1, N)
        largest = np.maximum(largest, apart.max(axis=0))
    return largest


def distance(prediction: Prediction, after: np.ndarray) -> np.ndarray:
    """Return how far these next states (N, S) are from the members' mean: -> (N,) float32, in state units."""
    return np.linalg.norm(prediction.mean.mean(axis=0) - after, axis=1)


def _examples(ensemble: ForwardEnsemble, rollouts: RolloutSet) -> tuple[Tensor, Tensor]:
    """Return inputs (N, S + P) and changes (N, S) in the order of the input."""
    states, actions, after = map(ensemble._view.tensor, transitions(rollouts))
    columns, inputs = ensemble._inputs(states, actions)
    return inputs, (after - states).gather(1, columns)


def _on(ensemble: ForwardEnsemble, device: str) -> ForwardEnsemble:
    ensemble._view = EntityView(ensemble.spec, device)
    return ensemble.to(device)
