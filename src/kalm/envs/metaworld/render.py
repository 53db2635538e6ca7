"""Pictures of Meta-World states: a drawing of gripper, target and entities, made with NumPy alone.

Unusual: no simulator draws. A state names places and not the arm's joints, imagined states may be impossible,
and all entities of all tasks can show up in one (distractors); a drawing shows what the numbers say, needs
neither the package nor a GL, and is the same everywhere. The camera is where Meta-World's `corner2` is.

Things are drawn as the dots of their surfaces, nearest last; each throws a shadow straight down on the table,
which is how one sees its height.
"""

from __future__ import annotations

import numpy as np

from kalm.envs.metaworld.spec import ENTITIES, ENTITY, GRIPPER, SPEC, TARGET
from kalm.errors import KalmError

SIZES = (16, 1024)
EYE, LOOK_AT, FIELD_OF_VIEW = np.array([1.3, -0.2, 1.1]), np.array([0.0, 0.62, 0.1]), 42.0
GROUND, TABLE, SHADOW = (0.80, 0.82, 0.85), (0.62, 0.48, 0.34), 0.6
TABLE_X, TABLE_Y = (-0.7, 0.7), (0.2, 1.0)
LIGHT = np.array([0.4, -0.5, 0.77])
FINGERS = 0.05  # metres from the middle to a finger of the open gripper
HAND_LENGTH, HAND, TARGET_COLOR = 0.16, (0.25, 0.27, 0.32), (0.95, 0.15, 0.55)
# Entity -> color, half sizes of its box in metres.
LOOKS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "target_object": ((0.85, 0.20, 0.15), (0.025, 0.025, 0.02)),
    "button": ((0.90, 0.55, 0.10), (0.04, 0.03, 0.04)),
    "lock": ((0.55, 0.55, 0.60), (0.05, 0.015, 0.015)),
    "handle": ((0.35, 0.38, 0.45), (0.08, 0.02, 0.02)),
    "window": ((0.35, 0.65, 0.80), (0.02, 0.03, 0.06)),
    "faucet": ((0.20, 0.45, 0.75), (0.05, 0.02, 0.02)),
    "wall": ((0.65, 0.30, 0.25), (0.12, 0.01, 0.06)),
    "coffee": ((0.95, 0.93, 0.88), (0.03, 0.03, 0.035)),
    "coffee-button": ((0.45, 0.25, 0.15), (0.03, 0.03, 0.03)),
    "hammer": ((0.30, 0.60, 0.30), (0.09, 0.02, 0.02)),
    "nail": ((0.40, 0.40, 0.40), (0.02, 0.03, 0.02)),
    "soccer": ((0.97, 0.97, 0.97), (0.03, 0.03, 0.03)),
}
_ROUND = {"soccer", "coffee", "target_object"}
_DOTS = 14  # along each edge of a surface


def render(state: np.ndarray, size: int = 256) -> np.ndarray:
    """Draw one state, seen from the front and above: (91,) -> (size, size, 3) uint8, top row first.

    Raises:
        KalmError: wrong shape, numbers that are not finite, or a size outside 16..1024.
    """
    state = np.asarray(state, dtype=np.float64)
    if state.shape != (SPEC.state_size,) or not np.isfinite(state).all():
        raise KalmError(f"a picture needs one state of 91 finite numbers, got {state!r}.")
    if not SIZES[0] <= size <= SIZES[1]:
        raise KalmError(f"the size of a picture lies from {SIZES[0]} to {SIZES[1]}, got {size}.")
    dots, colors = (np.concatenate(parts) for parts in zip(*_things(state), strict=True))
    picture = _background(size)
    below = np.where(np.arange(3) == 2, 0.0, dots)
    _paint(picture, below, picture, SHADOW)
    _paint(picture, dots, colors, 1.0)
    return (255 * np.clip(picture, 0, 1)).astype(np.uint8)


def _things(state: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return dots and their colors of everything that a state holds: each (M, 3), (M, 3)."""
    things = [_thing(state[TARGET], (0.015,) * 3, TARGET_COLOR, True)]
    for name in ENTITIES:
        numbers = state[ENTITY[name]]
        if numbers.any():
            color, half = LOOKS[name]
            things.append(_thing(numbers[:3], half, color, name in _ROUND))
    hand, opening = state[GRIPPER][:3], state[GRIPPER][3]
    for side in (-1, 1):
        finger = hand + (0.0, side * FINGERS * np.clip(opening, 0.0, 1.0), -0.02)
        things.append(_thing(finger, (0.012, 0.008, 0.035), HAND, False))
    things.append(_thing(hand + (0.0, 0.0, 0.03), (0.025, 0.06, 0.015), HAND, False))
    things.append(_thing(hand + (0.0, 0.0, HAND_LENGTH), (0.02, 0.02, HAND_LENGTH - 0.04), HAND, False))
    return things


def _thing(
    place: np.ndarray, half: tuple[float, ...], color: tuple[float, float, float], is_round: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the dots of a box's or an ellipsoid's surface, and their colors: each (M, 3), (M, 3)."""
    ticks = np.linspace(-1, 1, _DOTS)
    u, v = (grid.ravel() for grid in np.meshgrid(ticks, ticks))
    faces, normals = [], []
    for axis in range(3):
        for side in (-1.0, 1.0):
            faces.append(np.insert(np.stack([u, v], axis=1), axis, side, axis=1))
            normals.append(np.tile(side * np.eye(3)[axis], (len(u), 1)))
    cube, outward = np.concatenate(faces), np.concatenate(normals)
    if is_round:
        cube = outward = cube / np.linalg.norm(cube, axis=1, keepdims=True)
    shade = 0.55 + 0.45 * np.clip(outward @ LIGHT, 0, 1)
    return place + cube * half, shade[:, None] * np.array(color)


def _axes() -> np.ndarray:
    """Return the camera's directions right, down and ahead as rows: (3, 3)."""
    ahead = (LOOK_AT - EYE) / np.linalg.norm(LOOK_AT - EYE)
    right = np.cross(ahead, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(ahead, right), ahead])


def _background(size: int) -> np.ndarray:
    """Return the table as the camera sees it: (size, size, 3)."""
    side = (np.arange(size) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(side, side)
    rays = np.stack([x, y, np.full_like(x, 1 / np.tan(np.radians(FIELD_OF_VIEW / 2)))], axis=2) @ _axes()
    reach = np.where(rays[..., 2] < 0, -EYE[2] / np.minimum(rays[..., 2], -1e-9), np.inf)
    with np.errstate(invalid="ignore"):
        spots = EYE[:2] + reach[..., None] * rays[..., :2]
    low, high = np.array([TABLE_X, TABLE_Y]).T
    on = ((spots > low) & (spots < high)).all(axis=2, keepdims=True)
    return np.where(on, TABLE, GROUND).astype(np.float64)


def _paint(picture: np.ndarray, dots: np.ndarray, colors: np.ndarray, keep: float) -> None:
    """Put dots into a picture, far ones first; where `colors` is the picture itself, darken it instead."""
    size = len(picture)
    seen = (dots - EYE) @ _axes().T  # (M, 3) right, down, ahead
    order = np.argsort(-seen[:, 2], kind="stable")
    order = order[seen[order, 2] > 0.05]
    spots = seen[order, :2] / seen[order, 2:] / np.tan(np.radians(FIELD_OF_VIEW / 2))
    column, row = np.floor((spots.T + 1) / 2 * size).astype(int)
    wide = size // 256 + 1  # pixels around a dot, so that surfaces have no holes
    for down in range(-wide + 1, wide):
        for right in range(-wide + 1, wide):
            r, c = row + down, column + right
            inside = (r >= 0) & (r < size) & (c >= 0) & (c < size)
            if colors is picture:
                flat = np.unique(r[inside] * size + c[inside])
                picture.reshape(-1, 3)[flat] = np.minimum(
                    picture.reshape(-1, 3)[flat], keep * np.array(TABLE)
                )
            else:
                picture[r[inside], c[inside]] = colors[order][inside]
