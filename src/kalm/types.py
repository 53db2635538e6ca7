"""The records that every room shares: goals, instructions, world facts and single rollouts. NumPy only.

A goal is kept free of any world: a kind and named slots. What kinds and slots exist is the world's business
(its `parse_goal`), so a plug-in world needs no change here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np

JsonObject = dict[str, Any]
"""A JSON object, as `json.loads` gives it."""

Level = Literal["seen", "rephrase", "easy", "hard"]
LEVELS: tuple[Level, ...] = ("seen", "rephrase", "easy", "hard")
NOVEL_LEVELS: tuple[Level, ...] = ("rephrase", "easy", "hard")

Source = Literal["real", "imagined"]
SOURCES: tuple[Source, ...] = ("real", "imagined")

# Settings are chosen on the sentences and initial states of `tune`; what is reported is of `test`.
Split = Literal["tune", "test"]
SPLITS: tuple[Split, ...] = ("tune", "test")
SplitChoice = Literal["tune", "test", "all"]

# Under which episodes are played: as the world is, as policies are measured, or in more ways than those.
Conditions = Literal["plain", "tested", "varied"]


@dataclass(frozen=True)
class Goal:
    """A structured target, hashable. JSON form: ``{"kind": kind, **slots}``, nested goals included.

    Attributes:
        kind: the family of the predicate, e.g. ``"relation"``.
        slots: (name, value) pairs in goal-file order; a value is a string, a goal or a tuple of those.
    """

    kind: str
    slots: tuple[tuple[str, object], ...] = ()

    def __getitem__(self, name: str) -> Any:
        return dict(self.slots)[name]

    @property
    def label(self) -> str:
        """The kind, for tables; goals made of goals are told apart by how many, e.g. ``"all of 2"``."""
        parts = [value for _, value in self.slots if isinstance(value, tuple)]
        goals = [value for value in parts if any(isinstance(part, Goal) for part in value)]
        return f"{self.kind} of {len(goals[0])}" if goals else self.kind

    @classmethod
    def of(cls, kind: str, **slots: object) -> Goal:
        """Build a goal from keyword slots; lists become tuples."""
        return cls(kind, tuple((name, _freeze(value)) for name, value in slots.items()))

    @classmethod
    def from_json(cls, data: JsonObject) -> Goal:
        """Inverse of `to_json`; does not check that a world knows the kind (`World.parse_goal` does)."""
        return cls.of(data["kind"], **{name: value for name, value in data.items() if name != "kind"})

    def to_json(self) -> JsonObject:
        """Return the goal as JSON-ready dictionaries, lists and strings."""
        return {"kind": self.kind, **{name: _thaw(value) for name, value in self.slots}}


def _freeze(value: object) -> object:
    if isinstance(value, Mapping):
        return Goal.from_json(dict(value))
    return tuple(_freeze(item) for item in value) if isinstance(value, list | tuple) else value


def _thaw(value: object) -> object:
    if isinstance(value, Goal):
        return value.to_json()
    return [_thaw(item) for item in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Instruction:
    """A goal and the sentence that asks for it.

    Attributes:
        text: the sentence.
        level: how new it is with respect to the offline data.
        goal: what it asks for.
        wording: name of the sentence pattern, e.g. ``"rephrase/17"``; empty for sentences of goal files.
        held_back: the wording is kept out of imagination, to measure policies on it.
        state: an initial state that goes with it, or None to draw one.
        split: one of `SPLITS`; empty where sentences are not divided, as in goal files: such are in both.
        family: name of the words that tell directions, where a world has several kinds, e.g. ``"hand"`` for
            "on the left-hand side of"; measures are broken down by it.
    """

    text: str
    level: str
    goal: Goal
    wording: str = ""
    held_back: bool = False
    state: tuple[float, ...] | None = None
    split: str = ""
    family: str = ""

    def to_json(self) -> JsonObject:
        """Return the line of a goal file."""
        line: JsonObject = {"text": self.text, "level": self.level, "goal": self.goal.to_json()}
        if self.wording:
            line["wording"] = self.wording
        if self.held_back:
            line["held_back"] = True
        if self.state is not None:
            line["state"] = list(self.state)
        if self.split:
            line["split"] = self.split
        if self.family:
            line["family"] = self.family
        return line

    @classmethod
    def from_json(cls, line: JsonObject) -> Instruction:
        """Inverse of `to_json`, without checks: `goals.suites.read_goals` is the checked way in."""
        state = line.get("state")
        return cls(
            text=line["text"],
            level=line["level"],
            goal=Goal.from_json(line["goal"]),
            wording=line.get("wording", ""),
            held_back=bool(line.get("held_back", False)),
            state=None if state is None else tuple(float(x) for x in state),
            split=line.get("split", ""),
            family=line.get("family", ""),
        )


@dataclass(frozen=True)
class Entity:
    """A thing of the world that has a name and numbers of its own in the state.

    Attributes:
        name: what people call it, e.g. ``"red ball"``.
        columns: its state numbers; every entity of a world has equally many, in the same order.
        kind: entities of one kind obey the same physics, e.g. ``"ball"``.
        actions: discrete actions that act on this entity; the i-th does to it what the i-th of another
            entity does to that one.
    """

    name: str
    columns: tuple[int, ...]
    kind: str = ""
    actions: tuple[int, ...] = ()


@dataclass(frozen=True)
class WorldSpec:
    """What the rooms downstream need to know of a world.

    Attributes:
        name: registry name.
        state_names: one name per state number; units are metres unless the world says otherwise.
        action_kind: ``"discrete"`` (one integer) or ``"continuous"`` (vector in [-1, 1]).
        action_size: number of actions, or length of the action vector.
        horizon: largest number of actions in an episode.
        entities: the named things that states are made of; none: states are one vector of numbers.
    """

    name: str
    state_names: tuple[str, ...]
    action_kind: Literal["discrete", "continuous"]
    action_size: int
    horizon: int
    entities: tuple[Entity, ...] = ()

    @property
    def state_size(self) -> int:
        """Length S of a state vector."""
        return len(self.state_names)

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one action: () where actions are discrete, else (A,)."""
        return () if self.action_kind == "discrete" else (self.action_size,)

    @property
    def action_dtype(self) -> type[np.int64] | type[np.float32]:
        """Type of the numbers of actions."""
        import numpy as np

        return np.int64 if self.action_kind == "discrete" else np.float32

    def to_json(self) -> JsonObject:
        """Return the spec as JSON-ready values."""
        return {
            "name": self.name,
            "state_names": list(self.state_names),
            "action_kind": self.action_kind,
            "action_size": self.action_size,
            "horizon": self.horizon,
            "entities": [
                {**asdict(entity), "columns": list(entity.columns), "actions": list(entity.actions)}
                for entity in self.entities
            ],
        }

    @classmethod
    def from_json(cls, data: JsonObject) -> WorldSpec:
        """Inverse of `to_json`."""
        entities = tuple(
            Entity(item["name"], tuple(item["columns"]), item["kind"], tuple(item["actions"]))
            for item in data["entities"]
        )
        return cls(**{**data, "state_names": tuple(data["state_names"]), "entities": entities})


@dataclass(frozen=True)
class Rollout:
    """One rollout, as a view into a `RolloutSet`.

    ::

        states   s0   s1   s2   ...  sT        T+1 rows
        actions     a0   a1   ...  a(T-1)      T rows
        rewards     r0   r1   ...  r(T-1)      r_t belongs to (s_t, a_t, s_t+1)
    """

    instruction: Instruction
    states: np.ndarray  # (T+1, S) float32
    actions: np.ndarray  # (T,) int64 or (T, A) float32
    rewards: np.ndarray  # (T,) float32
    success: bool
    source: Source
    weight: float = 1.0  # how much it counts in training
