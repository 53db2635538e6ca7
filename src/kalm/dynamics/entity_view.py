"""How a transition is encoded for the models of this room: as it is, or seen from one entity.

Where entities of one kind share a world's discrete actions out among themselves (every ball can be pushed in
the same eight ways), what an action does depends on the entity it acts on and on where the others stand from
there, not on which entity that is. So that entity comes first, the others follow from the nearest on, and
their numbers become differences to its own. One network then learns from the actions on all of them.

::

    state seen from entity 1     [ numbers of 1 | of the nearest - of 1 | of the next - of 1 | ... | rest ]
    discrete actions             C centres x P ways to act; the centres are the entities

In every other environment it stays as it is: one centre, the whole state, all actions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kalm.types import WorldSpec


class EntityView:
    """Transitions of an environment as inputs of networks.

    Attributes:
        spec: the world.
        actions: (C, P) int64 discrete actions by centre and way to act; continuous: (1, 0).
    """

    def __init__(self, spec: WorldSpec, device: str = "cpu") -> None:
        self.spec = spec
        self.device = device
        self.shared: bool = _shared(spec)
        entities = spec.entities if self.shared else ()
        every = range(spec.action_size if spec.action_kind == "discrete" else 0)
        self.actions: Tensor = self._table([entity.actions for entity in entities] or [tuple(every)])
        self.columns: Tensor = self._table([entity.columns for entity in entities])  # (C, K)
        taken = {column for entity in entities for column in entity.columns}
        rest = [column for column in range(spec.state_size) if column not in taken]
        self.rest: Tensor = self._table([tuple(rest)])  # (1, R)
        self.place: Tensor = self.actions.flatten().argsort()  # (A,) where each action stands in the table

    def _table(self, rows: list[tuple[int, ...]]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self.device)

    @property
    def centres(self) -> int:
        """Number C of entities that actions can act on; 1 where the state stays as it is."""
        return self.actions.shape[0]

    @property
    def ways(self) -> int:
        """Number P of ways to act on each; 0 for continuous actions."""
        return self.actions.shape[1]

    @property
    def encoded_size(self) -> int:
        """Length of an action as an input of a network."""
        return self.ways or self.spec.action_size

    def acted_on(self, actions: Tensor) -> Tensor:
        """Centre of each action: (N,) or (N, A) -> (N,)."""
        if not self.shared:
            return torch.zeros(len(actions), dtype=torch.int64, device=self.device)
        return self.place[actions] // self.ways

    def encode_action(self, actions: Tensor) -> Tensor:
        """Actions as inputs: (N,) or (N, A) -> (N, P) one-hot ways to act, or the vectors as they are."""
        if self.spec.action_kind == "continuous":
            return actions.float()
        return functional.one_hot(self.place[actions] % self.ways, self.ways).float()

    def column_order(self, states: Tensor, centre: Tensor) -> Tensor:
        """Columns of each state in the order of the input: (N, S), (N,) -> (N, S) int64."""
        n = len(states)
        if not self.shared:
            return self.rest.expand(n, -1)
        numbers = states[:, self.columns]  # (N, C, K)
        row = torch.arange(n, device=self.device)
        distance = (numbers - numbers[row, centre][:, None]).square().sum(dim=-1)  # (N, C)
        distance[row, centre] = -1
        nearest = self.columns[distance.argsort(dim=1, stable=True)]  # (N, C, K)
        return torch.cat([nearest.flatten(1), self.rest.expand(n, -1)], dim=1)

    def encode_state(self, states: Tensor, columns: Tensor) -> Tensor:
        """States as inputs, in the order of `column_order`: (N, S) -> (N, S)."""
        encoded = states.gather(1, columns)
        if self.shared:
            width = self.columns.shape[1]
            others = slice(width, self.columns.numel())
            encoded[:, others] -= encoded[:, :width].repeat(1, self.centres - 1)
        return encoded

    def tensor(self, array: np.ndarray) -> Tensor:
        """Bring an array to the device; numbers become float32, actions stay what they are."""
        return torch.as_tensor(array, device=self.device)


def _shared(spec: WorldSpec) -> bool:
    """Whether alike entities share all actions out among themselves."""
    entities = spec.entities
    actions = sorted(action for entity in entities for action in entity.actions)
    return (
        spec.action_kind == "discrete"
        and len(entities) > 1
        and actions == list(range(spec.action_size))
        and len({(entity.kind, len(entity.actions), len(entity.columns)) for entity in entities}) == 1
    )
