"""Which action led from one state to the next: a network fitted on real transitions, and action labels by it.

A language model imagines states well and actions poorly (paper section 5.4); this model reads the action off
the imagined change of state instead. Where entities share the actions out among themselves, each of them is
looked at in turn and gets a score for every way to act on it; the best score of all is the action.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from kalm.data.rollouts import RolloutSet
from kalm.data.scoring import score, transitions
from kalm.dynamics import storage
from kalm.dynamics.ensemble_mlp import EnsembleMLP, fit_ensemble_mlp, held_out
from kalm.dynamics.entity_view import EntityView
from kalm.dynamics.settings import DynamicsConfig
from kalm.envs.base import World
from kalm.runs.progress import Advance, silent
from kalm.runs.seeding import derive_seed
from kalm.types import WorldSpec

KIND = "inverse"
CHUNK = 8_192  # transitions labelled together


@dataclass(frozen=True)
class Hits:
    """How well actions are recovered on held-out real transitions.

    Attributes:
        transitions: how many.
        accuracy: share of right actions; None for continuous ones.
        error: root mean square error of continuous actions, per number; None for discrete ones.
    """

    transitions: int
    accuracy: float | None
    error: float | None


class InverseModel(nn.Module):
    """The inverse dynamics of one world.

    Args:
        spec: the world.
        hidden: hidden layers.
        seed: draws the first weights.
    """

    def __init__(self, spec: WorldSpec, hidden: tuple[int, ...], seed: int = 0) -> None:
        super().__init__()
        self.spec = spec
        self.hidden: tuple[int, ...] = tuple(hidden)
        self.hits: Hits | None = None  # known once it is fitted
        self._view = EntityView(spec)
        sizes = (2 * spec.state_size, *hidden, self._view.encoded_size)
        self.network: EnsembleMLP = EnsembleMLP(1, sizes, torch.Generator().manual_seed(seed))

    def outputs(self, states: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Score what led from states (N, S) to those after: logits (N, actions), or means (N, A), float32."""
        found = [np.zeros((0, self.spec.action_size), np.float32)]
        for first in range(0, len(states), CHUNK):
            part = slice(first, first + CHUNK)
            with torch.no_grad():
                inputs = self._inputs(*map(self._view.tensor, (states[part], after[part])))
                found.append(self._outputs(inputs).numpy(force=True))
        return np.concatenate(found)

    def actions(self, states: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Tell the likeliest action between states: (N, S), (N, S) -> (N,) int64 or (N, A) float32."""
        found = self.outputs(states, after)
        if self.spec.action_kind == "discrete":
            return found.argmax(axis=1)
        return np.clip(np.nan_to_num(found), -1, 1)

    def _inputs(self, states: Tensor, after: Tensor) -> Tensor:
        """State and change as seen from every centre: -> (N, C, 2 S)."""
        states, change, view = states.float(), (after - states).float(), self._view
        seen = []
        for centre in range(view.centres):
            columns = view.column_order(states, torch.full((len(states),), centre, device=states.device))
            seen.append(torch.cat([view.encode_state(states, columns), change.gather(1, columns)], dim=1))
        return torch.stack(seen, dim=1)

    def _outputs(self, inputs: Tensor) -> Tensor:
        """Logits of all actions, or means: (N, C, 2 S) -> (N, A)."""
        slots = self.network(inputs.flatten(0, 1))[0].reshape(len(inputs), -1)  # (N, C P) or (N, A)
        return slots[:, self._view.place] if self.spec.action_kind == "discrete" else slots

    def _loss(self, inputs: Tensor, actions: Tensor) -> Tensor:
        found = self._outputs(inputs)
        if self.spec.action_kind == "discrete":
            return functional.cross_entropy(found, actions)
        return functional.mse_loss(found, actions)

    def save(self, folder: Path) -> None:
        """Write the model; `load` gives it back to the bit."""
        about = {
            "kind": KIND,
            "world": self.spec.to_json(),
            "hidden": list(self.hidden),
            "hits": self.hits and asdict(self.hits),
        }
        storage.save(folder, self, about)


def load_inverse(folder: Path, device: str = "cpu") -> InverseModel:
    """Read a saved model.

    Raises:
        KalmError: no inverse model there, or a damaged one.
    """
    about = storage.facts(folder, KIND)
    model = InverseModel(WorldSpec.from_json(about["world"]), tuple(about["hidden"]))
    storage.load_weights(folder, model)
    model.hits = about["hits"] and Hits(**about["hits"])
    return _on(model, device)


def fit_inverse(
    real: RolloutSet, config: DynamicsConfig, seed: int, device: str = "cpu", advance: Advance = silent
) -> InverseModel:
    """Fit the inverse dynamics on the transitions of real rollouts; a share of the rollouts is held out.

    Raises:
        KalmError: too few rollouts to hold any out, or the fitting diverged.
    """
    learn, held = held_out(real, config, seed)
    first = derive_seed(seed, "dynamics", KIND, "weights")
    model = _on(InverseModel(real.spec, config.hidden, first), device)
    inputs, actions = _examples(model, learn)
    model.network.inputs.fit(inputs.flatten(0, 1))
    fit_ensemble_mlp(
        model.network,
        lambda rows: model._loss(inputs[rows[0]], actions[rows[0]]),
        partial(model._loss, *_examples(model, held)),
        len(inputs),
        config.inverse_steps,
        config,
        torch.Generator().manual_seed(derive_seed(seed, "dynamics", KIND, "batches")),
        advance,
    )
    model.hits = measure_inverse(model, held)
    return model


def measure_inverse(model: InverseModel, rollouts: RolloutSet) -> Hits:
    """Compare recovered actions with those of these rollouts."""
    states, actions, after = transitions(rollouts)
    found = model.actions(states, after)
    if rollouts.spec.action_kind == "discrete":
        return Hits(len(actions), float((found == actions).mean()), None)
    return Hits(len(actions), None, float(np.sqrt(np.square(found - actions).mean(dtype=np.float64))))


def relabel(rollouts: RolloutSet, model: InverseModel, world: World) -> RolloutSet:
    """Replace all actions by what the model reads off the states; rewards and success are judged anew.

    Goals that are judged by the action (one-step goals) may be reached now, or no more.
    """
    states, _, after = transitions(rollouts)
    return score(replace(rollouts, actions=model.actions(states, after)), world)


def _examples(model: InverseModel, rollouts: RolloutSet) -> tuple[Tensor, Tensor]:
    """Return inputs (N, C, 2 S) and actions (N,) or (N, A)."""
    states, actions, after = map(model._view.tensor, transitions(rollouts))
    return model._inputs(states, after), actions


def _on(model: InverseModel, device: str) -> InverseModel:
    model._view = EntityView(model.spec, device)
    return model.to(device)
