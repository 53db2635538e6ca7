import numpy as np
import pytest

from kalm.envs.clevr import expert
from kalm.envs.clevr.expert import ClevrExpert, metres_left, predict
from kalm.envs.clevr.goals import NEAR, STEP
from kalm.envs.clevr.spec import BALLS, DIRECTIONS
from kalm.envs.clevr.world import ClevrWorld
from kalm.errors import KalmError
from kalm.types import Goal

RELATIONS = [
    Goal.of("relation", ball=ball, reference=reference, direction=direction)
    for ball in BALLS
    for reference in BALLS
    if reference != ball
    for direction in DIRECTIONS
]
MOVES = [Goal.of("move", ball=ball, direction=direction) for ball in BALLS for direction in DIRECTIONS]


def play(goals, noise=0.0, horizon=50):
    """Return the number of steps to success of one episode per goal; horizon + 1 where it failed."""
    world = ClevrWorld()
    judge, expert, rng = world.judge(goals), world.expert(noise), np.random.default_rng(0)
    simulator = world.simulator(len(goals))
    states, steps = simulator.reset(goals, np.arange(len(goals))), np.full(len(goals), horizon + 1)
    live = np.arange(len(goals))
    for step in range(1, horizon + 1):
        actions = expert.act(states[live], judge.take(live), rng)
        after = simulator.step(actions, live)
        reached = judge.take(live).success(states[live], actions, after)
        states[live] = after
        steps[live[reached]] = step
        live = live[~reached]
    return steps


def test_solves_the_relations_in_few_steps():
    steps = play(RELATIONS * 2)
    assert (steps <= 50).mean() >= 0.97
    assert np.median(steps) <= 4 and np.percentile(steps, 90) <= 8


def test_solves_them_in_spite_of_noise():
    assert (play(RELATIONS, noise=0.3) <= 50).mean() >= 0.95


def test_solves_every_move_at_once():
    assert (play(MOVES) == 1).all()


def test_composes_and_gathers():
    goals = [one.goal for one in ClevrWorld().suite("hard")]
    pairs = [goal for goal in goals if goal.kind == "all" and len(goal["goals"]) == 2][:10]
    assert (play(pairs) <= 50).sum() >= 7
    assert (play([Goal.of("gather", center="green")] * 10) <= 50).sum() >= 7


def test_a_row_does_not_depend_on_the_others():
    world = ClevrWorld()
    goals = [*RELATIONS, *MOVES] * 3
    states, judge = world.initial_states(goals, np.arange(300)), world.judge(goals)
    actions, rng = ClevrExpert().act(states, judge, np.random.default_rng(0)), np.random.default_rng(1)
    for rows in ([3], [299, 130, 4]):
        np.testing.assert_array_equal(
            ClevrExpert().act(states[rows], judge.take(np.array(rows)), rng), actions[rows]
        )


def test_noise_is_the_share_of_random_actions():
    world, goals = ClevrWorld(), RELATIONS * 50
    states, judge = world.initial_states(goals[:400], np.arange(400)), world.judge(goals)
    states = states.repeat(10, axis=0)
    sure = ClevrExpert().act(states, judge, np.random.default_rng(0))
    noisy = ClevrExpert(0.4).act(states, judge, np.random.default_rng(0))
    assert (noisy != sure).mean() == pytest.approx(0.4 * 39 / 40, abs=0.03)
    wild = ClevrExpert(1.0).act(states, judge, np.random.default_rng(0))
    assert np.bincount(wild, minlength=40).min() > 60  # 100 expected of each


@pytest.mark.parametrize("noise", [-0.1, 1.5, float("nan")])
def test_noise_must_be_a_probability(noise):
    with pytest.raises(KalmError, match="probability"):
        ClevrExpert(noise)


def test_prediction_by_hand():
    # Red at 0, blue 0.4 m to its right and 0.3 m from where the wall stops it; the others out of the way.
    balls = np.array([[0, 0.2], [0.4, 0.2], [-0.4, -0.1], [-0.4, 0.5], [0.0, 0.55]]) @ np.array([1, 1j])
    after = predict(balls[None])[0]  # (40, 5)
    # Right: free for 0.14 m, then 0.55 of the remaining 0.122 m with blue, which has 0.068 m to the wall.
    assert after[0, 0] == pytest.approx(0.14 + 0.55 * 0.122 + 0.2j)
    assert after[0, 1] == pytest.approx(0.4 + 0.55 * 0.122 + 0.2j)
    # Left: the pusher appears 0.15 m right of red, 0.25 m from blue, and disturbs nothing.
    assert after[2, 0] == pytest.approx(-0.262 + 0.2j)
    np.testing.assert_allclose(after[2, 1:], balls[1:])
    # Left and front from the corner: both walls stop it.
    assert after[8 * 2 + 7, 2].real == pytest.approx(-0.4 - max(0.068 - 0.8 * 0.1328, 0), abs=1e-3)


def test_prediction_is_near_the_simulator():
    world, actions = ClevrWorld(), np.arange(400) % 40
    simulator = world.simulator(400)
    simulator.reset(RELATIONS * 5, np.arange(400))
    simulator.step(np.random.default_rng(0).integers(40, size=400))  # off the walls
    before = simulator.step(np.random.default_rng(1).integers(40, size=400))
    simulator.set_states(before)  # at rest
    after = simulator.step(actions).reshape(-1, 5, 2) @ np.array([1, 1j])
    guess = predict(before.reshape(-1, 5, 2) @ np.array([1, 1j]))[np.arange(400), actions]
    errors = np.abs(guess - after)[np.arange(400), actions // 8]
    assert np.median(errors) < 0.015 and errors.mean() < 0.03


@pytest.mark.parametrize(
    ("question", "offset", "metres"),
    [
        ("right", 0.5, 0.125),  # straight ahead: to 0.375
        ("right", 0.3, 0.0),
        ("behind", 0.5j, 0.125),
        # Opposite: touching, a half turn less 36 degrees around the ball, then off to 0.30 m on the tangent.
        ("right", -0.26, np.sqrt(0.3**2 - 0.26**2) + 0.26 * (np.radians(144) - np.arccos(0.26 / 0.3))),
        (STEP, 0.9, 0.0),
        (NEAR, 0.51, 0.2),
    ],
)
def test_metres_left_by_hand(question, offset, metres):
    asked = DIRECTIONS.index(question) if isinstance(question, str) else question
    after = np.full((1, 1, 5), -0.1 + 0.1j)
    after[0, 0, 0] += offset
    assert metres_left(after, np.array([[asked, 0, 1]]))[0, 0] == pytest.approx(metres, abs=1e-4)


def test_a_reference_at_the_wall_must_come_off_it():
    after = np.full((1, 1, 5), 0.468 + 0j)  # blue at the right wall
    after[0, 0, 0] = 0.468 + 0.0j - 0.3
    right = DIRECTIONS.index("right")
    there = metres_left(after, np.array([[right, 0, 1]]))[0, 0]
    after -= 0.26
    assert there - metres_left(after, np.array([[right, 0, 1]]))[0, 0] == pytest.approx(expert.ROOM)
