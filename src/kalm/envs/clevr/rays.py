"""The look of CLEVR-Robot (camera, light, colours), and drawing it by casting rays with NumPy, without GL.

Every sample of the picture is one ray: what it meets first (ball, table, rim, floor), lit by one far light,
and dark where a ball stands between it and the light. Four samples make a pixel. A picture of 256 x 256 takes
a fifth of a second.
"""

from __future__ import annotations

import numpy as np

from kalm.envs.clevr.simulator import BALL_RADIUS, BALL_Z, COLORS, TABLE_X, TABLE_Y, TABLE_Z
from kalm.envs.clevr.spec import BALLS

EYE = np.array([0.0, -1.02, 1.08])
LOOK_AT = np.array([0.0, 0.15, -0.32])
FIELD_OF_VIEW = 44.0  # degrees, vertical
LIGHT = np.array([-0.35, -0.30, 1.0]) / np.linalg.norm(
    [-0.35, -0.30, 1.0]
)  # towards the light, which is far away
AMBIENT, DIFFUSE, SPECULAR, SHININESS = 0.45, 0.60, 0.35, 40.0
RIM = 0.035  # the table top lies on a board this much wider, metres
FLOOR_BELOW = 0.25  # metres from the table top down to the floor
LOOK = {"table": (0.86, 0.82, 0.75), "rim": (0.42, 0.33, 0.26), "floor": (0.90, 0.92, 0.95)}

_SAMPLES = 2  # per pixel and axis
_BALL_COLORS = np.array([[float(part) for part in COLORS[ball].split()[:3]] for ball in BALLS])  # (5, 3)


def camera_axes() -> np.ndarray:
    """Return the camera's axes right, up and backward as rows: (3, 3)."""
    backward = (EYE - LOOK_AT) / np.linalg.norm(EYE - LOOK_AT)
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right)
    return np.array([right, np.cross(backward, right), backward])


def cast_rays(state: np.ndarray, size: int) -> np.ndarray:
    """Draw one state: (10,) -> (size, size, 3) uint8, top row first."""
    centers = np.column_stack([state.reshape(-1, 2), np.full(len(BALLS), BALL_Z)])  # (5, 3)
    rays = _rays(size * _SAMPLES)  # (R, 3)
    colors, depth = _ground(rays, centers)  # (R, 3), (R,)
    far = _meet(EYE[None], rays, centers)  # (5, R)
    ball, near = far.argmin(axis=0), far.min(axis=0)
    hit = near < depth
    colors[hit] = _ball_light(rays[hit], near[hit], centers, ball[hit])
    pixels = colors.reshape(size, _SAMPLES, size, _SAMPLES, 3).mean(axis=(1, 3))
    return (255.0 * np.clip(pixels, 0.0, 1.0) + 0.5).astype(np.uint8)


def _rays(side: int) -> np.ndarray:
    """Return unit directions from the eye, row by row from the top: -> (side * side, 3)."""
    half = np.tan(np.radians(FIELD_OF_VIEW / 2))
    grid = half * ((2 * np.arange(side) + 1) / side - 1)
    right, up = np.meshgrid(grid, -grid)  # (side, side) each
    rays = np.stack([right, up, -np.ones_like(right)], axis=-1).reshape(-1, 3) @ camera_axes()
    return rays / np.sqrt(_dot(rays, rays))[:, None]


def _meet(starts: np.ndarray, rays: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Return how far each ray goes to each ball, infinite if past it: (R or 1, 3) twice -> (5, R)."""
    along = _dot(starts, rays) - centers @ rays.T  # (5, R)
    apart = _dot(starts, starts) - 2 * centers @ starts.T + _dot(centers, centers)[:, None]
    under = along**2 - apart + BALL_RADIUS**2
    enter = -along - np.sqrt(np.maximum(under, 0.0))
    return np.where((under > 0) & (enter > 1e-6), enter, np.inf)


def _dot(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    return np.einsum("...i,...i->...", one, two)


def _ground(rays: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return colour and distance of what lies under the balls: (R, 3) -> (R, 3), (R,)."""
    top = (TABLE_Z - EYE[2]) / rays[:, 2]
    where = EYE + top[:, None] * rays
    table, rim = _inside(where, 0.0), _inside(where, RIM)
    depth = np.where(rim, top, (TABLE_Z - FLOOR_BELOW - EYE[2]) / rays[:, 2])
    where = EYE + depth[:, None] * rays
    paint = np.select([table[:, None], rim[:, None]], [LOOK["table"], LOOK["rim"]], LOOK["floor"])
    blocked = np.isfinite(_meet(where, LIGHT[None], centers)).any(axis=0)
    # The board shades the floor too: a floor point whose way to the light crosses it is dark.
    crossing = where + (TABLE_Z - where[:, 2:]) / LIGHT[2] * LIGHT
    blocked |= ~rim & _inside(crossing, RIM)
    light = AMBIENT + DIFFUSE * LIGHT[2] * ~blocked
    return paint * light[:, None], depth


def _inside(points: np.ndarray, grow: float) -> np.ndarray:
    """Tell whether points lie over the table, made wider by `grow`: (R, 3) -> (R,) bool."""
    low, high = np.array([TABLE_X, TABLE_Y]).T
    over = (points[:, :2] >= low - grow) & (points[:, :2] <= high + grow)
    return over[:, 0] & over[:, 1]


def _ball_light(rays: np.ndarray, far: np.ndarray, centers: np.ndarray, ball: np.ndarray) -> np.ndarray:
    """Return the colour of the points where rays meet balls: (H, 3), (H,), (5, 3), (H,) -> (H, 3)."""
    where = EYE + far[:, None] * rays
    normal = (where - centers[ball]) / BALL_RADIUS
    facing = normal @ LIGHT
    blocked = np.isfinite(_meet(where + 1e-4 * normal, LIGHT[None], centers)).any(axis=0)
    lit = np.where(blocked, 0.0, np.maximum(facing, 0.0))  # (H,)
    mirrored = 2 * facing[:, None] * normal - LIGHT
    gleam = np.maximum(-_dot(mirrored, rays), 0.0) ** SHININESS * (lit > 0)
    return _BALL_COLORS[ball] * (AMBIENT + DIFFUSE * lit)[:, None] + SPECULAR * gleam[:, None]
