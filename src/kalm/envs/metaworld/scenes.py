"""Meta-World's scenes: a MuJoCo model per task, how an episode begins in it, where its numbers are read.

The package's own environments are used for two things only: they know their model, and they know how to begin
an episode. Steps are taken here, because their `step` spends most of its time on rewards that the judge
computes anyway; a step is theirs to the last bit (tests compare them).

Unusual are the resets. The package lets the arm settle for 250 physics steps at every reset, twice, with
the scene's parts where an earlier draw put them. Here the parts stand where the model file has them while it
settles; then the arm ends in the same state every time, which is computed once and restored: the state before
the last physics step, and that step taken again, so that every derived number is the settled one. The first
state is read after `mj_forward` (the package reads some handles where they were before they were placed).

Building an environment costs seconds, so a process keeps one scene per task and thread.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's classes live in a compiled module without type stubs.)

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from kalm.envs.metaworld.spec import TASKS

if TYPE_CHECKING:
    from metaworld.sawyer_xyz_env import SawyerXYZEnv

ALL = int(mujoco.mjtState.mjSTATE_INTEGRATION)  # everything that the next step depends on
WIDE_OPEN = 0.1  # metres between the fingers that count as opening 1
HAND_LOW, HAND_HIGH = np.array([-0.525, 0.348, -0.0525]), np.array([0.525, 1.025, 0.7])
SETTLING = 50  # actions in which the arm settles


@dataclass(frozen=True)
class StateReader:
    """Where the seven numbers of an entity are found: a place, and a turn in the package's own order.

    Attributes:
        place: what kind of thing and its name: its position.
        turn: ``"quat"`` (w first) or ``"mat"`` (made a quaternion with w last) of a thing; None: `fixed`.
        offset: added to the position.
        fixed: the four numbers, where the package reports constants.
    """

    place: tuple[str, str]
    turn: tuple[str, str, str] | None = None
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    fixed: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)


_BLOCK = StateReader(("body", "obj"), ("mat", "geom", "objGeom"))
_BLOCK_GEOM = StateReader(("geom", "objGeom"), ("mat", "geom", "objGeom"))
_BUTTON = StateReader(("body", "button"), ("quat", "body", "button"), (0.0, -0.193, 0.0))
_HANDLE = StateReader(("geom", "handle"), ("mat", "geom", "handle"))
_LEVER = StateReader(("site", "lockStartUnlock"), ("quat", "body", "door_link"))
_MUG = StateReader(("body", "obj"), ("mat", "geom", "mug"))
_COFFEE_BUTTON = StateReader(("site", "buttonStart"), fixed=(1.0, 0.0, 0.0, 0.0))
_WALL = StateReader(("body", "wall"), ("quat", "body", "wall"))
# Per task one reading for each of its entities. Walls are not in the package's observation.
READINGS: dict[str, tuple[StateReader, ...]] = {
    "reach": (_BLOCK,),
    "push": (_BLOCK,),
    "pick-place": (_BLOCK,),
    "button-press": (_BUTTON,),
    "door-unlock": (_LEVER,),
    "door-open": (_HANDLE,),
    "window-open": (StateReader(("site", "handleOpenStart")),),
    "faucet-open": (
        StateReader(("site", "handleStartOpen"), ("quat", "body", "faucetBase"), (0.0, 0.0, -0.01)),
    ),
    "coffee-push": (_MUG,),
    "coffee-button": (_COFFEE_BUTTON,),
    "reach-wall": (_BLOCK, _WALL),
    "push-wall": (_BLOCK_GEOM, _WALL),
    "pick-place-wall": (_BLOCK_GEOM, _WALL),
    "button-press-wall": (_BUTTON, _WALL),
    "door-lock": (StateReader(("site", "lockStartLock"), ("quat", "body", "door_link")),),
    "door-close": (_HANDLE,),
    "window-close": (StateReader(("site", "handleCloseStart")),),
    "faucet-close": (
        StateReader(("site", "handleStartClose"), ("quat", "body", "faucetBase"), (0.0, 0.0, -0.01)),
    ),
    "hammer": (
        StateReader(("body", "hammer"), ("quat", "body", "hammer")),
        StateReader(("body", "nail_link"), ("quat", "body", "nail_link")),
    ),
    "soccer": (StateReader(("body", "soccer_ball"), ("mat", "body", "soccer_ball")),),
    "make-coffee": (_MUG, _COFFEE_BUTTON),
    "locked-door-open": (_LEVER, _HANDLE),
}


@dataclass
class Lane:
    """One episode under way.

    Attributes:
        task: its name.
        full: (K,) everything that the next physics step depends on.
        places: (B, 3) where the draw put the model's bodies.
        target: (3,) the target location.
        bolt: which number of `full` holds the door shut, where one does until the second stage.
    """

    task: str
    full: np.ndarray
    places: np.ndarray
    target: np.ndarray
    bolt: int | None = None

    def go_on(self, target: np.ndarray) -> None:
        """Enter the second stage, whose target location (3,) this is."""
        self.target = target
        if self.bolt is not None:
            self.full[self.bolt] = 0.0


def build(task: str) -> SawyerXYZEnv:
    """Return the package's environment of a task, ready to be reset with a seed of its own."""
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    from kalm.envs.metaworld.composed import COMPOSED

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = COMPOSED[task]() if task in COMPOSED else ALL_V3_ENVIRONMENTS[f"{task}-v3"]()
    env._partially_observable, env._set_task_called = False, True
    env._freeze_rand_vec, env.seeded_rand_vec = False, True
    return env


@dataclass
class Physics:
    """A model, data of its own, and how an action moves the hand."""

    task: str
    model: mujoco.MjModel
    low: np.ndarray  # (3,) where the hand may go
    high: np.ndarray  # (3,)
    scale: float  # metres per unit of action
    substeps: int
    lock: AbstractContextManager[object]  # held while the model is in use

    def __post_init__(self) -> None:
        self.data: mujoco.MjData = mujoco.MjData(self.model)
        self._size = mujoco.mj_stateSize(self.model, ALL)
        self._hand, self._left, self._right = (
            self.model.body(name).id for name in ("hand", "leftclaw", "rightclaw")
        )
        self._readings = [self._find(reading) for reading in READINGS[self.task]]

    def start(self, lane: Lane) -> np.ndarray:
        """Return what is to be read in a lane before its first step: -> (4 + 12 E,)."""
        with self.lock:
            self._enter(lane)
            mujoco.mj_forward(self.model, self.data)
            return self._read()

    def step(self, lanes: Sequence[Lane], actions: np.ndarray) -> np.ndarray:
        """Take one action in each lane: (n, 4) float32 -> what is read after it, (n, 4 + 12 E)."""
        raw = np.empty((len(lanes), 4 + 12 * len(self._readings)))
        with self.lock:
            for i, (lane, action) in enumerate(zip(lanes, actions, strict=True)):
                self._enter(lane)
                self._act(action)
                # The next step starts from where this read the state: the solver is then warm from here.
                mujoco.mj_forward(self.model, self.data)
                mujoco.mj_getState(self.model, self.data, lane.full, ALL)
                raw[i] = self._read()
        return raw

    def _enter(self, lane: Lane) -> None:
        self.model.body_pos[:] = lane.places
        mujoco.mj_setState(self.model, self.data, lane.full, ALL)

    def _act(self, action: np.ndarray) -> None:
        data = self.data
        data.mocap_pos[0] = np.clip(data.mocap_pos[0] + action[:3] * self.scale, self.low, self.high)
        data.mocap_quat[0] = (1.0, 0.0, 1.0, 0.0)
        data.ctrl[:] = action[3], -action[3]
        mujoco.mj_step(self.model, data, self.substeps)

    def _read(self) -> np.ndarray:
        """Read hand, fingers, and per entity a place and the nine numbers of a turn: -> (4 + 12 E,)."""
        raw, places = np.zeros(4 + 12 * len(self._readings)), self.data.xpos
        gap = places[self._right] - places[self._left]
        raw[:3], raw[3] = places[self._hand], np.sqrt(gap.dot(gap))
        for i, (place, turn) in enumerate(self._readings):
            raw[4 + 12 * i : 7 + 12 * i] = place
            raw[7 + 12 * i : 7 + 12 * i + len(turn)] = turn
        return raw

    def _find(self, reading: StateReader) -> tuple[np.ndarray, np.ndarray]:
        """Return views of the place and the turn, which stay true as the data change."""
        place = getattr(self.data, reading.place[0])(reading.place[1]).xpos
        if reading.turn is None:
            return place, np.asarray(reading.fixed)
        form, kind, name = reading.turn
        return place, getattr(getattr(self.data, kind)(name), f"x{form}")


def numbers(task: str, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn what was read into the package's numbers: (n, 4 + 12 E) -> gripper (n, 4), entities (n, E, 7)."""
    gripper = np.empty((len(raw), 4))
    gripper[:, :3] = np.clip(raw[:, :3], HAND_LOW, HAND_HIGH)
    gripper[:, 3] = np.clip(raw[:, 3] / WIDE_OPEN, 0.0, 1.0)
    parts = raw[:, 4:].reshape(len(raw), -1, 12)
    entities = np.empty((*parts.shape[:2], 7))
    for i, reading in enumerate(READINGS[task]):
        entities[:, i, :3] = parts[:, i, :3] + reading.offset
        if reading.turn is not None and reading.turn[0] == "mat":
            turns = parts[:, i, 3:].reshape(-1, 3, 3)
            entities[:, i, 3:] = Rotation.from_matrix(turns).as_quat()
        else:
            entities[:, i, 3:] = parts[:, i, 3:7]
    return gripper, entities


class Scene:
    """A task's environment, kept for resets (`scene`).

    Args:
        task: its name.
    """

    def __init__(self, task: str) -> None:
        self.task = task
        self.env: SawyerXYZEnv = build(task)
        self._settle, self.env._reset_hand = self.env._reset_hand, self._settled
        model = self.env.model
        self._file = model.body_pos.copy(), model.site_pos.copy()  # as the model file has them
        self._before: np.ndarray | None = None
        self._lock = threading.RLock()

    def begin(self, seed: int) -> Lane:
        """Begin an episode: everything that it depends on is drawn from the seed."""
        from gymnasium.utils.seeding import np_random

        with self._lock:
            env = self.env
            env.np_random, _ = np_random(seed)
            env.reset()
            lane = Lane(
                self.task,
                np.empty(mujoco.mj_stateSize(env.model, ALL)),
                env.model.body_pos.copy(),
                np.array(env._target_pos, dtype=float),
                getattr(env, "bolt", None),
            )
            mujoco.mj_getState(env.model, env.data, lane.full, ALL)
            return lane

    def physics(self, worker: int) -> Physics:
        """Return physics for a worker; the first shares the model, every other has its own."""
        env, low, high = self.env, np.array(self.env.mocap_low), np.array(self.env.mocap_high)
        with self._lock:
            model, lock = (copy(env.model), threading.RLock()) if worker else (env.model, self._lock)
        return Physics(self.task, model, low, high, env.action_scale, env.frame_skip, lock)

    def _settled(self) -> None:
        """Put the arm where it comes to rest at its starting place; stands in for `_reset_hand`."""
        env = self.env
        env.model.body_pos[:], env.model.site_pos[:] = self._file
        if self._before is None:
            self._before = self._just_before()
        mujoco.mj_setState(env.model, env.data, self._before, ALL)
        mujoco.mj_step(env.model, env.data)
        mujoco.mj_rnePostConstraint(env.model, env.data)
        env.init_tcp = env.tcp_center

    def _just_before(self) -> np.ndarray:
        """Let the arm settle as `_reset_hand` does, up to its last physics step: -> (K,)."""
        env = self.env
        mujoco.mj_resetData(env.model, env.data)
        full = np.empty(mujoco.mj_stateSize(env.model, ALL))
        for left in range(SETTLING * env.frame_skip, 0, -1):
            env.data.mocap_pos[0], env.data.mocap_quat[0] = env.hand_init_pos, (1, 0, 1, 0)
            env.data.ctrl[:] = -1, 1
            if left == 1:
                mujoco.mj_getState(env.model, env.data, full, ALL)
            mujoco.mj_step(env.model, env.data)
        return full


@lru_cache(maxsize=len(TASKS))
def scene(task: str) -> Scene:
    """Return the scene of a task for resets; one per process."""
    return Scene(task)


@cache
def physics(task: str, worker: int) -> Physics:
    """Return the physics of a task for one worker; kept, since a model takes 20 MB and seconds to build."""
    return scene(task).physics(worker)
