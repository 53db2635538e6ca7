"""Meta-World's tasks and its one state vector: names, levels, and which numbers belong to what.

All tasks share a vector of 91 numbers; what a task does not have is all zeros::

    gripper 0:4 (x y z, opening 0..1) | target_location 4:7 (x y z) | then seven each (x y z, quaternion):
    target_object 7 | button 14 | lock 21 | handle 28 | window 35 | faucet 42 | wall 49 | coffee 56 |
    coffee-button 63 | hammer 70 | nail 77 | soccer 84:91
"""

from __future__ import annotations

from dataclasses import dataclass

from kalm.types import Entity, WorldSpec

GRIPPER = slice(0, 4)
TARGET = slice(4, 7)
ENTITIES = (
    *("target_object", "button", "lock", "handle", "window", "faucet"),
    *("wall", "coffee", "coffee-button", "hammer", "nail", "soccer"),
)
ENTITY = {name: slice(7 + 7 * i, 14 + 7 * i) for i, name in enumerate(ENTITIES)}
_NUMBERS = ("x", "y", "z", "q0", "q1", "q2", "q3")
# What people call an entity.
TITLES = {
    **{name: name for name in ENTITIES},
    "target_object": "target object",
    "handle": "door handle",
    "coffee": "coffee mug",
    "coffee-button": "coffee button",
    "soccer": "soccer ball",
}


@dataclass(frozen=True)
class MetaWorldTask:
    """One task.

    Attributes:
        name: also the kind of its goal.
        levels: where its instructions are.
        entities: what it has besides gripper and target location, first and second.
    """

    name: str
    levels: tuple[str, ...]
    entities: tuple[str, ...]


def _seen(name: str, *entities: str) -> MetaWorldTask:
    return MetaWorldTask(name, ("seen", "rephrase"), entities)


def _new(level: str, name: str, *entities: str) -> MetaWorldTask:
    return MetaWorldTask(name, (level,), entities)


TASKS = {
    task.name: task
    for task in (
        _seen("reach", "target_object"),
        _seen("push", "target_object"),
        _seen("pick-place", "target_object"),
        _seen("button-press", "button"),
        _seen("door-unlock", "lock"),
        _seen("door-open", "handle"),
        _seen("window-open", "window"),
        _seen("faucet-open", "faucet"),
        _seen("coffee-push", "coffee"),
        _seen("coffee-button", "coffee-button"),
        _new("easy", "reach-wall", "target_object", "wall"),
        _new("easy", "push-wall", "target_object", "wall"),
        _new("easy", "pick-place-wall", "target_object", "wall"),
        _new("easy", "button-press-wall", "button", "wall"),
        _new("easy", "door-lock", "lock"),
        _new("easy", "door-close", "handle"),
        _new("easy", "window-close", "window"),
        _new("easy", "faucet-close", "faucet"),
        _new("hard", "make-coffee", "coffee", "coffee-button"),
        _new("hard", "locked-door-open", "lock", "handle"),
        _new("hard", "hammer", "hammer", "nail"),
        _new("hard", "soccer", "soccer"),
    )
}

SPEC = WorldSpec(
    name="metaworld",
    state_names=(
        *("gripper_x", "gripper_y", "gripper_z", "gripper_opening"),
        *("target_x", "target_y", "target_z"),
        *(f"{entity}_{number}" for entity in ENTITIES for number in _NUMBERS),
    ),
    action_kind="continuous",
    action_size=4,
    horizon=100,
    entities=tuple(
        Entity(TITLES[name], tuple(range(place.start, place.stop)), "thing") for name, place in ENTITY.items()
    ),
)
