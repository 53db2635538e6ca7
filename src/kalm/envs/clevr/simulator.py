"""The CLEVR-Robot scene and its simulator: N tables of five balls that step together on C++ threads.

The scene is written as MJCF by code. Two things about it are unusual. First, collisions are listed pair by
pair instead of left to a broad phase: a handful of balls in one small box are always near each other, so
looking for neighbours costs a fifth of the step and rules nothing out; the contacts are the same. Second,
`physics="paper"` corrects one compiled number: MuJoCo 3 leaves the armature out of the pusher's inverse
weight, MuJoCo 2 (with which the paper's data were recorded) did not. Uncorrected (`"mujoco3"`) the
pusher gives way where a ball resists it.

One action is 40 physics steps with the pusher's motors held. Ball velocities live on from action to action,
the pusher's velocity and the solver's warm start do not.

::

    full state   time | qpos 37 = 5 x (x y z qw qx qy qz), pusher x y | qvel 32 = 5 x (v w), pusher vx vy
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's classes live in a compiled module without type stubs.)

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from kalm.envs.base import which_rows
from kalm.envs.clevr.spec import ACTIONS, BALLS, PUSHES
from kalm.errors import KalmError, unknown
from kalm.types import Goal

if TYPE_CHECKING:
    import mujoco

Physics = Literal["paper", "mujoco3"]
PHYSICS: tuple[Physics, ...] = get_args(Physics)

BALL_RADIUS = 0.13
TABLE_X = (-0.6, 0.6)
TABLE_Y = (-0.3, 0.7)
TABLE_Z = -0.325
BALL_Z = TABLE_Z + BALL_RADIUS
START_BEHIND = 0.15  # the pusher starts this many direction vectors behind the ball's centre
SUBSTEPS = 40

RESET_X = (-0.5, 0.5)
RESET_Y = (-0.3, 0.5)
RESET_DISTANCE = 0.36
RESET_OFFSET = 0.01  # smallest |dx| and |dy| between two balls
RESET_TRIES = 10

COLORS = {
    "red": "1 .1 .1 1",
    "blue": ".2 .5 1 1",
    "green": ".2 1 0 1",
    "purple": ".8 .2 1 1",
    "cyan": ".2 1 1 1",
}
# 1.57 and not pi / 2, as in the original scene: the planes lean by 0.0008 rad.
_PLANES = {
    "table": f'pos="0 0.5 {TABLE_Z}" euler="0 0 0"',
    "wall_left": f'pos="{TABLE_X[0]} 0 0" euler="0 1.57 0"',
    "wall_right": f'pos="{TABLE_X[1]} 0 0" euler="0 -1.57 0"',
    "wall_behind": f'pos="0 {TABLE_Y[1]} 0" euler="1.57 0 0"',
    "wall_front": f'pos="0 {TABLE_Y[0]} 0" euler="-1.57 0 0"',
}
QPOS_XY = np.array([[7 * ball, 7 * ball + 1] for ball in range(len(BALLS))])  # (5, 2) columns of qpos
_XY = 1 + QPOS_XY  # (5, 2) columns of a full state
_PUSHER = slice(1 + 7 * len(BALLS), 3 + 7 * len(BALLS))
_PUSHER_SPEED = slice(-2, None)
_CHUNK = 64  # rows per thread and call: bounds the buffer of all 40 substeps, which stays in cache


def scene(extra: str = "") -> str:
    """Return the MJCF of the scene; `extra` goes into its world body (lights, a camera, furniture).

    Planes and pusher are in group 4, which MuJoCo's viewers leave out: they would hide the balls.
    """
    planes = "".join(
        f'<geom name="{name}" type="plane" size="1 1 .1" group="4" {at}/>' for name, at in _PLANES.items()
    )
    balls = "".join(
        f'<body name="{ball}" pos="0 0 {BALL_Z}"><joint type="free" damping=".75" armature=".04"/>'
        f'<geom name="{ball}" type="sphere" size="{BALL_RADIUS}" density="1" rgba="{COLORS[ball]}"/></body>'
        for ball in BALLS
    )
    slides = "".join(
        f'<joint name="{name}" type="slide" axis="{axis}" damping=".5" armature=".04" '
        'limited="true" range="-10.3213 10.3"/>'
        for name, axis in (("x", "1 0 0"), ("y", "0 1 0"))
    )
    motors = "".join(
        f'<motor joint="{name}" gear="1" ctrllimited="true" ctrlrange="-2 2"/>' for name in ("x", "y")
    )
    pairs = "".join(
        f'<pair geom1="{one}" geom2="{two}" condim="3" margin=".002" friction=".8 .8 .1 .1 .1"/>'
        for one, two in _collisions()
    )
    return (
        '<mujoco model="clevr_robot"><compiler angle="radian"/>'
        '<option timestep=".01" gravity="0 0 -9.81" integrator="Euler" iterations="20"/>'
        '<default><geom contype="0" conaffinity="0"/></default>'
        f"<worldbody>{extra}{planes}{balls}"
        f'<body name="pusher" pos="0 0 -.2">{slides}'
        '<geom name="pusher" type="sphere" size=".05" density=".5" group="4"/></body></worldbody>'
        f"<contact>{pairs}</contact><actuator>{motors}</actuator></mujoco>"
    )


def _collisions() -> list[tuple[str, str]]:
    """Balls collide with planes, each other and the pusher; the pusher passes through the planes."""
    planes = [(plane, ball) for ball in BALLS for plane in _PLANES]
    return planes + list(combinations(BALLS, 2)) + [(ball, "pusher") for ball in BALLS]


@lru_cache(maxsize=len(PHYSICS))
def model(physics: Physics) -> mujoco.MjModel:
    """Return the compiled scene; shared, since stepping never writes to it."""
    import mujoco

    compiled = mujoco.MjModel.from_xml_string(scene())
    if physics == "paper":
        pusher = compiled.body("pusher").id
        compiled.body_invweight0[pusher] = (2 / 3) / (compiled.body_mass[pusher] + 0.04)
    return compiled


def draw_state(seed: int) -> list[float]:
    """Draw one initial state (10 numbers): balls one after another, far enough from the earlier ones.

    A ball that fails ten times sends the draw back to the first ball. Plain Python on a block of numbers:
    with five balls, array calls cost more than they save.
    """
    rng = np.random.default_rng(seed)
    numbers = iter(())
    while True:
        placed: list[tuple[float, float]] = []
        while len(placed) < len(BALLS):
            for _ in range(RESET_TRIES):
                x = next(numbers, None)
                if x is None:
                    numbers = iter(rng.random(128).tolist())
                    x = next(numbers)
                spot = _between(RESET_X, x), _between(RESET_Y, next(numbers))
                if all(_apart(spot, other) for other in placed):
                    placed.append(spot)
                    break
            else:
                break
        else:
            return [number for spot in placed for number in spot]


def _between(limits: tuple[float, float], share: float) -> float:
    return limits[0] + (limits[1] - limits[0]) * share


def _apart(one: tuple[float, float], two: tuple[float, float]) -> bool:
    dx, dy = abs(one[0] - two[0]), abs(one[1] - two[1])
    return dx >= RESET_OFFSET and dy >= RESET_OFFSET and dx * dx + dy * dy >= RESET_DISTANCE**2


def initial_states(seeds: Sequence[int] | np.ndarray) -> np.ndarray:
    """Draw initial states, one per seed: -> (len(seeds), 10) float64.

    Raises:
        KalmError: a seed is not a whole number of at least 0.
    """
    seeds = np.asarray(seeds)
    if seeds.ndim != 1 or (seeds.size and (seeds.dtype.kind not in "iu" or seeds.min() < 0)):
        raise KalmError(f"seeds must be a flat list of whole numbers of at least 0, got {seeds!r}.")
    return np.array([draw_state(seed) for seed in seeds.tolist()]).reshape(-1, 2 * len(BALLS))


class ClevrSimulator:
    """N scenes that step together (`kalm.envs.base.Simulator`). Rows are independent of each other and of N.

    Args:
        n: number of scenes.
        physics: ``"paper"`` or ``"mujoco3"``, see the module's docstring.
        threads: C++ threads to step on; 1 steps on the calling thread.
    """

    def __init__(self, n: int, physics: Physics = "paper", threads: int = 1) -> None:
        if physics not in PHYSICS:
            raise unknown("physics", physics, PHYSICS)
        if n < 1 or threads < 1:
            raise KalmError(f"a simulator needs at least 1 scene and 1 thread, got n={n}, threads={threads}.")
        import mujoco
        from mujoco import rollout

        self._model = model(physics)
        self._data = [mujoco.MjData(self._model) for _ in range(threads)]
        self._rollout = rollout.Rollout(nthread=threads if threads > 1 else 0)
        rest = np.concatenate([[0.0], self._model.qpos0, np.zeros(self._model.nv)])
        self._rest = rest  # (70,) full state of a scene at rest
        self._full = np.tile(rest, (n, 1))  # (n, 70)
        self._ready = np.zeros(n, dtype=bool)  # (n,) has been reset or set
        self._buffer = np.empty((min(n, _CHUNK * threads), SUBSTEPS, len(rest)))

    def reset(
        self, goals: Sequence[Goal], seeds: Sequence[int] | np.ndarray, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Draw initial states for these rows (all by default), one seed each: -> (len(rows), 10)."""
        states = initial_states(seeds)
        self.set_states(states, rows)
        return states

    def set_states(self, states: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Put these rows at rest with balls at these positions (len(rows), 10), metres.

        Raises:
            KalmError: wrong shape, or a number that is not finite or further than 10 m away.
        """
        rows = which_rows(rows, len(self._full))
        states = np.asarray(states, dtype=np.float64)
        if states.shape != (len(rows), 2 * len(BALLS)):
            raise KalmError(f"states of {len(rows)} scenes have shape ({len(rows)}, 10), got {states.shape}.")
        if not (np.abs(states) <= 10.0).all():
            raise KalmError(
                "a state holds finite positions in metres, none beyond 10; got one that does not."
            )
        self._full[rows] = self._rest
        self._full[np.ix_(rows, _XY.ravel())] = states
        self._ready[rows] = True

    def step(self, actions: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """Take one action, 0..39, in each of these rows: (len(rows),) -> positions (len(rows), 10) after it.

        Raises:
            KalmError: wrong shape, not whole numbers, out of range, or a row that was never reset.
        """
        rows = which_rows(rows, len(self._full))
        ball, push = np.divmod(self._checked(actions, rows), len(PUSHES))
        full, direction = self._full[rows], PUSHES[push]  # (n, 70), (n, 2)
        aim = full[np.arange(len(rows))[:, None], _XY[ball]]  # (n, 2) the ball as it is now
        full[:, _PUSHER] = aim - START_BEHIND * direction
        full[:, _PUSHER_SPEED] = 0.0
        full = self._advance(full, direction)
        self._full[rows] = full
        return full[:, _XY.ravel()]

    def close(self) -> None:
        """Stop the threads."""
        self._rollout.close()

    def _advance(self, full: np.ndarray, control: np.ndarray) -> np.ndarray:
        """Hold each row's motors for 40 physics steps from a cold solver: (n, 70), (n, 2) -> (n, 70)."""
        after, size = np.empty_like(full), len(self._buffer)
        for start in range(0, len(full), size):
            part = slice(start, min(start + size, len(full)))
            buffer = self._buffer[: part.stop - start]
            self._rollout.rollout(
                self._model,
                self._data,
                full[part],
                control[part, None],
                nstep=SUBSTEPS,
                initial_warmstart=np.zeros((1, self._model.nv)),
                state=buffer,
            )
            after[part] = buffer[:, -1]
        after[:, 0] = 0.0
        return after

    def _checked(self, actions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        actions = np.asarray(actions)
        if actions.shape != (len(rows),):
            raise KalmError(f"{len(rows)} scenes take actions of shape ({len(rows)},), got {actions.shape}.")
        if actions.dtype.kind not in "iu":
            raise KalmError(f"actions are whole numbers from 0 to {ACTIONS - 1}, got {actions.dtype}.")
        if actions.size and (actions.min() < 0 or actions.max() >= ACTIONS):
            raise KalmError(f"actions run from 0 to {ACTIONS - 1}, got {actions.min()} to {actions.max()}.")
        if not self._ready[rows].all():
            raise KalmError("a scene must be reset or given a state before it can step.")
        return actions
