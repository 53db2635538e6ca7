"""The new parts of a grounded model: embeddings and heads of states and actions (paper section 4.1).

The paper has small MLPs, E_S and E_A in front of the transformer, O_S and O_A behind it. `Design` names what
goes beyond them, each a switch:

* *changes*: the state head predicts the change of the state, scaled to unit size, because most of a state
  stays as it is;
* *still gate*: a change that is exactly nothing cannot be learnt by squared error, and small wrong changes
  add up over a rollout; so a gate says which entities move at all, and the others stay where they are;
* *state network*: imagined states come from a transition network fitted on the same real data
  (`kalm.dynamics.transition`), given the action that the model chose; the state head is still learnt,
  since learning what actions do helps to choose them, but a few thousand sequences are too few for it to
  learn what a collision is;
* *entity tokens*: every state is preceded by one token per named thing, which starts from the language
  model's own embedding of the name;
* *relations*: the embeddings of states and entities are also given heading and distance from each entity to
  the others, which words such as "left of" speak about and which an MLP over positions is slow to find;
* *no memory*: where actions change little from step to step, a model that sees its last ones learns to repeat
  them, which looks right in the data and goes nowhere in imagination. Without memory it sees goal and present
  state alone;
* *state to action*: the action head is also given the numbers of the present state. What a transformer passes
  on of them is coarse, so a language model says what to do, but misses a handle by centimetres;
* *action network*: imagined actions come from a network on the sentence's hidden states and the state's
  numbers, fitted with the body frozen (`kalm.lm.action_network`), because fine-tuning sees each transition
  too seldom to learn directions;
* *action bins*: a continuous action is rated over so many values per number, and the likeliest taken. A
  squared error learns the mean of all that a sentence may mean, which is often an action that no meaning
  asks for, and slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kalm.dynamics.normalizer import Normalizer
from kalm.dynamics.transition import Change, change_loss, owners
from kalm.lm.backbone import Backbone
from kalm.types import WorldSpec


@dataclass(frozen=True)
class Design:
    """What a grounded model is made of; stored with it.

    Attributes:
        state_target: what the state head predicts.
        still_gate: a gate per entity decides whether it moves (needs `state_target` ``change``).
        state_network: imagined states come from a transition network, not from the state head.
        entity_tokens: one token per entity before each state (needs a world with entities).
        relations: embeddings are given heading and distance between entities (needs two or more).
        memory: actions are chosen from all that came before, else from goal and present state alone.
        state_to_action: the action head is given the present state besides the hidden state.
        action_network: actions come from a network that looks up in the sentence what is said of each entity.
        action_bins: values per number of a continuous action that the action head rates; 0: it gives actions.
    """

    state_target: Literal["change", "absolute"] = "change"
    still_gate: bool = True
    state_network: bool = True
    entity_tokens: bool = False
    relations: bool = False
    memory: bool = True
    state_to_action: bool = False
    action_network: bool = False
    action_bins: int = 0


class StateHead(nn.Module):
    """O_S: hidden state of the asking token, and the present state, to the next state."""

    owner: Tensor

    def __init__(self, width: int, spec: WorldSpec, design: Design) -> None:
        super().__init__()
        self.design = design
        self.size: int = spec.state_size
        owner, gates = owners(spec)
        self.register_buffer("owner", owner, persistent=False)  # (S,) gate of each state number
        self.layers: nn.Sequential = mlp(width, width, self.size + (gates if design.still_gate else 0))

    def forward(self, hidden: Tensor, present: Tensor, states: Normalizer, changes: Normalizer) -> Tensor:
        """Predict the next states: (m, D), (m, S) -> (m, S)."""
        size, moves = self._read(hidden, present)
        if self.design.state_target == "absolute":
            return states.denormal(size)
        if self.design.still_gate:
            size = Change(size, moves).gated(self.owner)
        return present + changes.denormal(size)

    def loss(
        self, hidden: Tensor, present: Tensor, wanted: Tensor, states: Normalizer, changes: Normalizer
    ) -> Tensor:
        """Mean over m states of the squared error per state number, in units of the data's spread.

        With the gate, only entities that do move teach where to, and the gate's own cross-entropy is added.
        """
        size, moves = self._read(hidden, present)
        if self.design.state_target == "absolute":
            return F.mse_loss(size, states.normal(wanted))
        target = changes.normal(wanted - present)  # (m, S)
        if self.design.still_gate:
            return change_loss(Change(size, moves), target, self.owner)
        return F.mse_loss(size, target)

    def _read(self, hidden: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the head says of each state number (m, S), and the gates (m, G or 0)."""
        out = self.layers(hidden).to(present.dtype)
        return out[:, : self.size], out[:, self.size :]


class Relations(nn.Module):
    """Heading and distance from each entity to every one; nothing in them is learnt.

    Args:
        columns: (K, C) state numbers of each entity.

    Attributes:
        size: numbers R per entity: for each entity a unit vector (C,) and a length, in units of the state.
    """

    columns: Tensor

    def __init__(self, columns: Tensor) -> None:
        super().__init__()
        self.register_buffer("columns", columns, persistent=False)
        self.size: int = len(columns) * (columns.shape[1] + 1)

    def forward(self, states: Tensor) -> Tensor:
        """Relate the entities of each state: (m, S) -> (m, K, R); to itself an entity has all zeros."""
        places = states[:, self.columns]  # (m, K, C)
        offset = places[:, None] - places[:, :, None]  # (m, K, K, C) from the second axis to the third
        length = offset.norm(dim=3, keepdim=True)
        return torch.cat([offset / length.clamp(min=1e-6), length], dim=3).flatten(2)


class EntityEmbedding(nn.Module):
    """One vector per entity of a state: what its name means to the language model, and where it is.

    Args:
        names: (K, D) the model's own embedding of each name.
        columns: (K, C) state numbers of each entity.
        more: numbers per entity that are told besides (`Relations`).
        scale: size of token embeddings.
    """

    names: Tensor
    columns: Tensor

    def __init__(self, names: Tensor, columns: Tensor, more: int, scale: float) -> None:
        super().__init__()
        width = names.shape[1]
        self.register_buffer("names", names)
        self.register_buffer("columns", columns, persistent=False)
        self.place: nn.Sequential = embedding(nn.Linear(columns.shape[1] + more, width), width, scale)

    def forward(self, numbers: Tensor, more: Tensor) -> Tensor:
        """Embed the entities of each state, its numbers in units of their spread: (m, S) -> (m, K, D)."""
        return self.place(torch.cat([numbers[:, self.columns], more], dim=2)) + self.names


def name_vectors(backbone: Backbone, spec: WorldSpec) -> Tensor:
    """Return what a backbone is given for the names of a world's entities: (K, D); K may be 0."""
    if not spec.entities:
        return torch.zeros(0, backbone.width, device=backbone.word_weight.device)
    names = [entity.name for entity in spec.entities]
    ids = backbone.tokenizer(names, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    at = backbone.word_weight.device
    with torch.no_grad():
        return torch.stack([backbone.words(torch.tensor(name, device=at)).float().mean(0) for name in ids])


def embedding(first: nn.Module, width: int, scale: float) -> nn.Sequential:
    """Make a small MLP whose output has the size of the model's own token embeddings."""
    norm = nn.LayerNorm(width)
    nn.init.constant_(norm.weight, scale)
    return nn.Sequential(first, nn.GELU(), nn.Linear(width, width), norm)


def mlp(inputs: int, width: int, size: int) -> nn.Sequential:
    """Make the small MLP of a head."""
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, size))


def action_mlp(width: int, spec: WorldSpec, design: Design) -> nn.Sequential:
    """Make O_A: hidden state of the token of a state, and where asked for that state, to the action."""
    bins = design.action_bins if spec.action_kind == "continuous" else 0
    last = mlp(width, width, spec.action_size * max(1, bins))
    if not design.state_to_action:
        return last
    # What the language model means has to meet the numbers, hence a layer more.
    return nn.Sequential(nn.Linear(width + spec.state_size, width), nn.GELU(), *last)


def two_hot(actions: Tensor, bins: int) -> Tensor:
    """Share numbers out between the two nearest of evenly spaced values in [-1, 1]: (m, A) -> (m, A, B)."""
    place = (actions.clamp(-1, 1) + 1) / 2 * (bins - 1)  # (m, A)
    return (1 - (place[..., None] - torch.arange(bins, device=actions.device)).abs()).clamp(min=0)


def action_losses(output: Tensor, wanted: Tensor) -> Tensor:
    """Return the loss of each action.

    Args:
        output: (m, A) ratings of discrete actions or continuous actions, or (m, A, bins) ratings of values.
        wanted: (m,) int64, or (m, A).

    Returns:
        (m,) cross-entropy, or squared error where continuous actions are given.
    """
    if wanted.dim() == 1:
        return F.cross_entropy(output, wanted, reduction="none")
    if output.dim() == 3:
        return F.cross_entropy(output.mT, two_hot(wanted, output.shape[2]).mT, reduction="none").mean(1)
    return ((output.to(wanted.dtype) - wanted) ** 2).mean(1)


def likeliest(ratings: Tensor) -> Tensor:
    """Return the mean of the likeliest of evenly spaced values and its neighbours: (m, A, B) -> (m, A)."""
    values = torch.linspace(-1, 1, ratings.shape[2], dtype=ratings.dtype, device=ratings.device)
    best = ratings.argmax(dim=2, keepdim=True)
    near = (torch.arange(len(values), device=ratings.device) - best).abs() <= 1
    # Not a matrix product: autocast would round that to bfloat16.
    return (ratings.masked_fill(~near, -torch.inf).softmax(dim=2) * values).sum(dim=2)
