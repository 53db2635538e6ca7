"""Behaviour policies: who acts when data are collected.

The CLEVR-Robot expert looks one action ahead. It predicts what each of the 40 pushes would do with a little
geometry (`predict`), asks how many metres of pushing the goal would then still need (`metres_left`), and
takes the push that leaves least; it goes out of its way not to bring about the opposite of a relation. It
remembers nothing and draws nothing unless noise is asked for, so that a policy which sees the same positions
can imitate it.

Unusual: the geometry is planar and written in complex numbers, x + iy. Dividing by the push's heading turns
the scene so that the push goes along +1, and one formula then serves all eight.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kalm.envs.base import Judge, require_noise
from kalm.envs.clevr import goals
from kalm.envs.clevr.goals import NEAR, RELATION_REACH, STEP
from kalm.envs.clevr.simulator import BALL_RADIUS, START_BEHIND
from kalm.envs.clevr.spec import ACTIONS, ARROWS, BALLS, PUSHES

Complex = NDArray[np.complex128]
Floats = NDArray[np.float64]

# Measured on random pushes of the paper's physics:
TOUCH = 2 * BALL_RADIUS
HAND = 0.18  # distance at which the pusher touches a ball
LOW, HIGH = -0.468 - 0.168j, 0.468 + 0.568j  # corners of where the walls let centres go
SHARE = 0.55  # of its free speed is left to a ball that pushes another one straight on
THIRD = 0.25  # of its way is left to a ball that is pushed into a third one
WALL_GRIP = 0.8  # metres of sliding lost per metre of pressing into a wall
BALL_GRIP = 0.27  # the same against another ball

PUSH: Complex = PUSHES @ np.array([1, 1j])  # (8,)
HEADING: Complex = PUSH / np.abs(PUSH)  # (8,)
LENGTH: Floats = np.where(np.abs(PUSH) > 1, 0.284, 0.262)  # (8,) metres of a free push
ARROW: Complex = ARROWS @ np.array([1, 1j])  # (4,)
WALL: Floats = np.array([HIGH.imag, -LOW.real, -LOW.imag, HIGH.real])  # (4,) how far each arrow may go from 0
PUSHED = np.arange(ACTIONS) // len(PUSHES)  # (40,) ball of each action

# Where in its quarter a ball is wanted, inside the verdict's own limits of 45 degrees and 0.391 m:
EDGE = np.radians(36.0)
OUTER = 0.375
CORNER = 0.30  # a ball that comes from the side aims at this distance from the reference
LINE_EDGE = np.radians(24.0)
GATHERED = 0.31
ROOM = 0.26  # metres that a reference needs between itself and the wall in the goal's direction
# Metres that pushing the reference must save over pushing the ball itself; a third ball twice that. Much
# more would keep to the ball of the sentence, but a policy that imitates it then gets stuck at walls
# (docs/log.md).
RELUCTANCE = 0.03
# Metres that a detour may cost which keeps a ball out of the quarter opposite to the one it is wanted in. Who
# watches should not take one instruction for the other. The margins are for what `predict` gets wrong.
DETOUR = 0.5
OPPOSITE_EDGE = np.radians(60.0)
OPPOSITE_REACH = RELATION_REACH + 0.03

_CHUNK = 128  # states at a time: the arrays of one chunk stay in the processor's cache


class ClevrExpert:
    """One-step look-ahead over all pushes (`kalm.envs.base.Expert`).

    Args:
        noise: probability of a uniformly random action.

    Raises:
        KalmError: noise is not a probability.
    """

    def __init__(self, noise: float = 0.0) -> None:
        require_noise(noise)
        self.noise = noise

    def act(self, states: np.ndarray, judge: Judge, rng: np.random.Generator) -> np.ndarray:
        """Actions for N states and their goals: (N, 10) -> (N,) int64."""
        assert isinstance(judge, goals.ClevrJudge), type(judge)
        assert states.shape == (len(judge.goals), 2 * len(BALLS)), (states.shape, len(judge.goals))
        balls = states.astype(np.float64).reshape(-1, len(BALLS), 2)
        positions: Complex = balls[..., 0] + 1j * balls[..., 1]  # (N, 5)
        actions = np.zeros(len(states), dtype=np.int64)
        for start in range(0, len(states), _CHUNK):
            rows = np.arange(start, min(start + _CHUNK, len(states)))
            actions[rows] = _choose(positions[rows], judge.parts[rows])
        moves = np.flatnonzero(judge.kind == goals.MOVE)
        actions[moves] = _straight(judge.ball[moves], judge.direction[moves])
        if self.noise:
            random = rng.random(len(states)) < self.noise
            actions[random] = rng.integers(ACTIONS, size=len(states))[random]
        return actions


def _choose(positions: Complex, parts: np.ndarray) -> np.ndarray:
    """Return the push that leaves least to do, and nothing undone: (N, 5), (N, P, 3) -> (N,) int64."""
    after = predict(positions)  # (N, 40, 5)
    cost = np.zeros(after.shape[:2])  # (N, 40)
    for part in np.moveaxis(parts, 1, 0):  # (N, 3)
        cost += metres_left(after, part) + RELUCTANCE * _strangeness(part) + DETOUR * _opposite(after, part)
    return cost.argmin(axis=1)


def _opposite(after: Complex, part: np.ndarray) -> np.ndarray:
    """Say where a ball is opposite to the relation that is asked for: (N, K, 5), (N, 3) -> (N, K) bool."""
    question, ball, reference = part.T  # (N,) each
    row = np.arange(len(part))
    related = question < STEP
    offset = after[row, :, ball] - after[row, :, reference]  # (N, K)
    along = offset * ARROW[np.where(related, question, 0)].conj()[:, None]
    opposite = (np.abs(np.angle(-along)) < OPPOSITE_EDGE) & (np.abs(along) < OPPOSITE_REACH)
    return opposite & related[:, None]


def _straight(ball: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Return the push of these balls straight along these directions: (M,), (M,) -> (M,) int64."""
    along = (PUSH * ARROW[direction].conj()[:, None]).real  # (M, 8)
    return len(PUSHES) * ball + along.argmax(axis=1)


def predict(positions: Complex) -> Complex:
    """Predict where the balls are after each action: (N, 5) -> (N, 40, 5), x + iy in metres.

    A ball goes its free length, or up to the first ball in its way and on with it, slower and sliding off.
    Walls stop the ball that is met, a third ball slows it, and the pushed one with it; sliding along a wall
    is slow. A ball where the pusher appears is shoved aside. Speed left over from earlier pushes is ignored:
    positions do not show it.
    """
    n = len(positions)
    own = np.eye(len(BALLS), dtype=bool)[:, None]  # (5, 1, 5) pushed ball, push, other ball
    offset = positions[:, None, :] - positions[:, :, None]  # (N, 5, 5)
    reach = _reach(offset[:, :, None] * HEADING.conj()[:, None])  # (N, 5, 8, 5)
    first = reach.argmin(axis=3)  # (N, 5, 8) the ball that is met
    free = np.minimum(reach.min(axis=3), LENGTH)
    rest = LENGTH - free
    gap = offset[np.arange(n)[:, None, None], np.arange(len(BALLS))[:, None], first] - free * HEADING
    normal = gap / np.maximum(np.abs(gap), 1e-9)  # (N, 5, 8) from the pushed ball to the one it meets
    press = np.maximum((normal * HEADING.conj()).real, 0.0)
    aside = HEADING - press * normal
    slide = np.maximum(np.abs(aside) - BALL_GRIP * press, 0.0) / np.maximum(np.abs(aside), 1e-9)
    wanted = SHARE * rest * press  # (N, 5, 8) metres that the ball that is met is pushed
    carried = _carried(positions, offset, first, wanted, normal)
    on = free * HEADING + ((carried * normal.conj()).real * normal) + rest * slide * aside
    lead = _along_walls(positions[:, :, None], on)
    mate = (np.arange(len(BALLS)) == first[..., None]) & (rest > 0)[..., None]
    moved = np.where(own, lead[..., None], np.where(mate, carried[..., None], 0.0) + _shoved(offset))
    return _clip(positions[:, None, None] + moved).reshape(n, ACTIONS, len(BALLS))


def _reach(turned: Complex) -> Floats:
    """Return how far a ball at 0 goes along +1 until it touches each other ball, infinite if it does not."""
    under = TOUCH**2 - turned.imag**2
    meets = (under > 0) & (turned.real > 1e-9)
    return np.where(meets, np.maximum(turned.real - np.sqrt(np.maximum(under, 0.0)), 0.0), np.inf)


def _carried(
    positions: Complex, offset: Complex, first: np.ndarray, wanted: Floats, normal: Complex
) -> Complex:
    """Return how far the ball that is met goes: slower from a third ball on, up to a wall: -> (N, 5, 8)."""
    row = np.arange(len(positions))[:, None, None]
    reach = _reach(offset[row, first] * normal.conj()[..., None])  # (N, 5, 8, 5)
    room, third = reach.min(axis=3), reach.argmin(axis=3)
    beyond = _within(positions[row, third], THIRD * np.maximum(wanted - room, 0.0) * normal)
    along = np.minimum(wanted, room) + np.maximum((beyond * normal.conj()).real, 0.0)
    return _within(positions[row, first], along * normal)


def _shoved(offset: Complex) -> Complex:
    """Return how far the pusher, appearing behind a ball, shoves the others: (N, 5, 5) -> (N, 5, 8, 5)."""
    gap = offset[:, :, None] + START_BEHIND * PUSH[:, None]
    distance = np.maximum(np.abs(gap), 1e-9)
    return np.maximum(HAND - distance, 0.0) / distance * gap


def _clip(spots: Complex) -> Complex:
    return np.clip(spots.real, LOW.real, HIGH.real) + 1j * np.clip(spots.imag, LOW.imag, HIGH.imag)


def _within(start: Complex, move: Complex) -> Complex:
    """Return the part of a move that walls allow, each axis alone."""
    inside = _clip(start)
    return _clip(inside + move) - inside


def _along_walls(start: Complex, move: Complex) -> Complex:
    """Return a move that walls stop, and that pressing into them slows."""
    kept = _within(start, move)
    lost = move - kept
    x = np.sign(kept.real) * np.maximum(np.abs(kept.real) - WALL_GRIP * np.abs(lost.imag), 0.0)
    y = np.sign(kept.imag) * np.maximum(np.abs(kept.imag) - WALL_GRIP * np.abs(lost.real), 0.0)
    return x + 1j * y


def metres_left(after: Complex, part: np.ndarray) -> Floats:
    """Metres of pushing that a part of the goal still needs: (N, K, 5), (N, 3) -> (N, K)."""
    question, ball, reference = part.T  # (N,) each
    row = np.arange(len(part))
    base = after[row, :, reference]  # (N, K)
    offset = after[row, :, ball] - base
    metres = np.zeros(base.shape)
    for asked, rule in ((question < STEP, _relation), (question == STEP, _step), (question == NEAR, _near)):
        if asked.any():
            metres[asked] = rule(offset[asked], base[asked], question[asked, None])
    return metres


def _relation(offset: Complex, base: Complex, direction: np.ndarray) -> Floats:
    """Way of the ball around its reference into the quarter, and of the reference off the wall."""
    arrow = ARROW[direction]
    room = WALL[direction] - (base * arrow.conj()).real
    return _way(offset * arrow.conj(), EDGE, OUTER) + np.maximum(ROOM - room, 0.0)


def _step(offset: Complex, base: Complex, question: np.ndarray) -> Floats:
    """Way of the ball around its forerunner into the sector around +x, at any distance."""
    return _way(offset, LINE_EDGE, np.inf)


def _near(offset: Complex, base: Complex, question: np.ndarray) -> Floats:
    return np.maximum(np.abs(offset) - GATHERED, 0.0)


def _way(offset: Complex, edge: float, outer: float) -> Floats:
    """Return the shortest way from an offset into the sector around +1, around the ball at 0; any shape."""
    far, angle = np.maximum(np.abs(offset), 1e-6), np.abs(np.angle(offset))
    turn = np.maximum(angle - edge, 0.0)
    clear = np.maximum(far, TOUCH + 1e-6)
    free_turn = np.arccos(TOUCH / clear) + np.arccos(TOUCH / CORNER)  # past this the ball at 0 is in the way
    tangents = np.sqrt(clear**2 - TOUCH**2) + np.sqrt(CORNER**2 - TOUCH**2)
    around = tangents + TOUCH * (turn - free_turn)
    chord = np.sqrt(np.maximum(far**2 + CORNER**2 - 2 * far * CORNER * np.cos(turn), 0.0))
    return np.where(angle <= edge, np.maximum(far - outer, 0.0), np.where(turn > free_turn, around, chord))


def _strangeness(part: np.ndarray) -> np.ndarray:
    """Return 0 where an action pushes the part's ball, 1 its reference, 2 another: (N, 3) -> (N, 40)."""
    _, ball, reference = part.T[..., None]
    return np.where(ball == PUSHED, 0, np.where(reference == PUSHED, 1, 2))
