"""The table of algorithms by name, each in the form it has for discrete and for continuous actions.

A new algorithm is a file in `algorithms`, an entry here, and its section in `settings`. On a world with
discrete actions `bc` and `cql` are the discrete learners; all others, and `bc-continuous` and
`cql-continuous` by name, read the action as a one-hot vector there and act by the largest output, as the
paper has it.
"""

from __future__ import annotations

from dataclasses import dataclass

from kalm.errors import KalmError, unknown
from kalm.rl.algorithms.awac import AWAC
from kalm.rl.algorithms.base import Learner
from kalm.rl.algorithms.bc import BC, DiscreteBC
from kalm.rl.algorithms.combo import COMBO, DiscreteCOMBO
from kalm.rl.algorithms.cql import CQL, DiscreteCQL
from kalm.rl.algorithms.iql import IQL
from kalm.rl.algorithms.td3bc import TD3BC
from kalm.rl.settings import TrainConfig
from kalm.types import WorldSpec


@dataclass(frozen=True)
class OfflineAlgorithm:
    """One algorithm.

    Attributes:
        discrete: its learner for discrete actions, or None.
        continuous: its learner for continuous actions, or None.
        section: where its own settings are in `TrainConfig`; None: it has none.
        model_based: its batches hold transitions of a forward model (`kalm.rl.model_based`).
    """

    discrete: type[Learner] | None
    continuous: type[Learner] | None
    section: str | None = None
    model_based: bool = False

    def learner(self, action_kind: str) -> type[Learner] | None:
        """Return the learner for this `WorldSpec.action_kind`."""
        return self.discrete if action_kind == "discrete" else self.continuous


ALGORITHMS: dict[str, OfflineAlgorithm] = {
    "bc": OfflineAlgorithm(DiscreteBC, BC),
    "cql": OfflineAlgorithm(DiscreteCQL, CQL, "cql"),
    "td3bc": OfflineAlgorithm(TD3BC, TD3BC, "td3bc"),
    "awac": OfflineAlgorithm(AWAC, AWAC, "awac"),
    "iql": OfflineAlgorithm(IQL, IQL, "iql"),
    "combo": OfflineAlgorithm(DiscreteCOMBO, COMBO, "combo", model_based=True),
    "bc-continuous": OfflineAlgorithm(BC, BC),
    "cql-continuous": OfflineAlgorithm(CQL, CQL, "cql"),
}


def learner_class(name: str, spec: WorldSpec) -> type[Learner]:
    """Return an algorithm's learner for a world. Raises KalmError: unknown, or not for its actions."""
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    found = ALGORITHMS[name].learner(spec.action_kind)
    if found is None:
        fitting = [key for key, value in ALGORITHMS.items() if value.learner(spec.action_kind)]
        raise KalmError(
            f"algorithm {name!r} is not for {spec.action_kind} actions, which environment {spec.name!r} has. "
            f"For them: {', '.join(fitting)}."
        )
    return found


def create_learner(
    name: str, spec: WorldSpec, observation_size: int, config: TrainConfig, device: str
) -> Learner:
    """Return an untrained learner for inputs (B, observation_size) and the spec's actions."""
    made, section = learner_class(name, spec), ALGORITHMS[name].section
    settings = None if section is None else getattr(config, section)
    return made(observation_size, spec.action_size, config, device, settings)
