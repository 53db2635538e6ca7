import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from kalm.envs.gym import GoalEnv
from kalm.errors import KalmError
from kalm.types import Goal, Instruction

MOVE = {"kind": "move", "ball": "red", "direction": "left"}
RELATION = {"kind": "relation", "ball": "red", "reference": "blue", "direction": "right"}
# Red 0.35 m left of where it should be; one push right of blue brings it into its quarter.
STATE = [-0.1, 0.35, 0.0, 0.1, -0.4, -0.1, 0.4, -0.1, -0.4, 0.5]


@pytest.mark.filterwarnings("ignore:.*Box observation space (minimum|maximum) value is")
@pytest.mark.filterwarnings("ignore:.*not within the observation space")
def test_gymnasium_accepts_it():
    env = gymnasium.make("kalm/ClevrRobot-v0", render_mode="rgb_array", render_size=32)
    check_env(env.unwrapped)
    assert env.spec is not None and env.spec.id == "kalm/ClevrRobot-v0"
    assert env.observation_space.shape == (10,) and env.action_space.n == 40
    env.close()


def test_draws_a_seen_instruction_and_repeats_it_for_a_seed():
    env = GoalEnv("clevr")
    state, info = env.reset(seed=3)
    again, same = env.reset(seed=3)
    np.testing.assert_array_equal(state, again)
    assert info == same and info["instruction"] in {one.text for one in env.world.suite("seen")}
    texts = {env.reset()[1]["instruction"] for _ in range(20)}
    assert len(texts) > 10


def test_one_step_goals_end_after_one_step():
    for action, success in ((2, True), (0, False)):
        env = GoalEnv("clevr")
        env.reset(seed=0, options={"goal": MOVE})
        _, reward, terminated, truncated, info = env.step(action)
        assert (terminated, truncated, info["success"], reward) == (True, False, success, float(success))


def test_the_expert_terminates_with_the_reward_of_success():
    env = GoalEnv("clevr")
    goal = env.world.parse_goal(RELATION)
    judge, expert = env.world.judge([goal]), env.world.expert(0.0)
    state, _ = env.reset(options={"goal": goal, "state": STATE})
    np.testing.assert_array_equal(state, STATE)
    for _ in range(50):
        action = expert.act(state[None], judge, np.random.default_rng(0))[0]
        state, reward, terminated, truncated, _ = env.step(action)
        assert not truncated
        if terminated:
            break
    assert terminated and reward == 100.0


def test_truncates_at_the_horizon():
    env = GoalEnv("clevr")
    env.reset(seed=0, options={"goal": {"kind": "line", "order": ["red", "blue", "green", "purple", "cyan"]}})
    ends = [env.step(0)[2:4] for _ in range(50)]
    assert ends == [(False, False)] * 49 + [(False, True)]


def test_instruction_options():
    env = GoalEnv("clevr")
    one = env.world.suite("rephrase")[5]
    assert env.reset(options={"instruction": one.text})[1]["instruction"] == one.text
    assert env.instruction.goal == one.goal
    own = Instruction("a state of its own", "seen", Goal.of(**MOVE), state=tuple(STATE))
    state, info = env.reset(options={"instruction": own})
    assert info["instruction"] == "a state of its own" and state.tolist() == STATE
    text = env.reset(options={"goal": RELATION})[1]["instruction"]
    assert text in {one.text for one in env.world.suite("seen")}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"goals": MOVE}, "reset option"),
        ({"instruction": "make tea"}, "make tea"),
        ({"goal": {**MOVE, "ball": "pink"}}, "pink"),
        ({"goal": MOVE, "instruction": "x"}, "both"),
        ({"state": [0.0] * 15}, "shape"),
    ],
)
def test_bad_options_are_named(options, says):
    with pytest.raises(KalmError, match=says):
        GoalEnv("clevr").reset(options=options)


def test_render_needs_a_mode():
    env = GoalEnv("clevr")
    env.reset(seed=0)
    assert env.render() is None
    with pytest.raises(KalmError, match="render mode"):
        GoalEnv("clevr", render_mode="human")
