"""Scripted policies of our own, for tasks in which the package's are too slow for 100 steps, or has none.

Each sees one state's numbers and answers with a place that the hand should go to and the gripper's effort.
None remembers anything: what has been done is read off where things are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

GAIN = 25.0  # share of a full action per metre of error, as the package's own fast policies
HELD = 0.6  # the fingers' opening below which they hold a puck or a ball
# Of the package's doors, from the middle: the hinge, and from the hinge the shut door's handle.
_HINGE = np.array([-0.185, -0.1])
_SHUT = np.arctan2(-0.107, 0.376)
_OPENED = np.array([-0.3, -0.45])  # the target location of an open door's handle, from the door's middle

Answer = tuple[np.ndarray, float]  # (3,) where to, and the gripper's effort


@dataclass(frozen=True)
class View:
    """What a policy sees: places in metres.

    Attributes:
        hand: (3,).
        opening: of the gripper, 0 to 1.
        first: (3,) of the task's first entity.
        second: (3,) of its second entity; zeros if it has one only.
        target: (3,).
    """

    hand: np.ndarray
    opening: float
    first: np.ndarray
    second: np.ndarray
    target: np.ndarray


def door_open(view: View) -> Answer:
    """Reach behind the handle's bar from above, then pull it around the hinge."""
    return _pull_door(view.hand, view.first, view.target)


def door_lock(view: View) -> Answer:
    """Rise above the lever, then press its end down with closed fingers."""
    hand, lever = view.hand, view.first + (-0.02, -0.015, 0.0)
    over = hand[2] - lever[2]
    if over < 0.04:  # the fingers would run into it
        return np.array([lever[0], min(hand[1], lever[1] - 0.05), hand[2] + 0.1]), 1.0
    if _apart(hand, lever) > (0.02 if over > 0.065 else 0.04):
        return lever + (0.0, 0.0, 0.08), 1.0
    return lever + (-0.02, 0.0, -0.1), 1.0


def soccer(view: View) -> Answer:
    """Take the ball between the fingers and drag it into the goal."""
    return _grab(view, 0.03) or (np.array([*view.target[:2], 0.06]), 1.0)


def pick_place_wall(view: View) -> Answer:
    """Lift the puck, carry it over the wall, and put it down behind."""
    hand, goal, grab = view.hand, view.target, _grab(view, 0.03)
    if grab is not None:
        return grab
    if hand[2] < 0.17 and hand[1] < 0.79:  # in front of the wall and lower than it
        return np.array([hand[0], min(hand[1] + 0.1, 0.64), 0.25]), 1.0
    height = goal[2] + 0.03 if hand[1] > 0.79 else max(goal[2] + 0.03, 0.2)
    return np.array([*goal[:2], height]), 1.0


def make_coffee(view: View) -> Answer:
    """Push the mug to its place, back off and up, then press the button."""
    hand, mug, button = view.hand, view.first, view.second
    if view.target[2] < 0.15:
        return _push_mug(hand, mug, view.target)
    front = button + (0.0, -0.07, -0.07)
    if hand[1] > front[1] + 0.01 and hand[2] < front[2] - 0.03:
        return np.array([hand[0], front[1] - 0.05, hand[2] + (0.1 if hand[2] > 0.12 else 0.03)]), -1.0
    if np.abs(hand - front)[[0, 2]].max() > 0.025:
        return np.array([front[0], min(front[1], hand[1]), front[2]]), -1.0
    return button + (0.0, 0.2, -0.07), -1.0


def locked_door_open(view: View) -> Answer:
    """Turn the lever from its left, hook the near end of the handle's bar, and pull the door open by it."""
    hand, lever, handle = view.hand, view.first, view.second
    if view.target[2] > 0.18:
        return _turn_lever(hand, lever)
    hook, tangent = _swing(handle, view.target, -0.085, 0.012)
    if hand[2] < handle[2] + 0.06 and _apart(hand, hook) < 0.07:
        way = tangent / np.abs(tangent).max()
        return np.array([*(hand[:2] + 0.1 * way), handle[2] + 0.02]), 1.0
    return _pull_door(hand, handle, view.target)


def _pull_door(hand: np.ndarray, handle: np.ndarray, target: np.ndarray) -> Answer:
    inside, tangent = _swing(handle, target, -0.015, 0.02)
    down = hand[2] < handle[2] + 0.06
    if _apart(hand, inside) > (0.05 if down else 0.03):
        return np.array([*inside, handle[2] + 0.1]), 1.0
    if not down:
        return np.array([*inside, handle[2]]), 1.0
    return np.array([*(inside + 0.08 * tangent), handle[2]]), 1.0


def _swing(
    handle: np.ndarray, target: np.ndarray, along: float, behind: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return a place at the handle that turns with the door, and the way in which the door opens there."""
    turned = _turned(handle, target)
    cos, sin = np.cos(turned), np.sin(turned)
    place = handle[:2] + (along * cos - behind * sin, along * sin + behind * cos)
    return place, np.array([np.sin(turned + _SHUT), -np.cos(turned + _SHUT)])


def _turned(handle: np.ndarray, target: np.ndarray) -> float:
    """Return how far the door is open, in radians: 0 is shut, less is open."""
    arm = handle[:2] - (target[:2] - _OPENED + _HINGE)
    return float(np.arctan2(arm[1], arm[0]) - _SHUT)


def _turn_lever(hand: np.ndarray, lever: np.ndarray) -> Answer:
    beside = lever + (-0.04, -0.02, -0.03)
    if hand[1] < beside[1] - 0.02:
        x = beside[0] - 0.01
        close = hand[2] < 0.15 and abs(hand[0] - x) < 0.025
        return np.array([x, beside[1] if close else min(beside[1] - 0.05, 0.61), beside[2]]), 1.0
    return beside + (0.1, 0.0, 0.01), 1.0


def _grab(view: View, above: float) -> Answer | None:
    """Go over a loose thing, down on it, and close the fingers; None once they hold it."""
    over = view.hand[2] - view.first[2] - above
    if _apart(view.hand, view.first) > (0.015 if over > 0.03 else 0.04):
        return view.first + (0.0, 0.0, 0.12), -1.0
    if over > 0.02 or view.opening > HELD:
        return view.first + (0.0, 0.0, above), -1.0 if over > 0.06 else 1.0
    return None


def _push_mug(hand: np.ndarray, mug: np.ndarray, place: np.ndarray) -> Answer:
    grip = mug + (0.01, 0.0, 0.05)
    if _apart(hand, grip) > 0.06:
        return np.array([*grip[:2], 0.2]), -1.0
    if abs(hand[2] - grip[2]) > 0.02:
        return grip, -1.0 if abs(hand[2] - grip[2]) > 0.1 else 0.5
    return np.array([*place[:2], 0.1]), 0.5


def _apart(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.hypot(*(one[:2] - two[:2])))


OWN = {
    "door-open": door_open,
    "door-lock": door_lock,
    "pick-place-wall": pick_place_wall,
    "soccer": soccer,
    "make-coffee": make_coffee,
    "locked-door-open": locked_door_open,
}
