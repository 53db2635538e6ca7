"""Which action a sentence asks for in a state: a network that looks up what the sentence says of each thing.

The language model reads a sentence once; its hidden states stay. From there on the network is small: every
entity looks up in them, by attention from the model's own embedding of its name, what is said of it, then
entities hear each other as in the transition network (`kalm.dynamics.transition`), and say which of their
actions to take. Where actions belong to no entity, what all entities found is summed up.

::

    sentence  -> language model -> hidden states -+-> of each entity, and of the whole (Q, W)
    state     -> numbers of each entity ----------+-> messages -> actions

Why: what an action does for a relation has to be learnt from many transitions, and each pass of a transition
through a language model costs a thousand times more than one through this network. Fine-tuning for the
presets' times shows every transition once, after which directions are at chance; the network sees the same
ones some tens of times in a fraction of that time (docs/log.md). The body stays as it is meanwhile, so its
reading of each distinct sentence is computed once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kalm.lm.heads import action_losses, likeliest
from kalm.types import WorldSpec

HEADS = 4
LOOK_UP = 64  # width of queries, keys and values


class ActionNetwork(nn.Module):
    """Hidden states of a sentence, and a state, to the action.

    Args:
        spec: the world.
        names: (K, H) the model's own reading of each entity's name; K may be 0.
        hidden: size H of hidden states.
        bins: values that are rated per number of a continuous action; 0: it is given.
        width: size W of the hidden layers.

    Attributes:
        fitted: whether it was; before, it knows nothing and must not act.
    """

    names: Tensor
    columns: Tensor
    rest: Tensor
    others: Tensor
    order: Tensor
    fitted: Tensor

    def __init__(self, spec: WorldSpec, names: Tensor, hidden: int, bins: int = 0, width: int = 96) -> None:
        super().__init__()
        self.spec = spec
        count = len(spec.entities)
        taken = {column for entity in spec.entities for column in entity.columns}
        columns = torch.tensor([entity.columns for entity in spec.entities], dtype=torch.int64)  # (K, C)
        rest = [column for column in range(spec.state_size) if column not in taken]
        own = [action for entity in spec.entities for action in entity.actions]
        # Every entity has the same actions of its own, and there are no others.
        self.shared: bool = (
            spec.action_kind == "discrete"
            and sorted(own) == list(range(spec.action_size))
            and len({len(entity.actions) for entity in spec.entities}) == 1
        )
        self.register_buffer("names", F.layer_norm(names.float(), names.shape[1:]))
        self.register_buffer("columns", columns if count else columns[:, None], persistent=False)
        self.register_buffer("rest", torch.tensor(rest, dtype=torch.int64), persistent=False)
        self.register_buffer("others", 1 - torch.eye(count), persistent=False)
        self.register_buffer("order", torch.tensor(own, dtype=torch.int64).argsort(), persistent=False)
        self.register_buffer("fitted", torch.tensor(False))
        self.norm: nn.LayerNorm = nn.LayerNorm(hidden, elementwise_affine=False)
        self.whole: nn.Parameter = nn.Parameter(torch.randn(LOOK_UP))  # the query of no entity
        self.query: nn.Linear = nn.Linear(names.shape[1], LOOK_UP)
        self.key: nn.Linear = nn.Linear(hidden, LOOK_UP)
        self.value: nn.Linear = nn.Linear(hidden, LOOK_UP)
        self.found: nn.Linear = nn.Linear(LOOK_UP, width)
        numbers = self.columns.shape[1]
        place = numbers + len(rest)
        self.own: nn.Linear = nn.Linear(place + 2 * width, width)
        if self.shared:
            self.apart: nn.Linear = nn.Linear(numbers + 1, width)
            self.mine: nn.Linear = nn.Linear(place + width, width)
            self.theirs: nn.Linear = nn.Linear(place + width, width)
            self.hear: nn.Sequential = nn.Sequential(
                nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
            )
        size = len(own) // count if self.shared else spec.action_size * max(1, bins)
        inputs = width if self.shared else 2 * width + len(rest)
        self.bins: int = bins if spec.action_kind == "continuous" else 0
        self.act: nn.Sequential = nn.Sequential(
            nn.GELU(), nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, size)
        )

    def look_up(self, hidden: Tensor, real: Tensor) -> Tensor:
        """Look up what sentences say of each entity, and of the whole, which comes last.

        Args:
            hidden: (U, P, H) hidden states of their tokens.
            real: (U, P) bool, false where a sentence is padded.

        Returns:
            (U, K + 1, W).
        """
        hidden = self.norm(hidden.to(self.key.weight.dtype))
        asked = torch.cat([self.query(self.names), self.whole[None]])
        queries = asked.unflatten(1, (HEADS, -1))  # (Q, heads, d)
        keys, values = (part(hidden).unflatten(2, (HEADS, -1)) for part in (self.key, self.value))
        scores = torch.einsum("qhd,uphd->uhqp", queries, keys) / queries.shape[2] ** 0.5
        share = scores.masked_fill(~real[:, None, None], -torch.inf).softmax(dim=3)
        return self.found(torch.einsum("uhqp,uphd->uqhd", share, values).flatten(2))

    def forward(self, found: Tensor, states: Tensor) -> Tensor:
        """Rate or give actions: `look_up` of each row's sentence (N, K + 1, W), normal states (N, S).

        Returns:
            (N, A), or with bins (N, A, bins).
        """
        said, whole = found[:, :-1], found[:, -1]  # (N, K, W), (N, W)
        rest = states[:, self.rest]  # (N, R)
        count = said.shape[1]
        numbers = states[:, self.columns]  # (N, K, C)
        place = torch.cat([numbers, rest[:, None].expand(-1, count, -1)], dim=2)  # (N, K, C + R)
        about = torch.cat([place, said, whole[:, None].expand(-1, count, -1)], dim=2)
        if self.shared:
            node = self.own(about) + self._heard(torch.cat([place, said], dim=2), numbers)  # (N, K, W)
            return self.act(node).flatten(1)[:, self.order]
        node = F.gelu(self.own(about)).sum(1) if count else torch.zeros_like(whole)  # (N, W)
        out = self.act(torch.cat([node, whole, rest], dim=1))
        return out.unflatten(1, (self.spec.action_size, -1)) if self.bins else out

    def _heard(self, about: Tensor, numbers: Tensor) -> Tensor:
        """Sum up what each entity hears of the others: (N, K, C + R + W), (N, K, C) -> (N, K, W)."""
        # Differences come three times as large: contacts happen within a fraction of the table.
        offset = 3 * (
            numbers[:, None] - numbers[:, :, None]
        )  # (N, K, K, C) from the second axis to the third
        apart = torch.cat([offset, offset.norm(dim=3, keepdim=True)], dim=3)
        message = self.apart(apart) + self.mine(about)[:, :, None] + self.theirs(about)[:, None]
        return (self.hear(message) * self.others[..., None]).sum(2)

    def rate(self, found: Tensor, states: Tensor) -> Tensor:
        """Return what is chosen from: ratings of discrete actions, or continuous ones: -> (N, A)."""
        out = self(found, states)
        return likeliest(out) if self.bins else out

    def losses(self, found: Tensor, states: Tensor, wanted: Tensor) -> Tensor:
        """Return the loss of each action: wanted (N,) or (N, A) -> (N,)."""
        return action_losses(self(found, states), wanted)
