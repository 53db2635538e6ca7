"""What an action does to a state: a network that knows which numbers belong to one thing.

In a world with entities the network is an interaction network: every entity hears every other one through
the same small MLP, sums what it heard, and a second MLP says where it goes. Things of one kind share all
weights, so a collision learnt with one pair of balls is known for all pairs: on CLEVR-Robot that makes
contacts come out right where an MLP over the flat state lets balls sink into each other (docs/log.md). Worlds
without entities get the MLP.

A network that is good at single steps may still drift: it has never seen where its own errors lead to. So it
can be fitted on windows of a rollout that it walks through by itself, each step asked to lead back to where
the rollout is (docs/log.md).

Unusual: a gate per entity says whether it moves at all. A squared error never learns an exact nothing, and
small wrong movements add up over a rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kalm.data.rollouts import RolloutSet
from kalm.dynamics.normalizer import Normalizer
from kalm.runs.progress import Advance, silent
from kalm.training.loop import StepLosses, fit
from kalm.training.optimizer import gradient_step, schedule
from kalm.types import WorldSpec

# An entity that moves by less than this share of its usual (root mean square) change stands still.
STILL = 0.01
FAR = 3.0  # usual changes
BATCH = 512
RATE = 3e-3
CLIP = 1.0  # largest norm of a gradient
FROM_START = 4  # every so many walks begin where a rollout does, as imagination does


class Change(NamedTuple):
    """A predicted change of N states."""

    size: Tensor  # (N, S) in units of the usual change, if the entity moves
    moves: Tensor  # (N, G) logit that each gate's entity moves

    def gated(self, owner: Tensor) -> Tensor:
        """Return the change of what moves, 0 for what stands still; `owner` (S,) tells gates: -> (N, S)."""
        return self.size * (self.moves > 0)[:, owner]


class TransitionNetwork(nn.Module):
    """(state, action) to the change of the state.

    Args:
        spec: the world. Entities are used when every state number belongs to one.
        width: size of the hidden layers.

    Attributes:
        owner: (S,) the gate of each state number: its entity, or one of its own.
        gates: number G of gates.
        states: units of states.
        changes: units of their changes.
    """

    gates: int

    owner: Tensor

    def __init__(self, spec: WorldSpec, width: int = 64) -> None:
        super().__init__()
        self.spec = spec
        owner, self.gates = owners(spec)
        self.register_buffer("owner", owner, persistent=False)
        self.states: Normalizer = Normalizer(spec.state_size)
        self.changes: Normalizer = Normalizer(spec.state_size)
        covered = sorted(column for entity in spec.entities for column in entity.columns)
        whole = covered == list(range(spec.state_size))
        self.layers: _Interaction | _Flat = (
            _Interaction(spec, width) if whole else _Flat(spec, 4 * width, self.gates)
        )

    def fit_scales(self, rollouts: RolloutSet) -> None:
        """Take the scales of states and of their changes from real data; entities of one kind share them."""
        self.states.fit_states(rollouts)
        self.changes.fit_changes(rollouts)

    def forward(self, states: Tensor, actions: Tensor) -> Change:
        """Predict what an action does: (N, S), (N,) or (N, A) -> change."""
        return self.layers(self.states.normal(states), actions)

    def next_states(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the likeliest next states: (N, S), (N,) or (N, A) -> (N, S)."""
        return self.apply_change(states, self(states, actions))

    def apply_change(self, states: Tensor, change: Change) -> Tensor:
        """Move what moves: (N, S) -> (N, S)."""
        return states + self.changes.denormal(change.gated(self.owner))

    def loss(self, true: Sequence[Tensor], actions: Sequence[Tensor]) -> Tensor:
        """Return the mean loss over the steps of n walks that begin at true states and then go their own way.

        Args:
            true: H + 1 tensors, the true states (n, S); n falls where walks end, the last ones first.
            actions: H tensors, the actions (n,) or (n, A) between them.
        """
        total, now = torch.zeros_like(true[0][0, 0]), true[0]
        for before, action, after in zip(true[:-1], actions, true[1:], strict=True):
            n = len(action)
            now, moved = now[:n], self.changes.normal(after - before[:n])
            change = self(now, action)
            # One that is off has more to mend than usual, and a few far off must not decide.
            mended = None if len(actions) == 1 else self.changes.normal(after - now)
            total = total + n * change_loss(change, moved, self.owner, mended)
            # A gate that is open or shut passes no gradient on.
            now = now + self.changes.denormal(change.size * change.moves.sigmoid()[:, self.owner])
        return total / sum(map(len, actions))


def change_loss(change: Change, target: Tensor, owner: Tensor, mended: Tensor | None = None) -> Tensor:
    """Squared error per state number, counted where an entity does move, plus the gates' cross-entropy.

    Args:
        change: what is predicted for N states.
        target: (N, S) the true change, in units of the usual one.
        owner: (S,) the gate of each state number.
        mended: (N, S) the change that leads from where a walk is to where it should be, instead of the
            target; beyond `FAR` its error grows linearly.
    """
    square = torch.zeros_like(change.moves).index_add(1, owner, (target**2).to(change.moves))  # (N, G)
    moves = square > STILL**2 * torch.bincount(owner, minlength=square.shape[1])
    if mended is None:
        error = (change.size - target) ** 2
    else:
        error = 2 * F.huber_loss(change.size, mended, reduction="none", delta=FAR)
    return (error * moves[:, owner]).mean() + F.binary_cross_entropy_with_logits(
        change.moves, moves.to(change.moves)
    )


def fit_transition_network(
    network: TransitionNetwork,
    rollouts: RolloutSet,
    steps: int,
    seed: int,
    advance: Advance = silent,
    horizon: int = 1,
) -> None:
    """Fit a network in place on the transitions of real rollouts, with Adam and a cosine schedule.

    Args:
        network: on any device.
        rollouts: real rollouts.
        steps: batches of 512 transitions.
        seed: of the order of transitions.
        advance: told of finished steps.
        horizon: steps that the network walks by itself; batches are then as many walks fewer.
    """
    network.fit_scales(rollouts)
    device = network.owner.device
    states = torch.from_numpy(rollouts.states).to(device)
    actions = torch.from_numpy(rollouts.actions).to(device)
    # Rows stay on the CPU, where they are drawn; finding out which walks go on would make a GPU wait.
    before = torch.from_numpy(rollouts.before)
    starts = rollouts.action_starts[rollouts.owner]  # of each action's rollout
    to_go = rollouts.lengths[rollouts.owner] - (np.arange(rollouts.transitions) - starts)
    first, left = torch.from_numpy(starts), torch.from_numpy(to_go)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    order = torch.Generator().manual_seed(seed)

    def update(_: int) -> StepLosses:
        rows = torch.randint(len(before), (max(1, BATCH // horizon),), generator=order)
        if horizon > 1:
            rows[::FROM_START] = first[rows[::FROM_START]]
            rows = rows[left[rows].argsort(descending=True)]
        going = [rows[left[rows] > step] + step for step in range(min(horizon, int(left[rows].max())))]
        true = [states[before[rows]], *(states[before[row] + 1] for row in going)]
        loss = network.loss(true, [actions[row] for row in going])
        gradient_step(optimizer, loss, CLIP)
        return {"loss": loss}

    network.train().requires_grad_(True)
    fit(update, steps, schedulers=[schedule(optimizer, "cosine", steps)], advance=advance)
    network.eval().requires_grad_(False)


class _Interaction(nn.Module):
    """Entities that push each other: the same weights for every pair and every entity."""

    action_size: int

    columns: Tensor
    kinds: Tensor
    pushes: Tensor
    others: Tensor

    def __init__(self, spec: WorldSpec, width: int) -> None:
        super().__init__()
        count, size = len(spec.entities), len(spec.entities[0].columns)
        kinds = sorted({entity.kind for entity in spec.entities})
        kind = [kinds.index(entity.kind) for entity in spec.entities]
        pushes, self.action_size = _pushes(spec)
        self.register_buffer("columns", torch.tensor([e.columns for e in spec.entities]), persistent=False)
        self.register_buffer("kinds", F.one_hot(torch.tensor(kind)).float(), persistent=False)  # (K, kinds)
        self.register_buffer("pushes", pushes, persistent=False)
        self.register_buffer("others", 1 - torch.eye(count), persistent=False)
        about = len(kinds) + self.action_size  # what is known of an entity beside its place
        self.hear: nn.Sequential = nn.Sequential(
            nn.Linear(2 * size + 2 * about, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        self.go: nn.Sequential = nn.Sequential(
            nn.Linear(size + about + width, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, size + 1),
        )

    def forward(self, states: Tensor, actions: Tensor) -> Change:
        place = states[:, self.columns]  # (N, K, C)
        n, count, _ = place.shape
        about = torch.cat([self.kinds.expand(n, -1, -1).to(place), self._acted(actions, place)], dim=2)
        # Differences come three times as large: contacts happen within a fraction of the table.
        mine, apart = place[:, :, None].expand(-1, -1, count, -1), 3 * (place[:, None] - place[:, :, None])
        both = (about[:, :, None].expand(-1, -1, count, -1), about[:, None].expand(-1, count, -1, -1))
        heard = self.hear(torch.cat([mine, apart, *both], dim=3)) * self.others[..., None]  # (N, K, K, W)
        out = self.go(torch.cat([place, about, heard.sum(2)], dim=2))  # (N, K, C + 1)
        size = torch.zeros_like(states).index_copy(1, self.columns.flatten(), out[..., :-1].flatten(1))
        return Change(size, out[..., -1])

    def _acted(self, actions: Tensor, like: Tensor) -> Tensor:
        """Return what the action is to each entity: (N,) or (N, A) -> (N, K, action size)."""
        if actions.is_floating_point():
            return actions[:, None].expand(-1, len(self.columns), -1).to(like)
        return self.pushes[actions].to(like)


class _Flat(nn.Module):
    """An MLP over the whole state."""

    def __init__(self, spec: WorldSpec, width: int, gates: int) -> None:
        super().__init__()
        self.size: int = spec.state_size
        self.actions: int = spec.action_size if spec.action_kind == "discrete" else 0
        self.layers: nn.Sequential = nn.Sequential(
            nn.Linear(spec.state_size + spec.action_size, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, spec.state_size + gates),
        )

    def forward(self, states: Tensor, actions: Tensor) -> Change:
        action = F.one_hot(actions, self.actions) if self.actions else actions
        out = self.layers(torch.cat([states, action.to(states)], dim=1))
        return Change(out[:, : self.size], out[:, self.size :])


def owners(spec: WorldSpec) -> tuple[Tensor, int]:
    """Return the gate of each state number, its entity's or one of its own, (S,), and how many there are."""
    owner = torch.full((spec.state_size,), -1)
    for number, entity in enumerate(spec.entities):
        owner[list(entity.columns)] = number
    alone = (owner < 0).nonzero()[:, 0]
    owner[alone] = torch.arange(len(spec.entities), len(spec.entities) + len(alone))
    return owner, int(owner.max()) + 1


def _pushes(spec: WorldSpec) -> tuple[Tensor, int]:
    """Return what each discrete action is to each entity, (actions, K, P) one-hot, and P.

    Where entities name actions of their own, P counts those: the i-th action of one entity is the i-th of
    another. All other actions are the same news to every entity. For continuous actions P is the length of
    the action vector.
    """
    if spec.action_kind == "continuous":
        return torch.zeros(0), spec.action_size
    own = max(len(entity.actions) for entity in spec.entities)
    named = {action for entity in spec.entities for action in entity.actions}
    common = [action for action in range(spec.action_size) if action not in named]
    table = torch.zeros(spec.action_size, len(spec.entities), own + len(common))
    for number, entity in enumerate(spec.entities):
        table[list(entity.actions), number, list(range(len(entity.actions)))] = 1
    for place, action in enumerate(common):
        table[action, :, own + place] = 1
    return table, own + len(common)
