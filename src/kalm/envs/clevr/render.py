"""Pictures of CLEVR-Robot states: MuJoCo's renderer where a GL works, else rays cast with NumPy.

Unusual: no environment variable is set. Which GL MuJoCo uses is normally fixed by `MUJOCO_GL` before its
first import; here the user's `MUJOCO_GL` is followed if there is one, else a headless EGL context is opened
directly, on the first picture. Where that fails, the same scene is drawn from the same camera by casting
rays, which needs nothing, so that no run dies for want of a picture. The log says once which one draws.

A GL context belongs to one thread, and pictures may be asked for by several (a web app): each opens its own.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's classes live in a compiled module without type stubs.)

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Iterable
from functools import cache

import mujoco
import numpy as np

from kalm.envs.clevr import rays
from kalm.envs.clevr.simulator import QPOS_XY, TABLE_X, TABLE_Y, TABLE_Z, scene
from kalm.envs.clevr.spec import BALLS
from kalm.errors import KalmError

SIZES = (16, 1024)

log: logging.Logger = logging.getLogger(__name__)
_threads = threading.local()


def render(state: np.ndarray, size: int = 256) -> np.ndarray:
    """Draw one state, seen from the front and above: (10,) -> (size, size, 3) uint8, top row first.

    Raises:
        KalmError: wrong shape, numbers that are not finite, or a size outside 16..1024.
    """
    state = np.asarray(state, dtype=np.float64)
    if state.shape != (2 * len(BALLS),) or not np.isfinite(state).all():
        raise KalmError(f"a picture needs one state of 10 finite numbers, got {state!r}.")
    if not SIZES[0] <= size <= SIZES[1]:
        raise KalmError(f"the size of a picture lies from {SIZES[0]} to {SIZES[1]}, got {size}.")
    return _painter()(state, size)


def _painter() -> Callable[[np.ndarray, int], np.ndarray]:
    """Return what draws in this thread; looked for once per thread."""
    if not hasattr(_threads, "painter"):
        _threads.painter = _open_gl() or rays.cast_rays
    return _threads.painter


def _open_gl() -> GLPainter | None:
    platform = os.environ.get("PYOPENGL_PLATFORM")
    try:
        painter = GLPainter()
    except Exception as error:  # every driver fails in its own way: ImportError, RuntimeError, GLError, ...
        # A failed attempt leaves its platform behind, which would stop the user's own GL from loading.
        os.environ.pop("PYOPENGL_PLATFORM", None)
        if platform is not None:
            os.environ["PYOPENGL_PLATFORM"] = platform
        _say(f"no GL here ({type(error).__name__}: {error}): pictures are drawn by casting rays")
        return None
    _say("pictures are drawn by MuJoCo's renderer")
    return painter


@cache
def _say(message: str) -> None:
    log.info(message)


class GLPainter:
    """MuJoCo's offscreen renderer, for the thread that makes it.

    Raises:
        Exception: of the driver's choice, where no GL context can be opened.
    """

    def __init__(self) -> None:
        if os.environ.get("MUJOCO_GL"):
            from mujoco.gl_context import GLContext
        else:
            from mujoco.egl import GLContext
        self._context = GLContext(SIZES[1], SIZES[1])
        atexit.register(self._context.free)
        self._context.make_current()
        self._model = mujoco.MjModel.from_xml_string(scene(extra=_furniture()))
        self._model.vis.global_.offwidth = self._model.vis.global_.offheight = SIZES[1]
        head = (
            self._model.vis.headlight
        )  # gives the light that has no direction, so that shadows are not black
        head.ambient, head.diffuse, head.specular = rays.AMBIENT, 0.0, 0.0
        self._model.vis.map.shadowclip = 0.9  # metres around the light's aim: a finer shadow map
        self._data = mujoco.MjData(self._model)
        self._scene = mujoco.MjvScene(self._model, maxgeom=100)
        self._gl = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._gl)
        self._view = mujoco.MjvCamera()
        self._view.type, self._view.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED.value, 0

    def __call__(self, state: np.ndarray, size: int) -> np.ndarray:
        """Draw one state: (10,) -> (size, size, 3) uint8, top row first."""
        self._data.qpos[QPOS_XY.ravel()] = state
        mujoco.mj_forward(self._model, self._data)
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(
            self._model, self._data, mujoco.MjvOption(), None, self._view, everything, self._scene
        )
        picture, frame = np.empty((size, size, 3), dtype=np.uint8), mujoco.MjrRect(0, 0, size, size)
        mujoco.mjr_render(frame, self._scene, self._gl)
        mujoco.mjr_readPixels(picture, None, frame, self._gl)
        return np.ascontiguousarray(picture[::-1])  # GL counts rows from the bottom


def _furniture() -> str:
    """Camera, light, and what the balls are seen on; nothing of it collides."""
    light, dim = f"{_words([rays.DIFFUSE] * 3)}", _words([rays.SPECULAR] * 3)
    floor = f"0 0 {TABLE_Z - rays.FLOOR_BELOW}"
    return (
        f'<camera pos="{_words(rays.EYE)}" xyaxes="{_words(rays.camera_axes()[:2].ravel())}" '
        f'fovy="{rays.FIELD_OF_VIEW}"/>'
        f'<light directional="true" pos="{_words(2 * rays.LIGHT)}" dir="{_words(-rays.LIGHT)}" '
        f'diffuse="{light}" specular="{dim}" ambient="0 0 0"/>'
        f'<geom type="plane" pos="{floor}" size="9 9 .1" rgba="{_words(rays.LOOK["floor"])} 1"/>'
        + _slab("rim", rays.RIM, TABLE_Z - 0.002)
        + _slab("table", 0.0, TABLE_Z)
    )


def _slab(name: str, grow: float, top: float) -> str:
    """Return a board under the balls, wider than the table by `grow`."""
    (left, right), (front, behind), thick = TABLE_X, TABLE_Y, 0.02
    centre = _words([(left + right) / 2, (front + behind) / 2, top - thick])
    half = _words([(right - left) / 2 + grow, (behind - front) / 2 + grow, thick])
    return f'<geom type="box" pos="{centre}" size="{half}" rgba="{_words(rays.LOOK[name])} 1"/>'


def _words(numbers: Iterable[float]) -> str:
    return " ".join(f"{number:.9g}" for number in numbers)
