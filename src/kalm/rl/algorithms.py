"""The table of learners by name, each in the form it has for discrete and for continuous actions.

A new algorithm is one entry. Sizes come from the world's spec: d3rlpy would otherwise take the largest action
in the data for the last one. On a world with discrete actions `bc` and `cql` are the discrete learners; all
others, and `bc-continuous` and `cql-continuous` by name, read the action as a one-hot vector there and act by
the largest output, as the paper has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kalm.errors import KalmError, unknown
from kalm.rl import actor_critic, combo, conservative, discrete
from kalm.rl.learner import AlgorithmForm, rebuild
from kalm.rl.mlp import Layers, linears
from kalm.rl.settings import TrainConfig
from kalm.types import WorldSpec


@dataclass(frozen=True)
class Algorithm:
    """One learner.

    Attributes:
        discrete: its form for discrete actions, or None.
        continuous: its form for continuous actions, or None.
        prepare: makes the batches where they are more than a `MixedBuffer`'s: called with the new learner,
            the buffer and a `combo.Material`; returns what has `sample`, `state` and `restore`.
    """

    discrete: AlgorithmForm | None
    continuous: AlgorithmForm | None
    prepare: Callable[..., Any] | None = None

    def form(self, action_kind: str) -> AlgorithmForm | None:
        """Return the form for this `WorldSpec.action_kind`."""
        return self.discrete if action_kind == "discrete" else self.continuous


def _both(form: AlgorithmForm) -> Algorithm:
    return Algorithm(form, form)


def _imitator(modules: Any) -> list[Layers]:
    return [actor_critic.mean_layers(modules.imitator)]


def _actor(modules: Any) -> list[Layers]:
    return [actor_critic.mean_layers(modules.policy)]


def _critics(modules: Any) -> list[Layers]:
    return [linears(net) for net in modules.q_funcs]


_DISCRETE_BC = AlgorithmForm(discrete.bc, discrete.BC, lambda modules: [linears(modules.imitator)])
_DISCRETE_CQL = AlgorithmForm(discrete.cql, discrete.CQL, _critics)
_BC = AlgorithmForm(actor_critic.bc, actor_critic.BC, _imitator, vectors=True, squash=True)
_CQL = AlgorithmForm(conservative.cql, conservative.CQL, _actor, vectors=True, squash=True)
_TD3BC = AlgorithmForm(actor_critic.td3bc, actor_critic.TD3BC, _actor, vectors=True, squash=True, scaled=True)
_AWAC = AlgorithmForm(actor_critic.awac, actor_critic.AWAC, _actor, vectors=True, squash=True, scaled=True)
_IQL = AlgorithmForm(actor_critic.iql, actor_critic.IQL, _actor, vectors=True, squash=True, scaled=True)
_DISCRETE_COMBO = AlgorithmForm(combo.discrete_settings, combo.DiscreteCombo, _critics, scaled=True)
_COMBO = AlgorithmForm(combo.continuous_settings, combo.ContinuousCombo, _actor, vectors=True, squash=True)

ALGORITHMS: dict[str, Algorithm] = {
    "bc": Algorithm(_DISCRETE_BC, _BC),
    "cql": Algorithm(_DISCRETE_CQL, _CQL),
    "td3bc": _both(_TD3BC),
    "awac": _both(_AWAC),
    "iql": _both(_IQL),
    "combo": Algorithm(_DISCRETE_COMBO, _COMBO, combo.prepare),
    "bc-continuous": _both(_BC),
    "cql-continuous": _both(_CQL),
}


def require(name: str, spec: WorldSpec) -> AlgorithmForm:
    """Return an algorithm's form for a world. Raises KalmError: unknown, or not for this world's actions."""
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    form = ALGORITHMS[name].form(spec.action_kind)
    if form is None:
        fitting = [key for key, value in ALGORITHMS.items() if value.form(spec.action_kind)]
        raise KalmError(
            f"algorithm {name!r} is not for {spec.action_kind} actions, which world {spec.name!r} has. "
            f"For them: {', '.join(fitting)}."
        )
    return form


def create(name: str, spec: WorldSpec, observation_size: int, config: TrainConfig, device: str) -> Any:
    """Return d3rlpy's learner, its networks built for (observation_size,) inputs and the spec's actions."""
    form = require(name, spec)
    learner = form.configure(config).create(device=device)
    learner.create_impl((observation_size,), spec.action_size)
    if form.update is not None:
        learner._impl = rebuild(learner.impl, form.update)
    return learner


def acting_networks(name: str, spec: WorldSpec, learner: Any) -> list[Layers]:
    """Return the linear layers, first to last, of each network that acts."""
    return require(name, spec).acting(learner.impl.modules)
