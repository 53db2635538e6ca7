"""The new parts of a grounded model: embeddings and heads of states and actions (paper section 4.1).

The paper has small MLPs, E_S and E_A in front of the transformer, O_S and O_A behind it. `Design` names what
goes beyond them, each a switch:

* *changes*: the state head predicts the change of the state, scaled to unit size, because most of a state
  stays as it is;
* *still gate*: a change that is exactly nothing cannot be learnt by squared error, and small wrong changes
  add up over a rollout; so a gate says which entities move at all, and the others stay where they are;
* *state prior*: the state head starts from a transition network fitted on the same real data
  (`kalm.dynamics.network`), and the language model learns what is to be corrected, such as what earlier
  steps tell. A few thousand sequences are too few for a head of its own to learn what a collision is;
* *entity actions*: actions are scored entity by entity with shared weights, from the hidden state, the
  entity's name in the language model's own embedding, and where it stands to the others; what "left" means
  is then learnt once, not once per ball;
* *entity tokens*: every state is preceded by one token per named thing, which starts from the language
  model's own embedding of the name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kalm.data.rollouts import RolloutSet
from kalm.dynamics.network import Change, TransitionNetwork, change_loss, owners, share
from kalm.types import WorldSpec


@dataclass(frozen=True)
class Design:
    """What a grounded model is made of; stored with it.

    Attributes:
        state_target: what the state head predicts.
        still_gate: a gate per entity decides whether it moves (needs `state_target` ``change``).
        state_prior: the state head starts from a transition network (needs `still_gate`).
        entity_tokens: one token per entity before each state (needs a world with entities).
        entity_actions: actions are scored entity by entity, in worlds whose entities name all actions.
    """

    state_target: Literal["change", "absolute"] = "change"
    still_gate: bool = True
    state_prior: bool = True
    entity_tokens: bool = False
    entity_actions: bool = True


class Scales(nn.Module):
    """Means and spreads of states and of their changes, taken from real data; saved, never trained.

    Entities of one kind share them.
    """

    mean: Tensor
    std: Tensor
    change: Tensor

    def __init__(self, spec: WorldSpec) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer("mean", torch.zeros(spec.state_size))  # (S,)
        self.register_buffer("std", torch.ones(spec.state_size))  # (S,)
        # Root mean square, not deviation: no change must stay 0.
        self.register_buffer("change", torch.ones(spec.state_size))  # (S,)

    def fit(self, rollouts: RolloutSet) -> None:
        """Take the scales from real rollouts."""
        changes = rollouts.states[rollouts.before + 1] - rollouts.states[rollouts.before]
        self.mean.copy_(share(self.spec, rollouts.states.mean(0)))
        self.std.copy_(share(self.spec, rollouts.states.std(0)) + 1e-6)
        self.change.copy_(share(self.spec, np.sqrt((changes**2).mean(0))) + 1e-6)

    def normal(self, states: Tensor) -> Tensor:
        """States in units of their spread: (m, S) -> (m, S)."""
        return (states - self.mean) / self.std


class StateHead(nn.Module):
    """O_S: hidden state of the asking token, present state and action, to the next state."""

    owner: Tensor

    def __init__(self, width: int, spec: WorldSpec, design: Design) -> None:
        super().__init__()
        self.design, self.size = design, spec.state_size
        owner, gates = owners(spec)
        self.register_buffer("owner", owner, persistent=False)  # (S,) gate of each state number
        self.layers = mlp(width, width, self.size + (gates if design.still_gate else 0))
        if design.state_prior:
            self.prior = TransitionNetwork(spec)
            # At first there is nothing to correct.
            for parameter in self.layers[-1].parameters():
                nn.init.zeros_(parameter)

    def forward(self, hidden: Tensor, present: Tensor, actions: Tensor, scales: Scales) -> Tensor:
        """Predict the next states: (m, D), (m, S), (m,) or (m, A) -> (m, S)."""
        size, moves = self._read(hidden, present, actions)
        if self.design.state_target == "absolute":
            return size * scales.std + scales.mean
        if self.design.still_gate:
            size = size * (moves > 0)[:, self.owner]
        return present + size * scales.change

    def loss(
        self, hidden: Tensor, present: Tensor, actions: Tensor, wanted: Tensor, scales: Scales
    ) -> Tensor:
        """Mean over m states of the squared error per state number, in units of the data's spread.

        With the gate, only entities that do move teach where to, and the gate's own cross-entropy is added.
        """
        size, moves = self._read(hidden, present, actions)
        if self.design.state_target == "absolute":
            return F.mse_loss(size, scales.normal(wanted))
        target = (wanted - present) / scales.change  # (m, S)
        if self.design.still_gate:
            return change_loss(Change(size, moves), target, self.owner)
        return F.mse_loss(size, target)

    def _read(self, hidden: Tensor, present: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the head says of each state number (m, S), and the gates (m, G or 0)."""
        out = self.layers(hidden).to(present.dtype)
        size, moves = out[:, : self.size], out[:, self.size :]
        if self.design.state_prior:
            prior = self.prior(present, actions)
            return size + prior.size, moves + prior.moves
        return size, moves


class ActionHead(nn.Module):
    """O_A: hidden state of the asking token to the action."""

    def __init__(self, width: int, spec: WorldSpec) -> None:
        super().__init__()
        self.layers = mlp(width, width, spec.action_size)

    def forward(self, hidden: Tensor, present: Tensor) -> Tensor:
        """Score or give the action: (m, D), unused (m, S) -> (m, actions) logits or (m, A)."""
        return self.layers(hidden)


class EntityActionHead(nn.Module):
    """O_A for worlds whose discrete actions each act on one entity: every entity scores its own.

    Args:
        names: (K, D) the language model's own embedding of each entity's name.
        spec: the world.
        size: of the hidden layers.
    """

    names: Tensor
    columns: Tensor
    actions: Tensor
    others: Tensor

    def __init__(self, names: Tensor, spec: WorldSpec, size: int = 64) -> None:
        super().__init__()
        count, width = names.shape
        self.size = spec.action_size
        self.register_buffer("names", names)
        self.register_buffer("columns", torch.tensor([e.columns for e in spec.entities]), persistent=False)
        self.register_buffer("actions", torch.tensor([e.actions for e in spec.entities]), persistent=False)
        self.register_buffer("others", 1 - torch.eye(count), persistent=False)
        self.ask = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size))
        self.name = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, size))
        about = size + self.columns.shape[1]  # how an entity matters to what is asked, and where it is
        self.hear = nn.Sequential(
            nn.Linear(2 * about + self.columns.shape[1] + size, size),
            nn.GELU(),
            nn.Linear(size, size),
            nn.GELU(),
        )
        self.score = mlp(about + 2 * size, 2 * size, self.actions.shape[1])

    def forward(self, hidden: Tensor, present: Tensor) -> Tensor:
        """Score the actions: (m, D), (m, S) in units of its spread -> (m, actions) logits."""
        asked = self.ask(hidden)[:, None].to(present.dtype)  # (m, 1, E)
        place = present[:, self.columns]  # (m, K, C)
        about = torch.cat([asked * self.name(self.names).to(present.dtype), place], dim=2)  # (m, K, E + C)
        count = len(self.columns)
        pairs = torch.cat(
            [
                about[:, :, None].expand(-1, -1, count, -1),
                about[:, None].expand(-1, count, -1, -1),
                place[:, None] - place[:, :, None],
                asked[:, :, None].expand(-1, count, count, -1),
            ],
            dim=3,
        )
        heard = (self.hear(pairs) * self.others[..., None]).sum(2)  # (m, K, E)
        scores = self.score(torch.cat([about, heard, asked.expand(-1, count, -1)], dim=2))  # (m, K, P)
        out = scores.new_zeros(len(hidden), self.size)
        return out.index_copy(1, self.actions.flatten(), scores.flatten(1))


class EntityEmbedding(nn.Module):
    """One vector per entity of a state: what its name means to the language model, and where it is.

    Args:
        names: (K, D) the model's own embedding of each name.
        columns: (K, C) state numbers of each entity.
        scale: size of token embeddings.
    """

    names: Tensor
    columns: Tensor

    def __init__(self, names: Tensor, columns: Tensor, scale: float) -> None:
        super().__init__()
        width = names.shape[1]
        self.register_buffer("names", names)
        self.register_buffer("columns", columns, persistent=False)
        self.place = embedding(nn.Linear(columns.shape[1], width), width, scale)

    def forward(self, states: Tensor) -> Tensor:
        """Embed the entities of each state in units of its spread: (m, S) -> (m, K, D)."""
        return self.place(states[:, self.columns]) + self.names


def name_vectors(backbone: Any, spec: WorldSpec) -> Tensor:
    """Return a backbone's own embedding of the names of a world's entities: (K, D)."""
    words = backbone.model.get_input_embeddings().weight.detach()
    ids = backbone.tokenizer([entity.name for entity in spec.entities], add_special_tokens=False)["input_ids"]
    return torch.stack([words[name].float().mean(0) for name in ids])


def acted_on(spec: WorldSpec) -> bool:
    """Whether every action of a world belongs to exactly one entity, and all have equally many."""
    named = sorted(action for entity in spec.entities for action in entity.actions)
    return (
        spec.action_kind == "discrete"
        and named == list(range(spec.action_size))
        and len({len(entity.actions) for entity in spec.entities}) == 1
    )


def embedding(first: nn.Module, width: int, scale: float) -> nn.Sequential:
    """Make a small MLP whose output has the size of the model's own token embeddings."""
    norm = nn.LayerNorm(width)
    nn.init.constant_(norm.weight, scale)
    return nn.Sequential(first, nn.GELU(), nn.Linear(width, width), norm)


def mlp(inputs: int, width: int, size: int) -> nn.Sequential:
    """Make the small MLP of a head."""
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, size))
