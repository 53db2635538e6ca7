"""How well verdicts and rewards from 91 numbers agree with Meta-World's own, step by step.

The package's environments are rolled out with its scripted policies, from exact to random, and go on after
success. Every step is judged twice: by the package, which knows its simulator, and by
`kalm.envs.metaworld.goals`, which sees the numbers alone. A composed task is judged stage by stage, on the
rollouts of its two single tasks.

    python recipes/metaworld_goals.py --csv results/metaworld-goals.csv

Columns: steps; `reached`, the share of them that the package calls a success; `equal`, the share of equal
verdicts; `equal_reached`, the same among those successes; `correlation` and `error` (mean absolute) of the
task's own reward, 0 to 10.
"""

import argparse
import csv
import sys
import warnings
from pathlib import Path

import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from kalm.envs.metaworld.goals import SINGLE, STAGES, MetaWorldJudge
from kalm.envs.metaworld.scenes import build
from kalm.envs.metaworld.spec import ENTITY, GRIPPER, SPEC, TARGET, TASKS
from kalm.types import Goal

NOISE = (0.0, 0.1, 0.3, 0.5, 1.0)  # probability of a random action, by episode
SHAKE = 0.3  # added to every action of every other episode: standard deviation
COLUMNS = ("task", "steps", "reached", "equal", "equal_reached", "correlation", "error")


def environment(task: str):
    """Return the package's environment of a task, fully observed, to be seeded."""
    env = build(task)
    del env.sawyer_observation_space  # cached with the target location hidden
    return env


def begin(env, seed: int) -> np.ndarray:
    """Begin an episode: -> (39,).

    A second time with the same draw: the package reads a window's handle where the previous draw left it.
    """
    env._freeze_rand_vec = False
    env.seed(seed)
    env.reset()
    env._freeze_rand_vec = True
    observation, _ = env.reset()
    return observation


def rollouts(task: str, episodes: int, horizon: int, seed: int) -> tuple[np.ndarray, ...]:
    """Return observations (N, 39), actions (N, 4), and the package's verdicts and rewards (N,)."""
    env, policy, rng = environment(task), ENV_POLICY_MAP[f"{task}-v3"](), np.random.default_rng(seed)
    rows = []
    for episode in range(episodes):
        observation = begin(env, seed + episode)
        for _ in range(horizon):
            action = policy.get_action(observation) + rng.normal(0, SHAKE, 4) * (episode % 2)
            if rng.random() < NOISE[episode % len(NOISE)]:
                action = rng.uniform(-1, 1, 4)
            action = np.clip(action, -1, 1)
            observation, reward, _, _, info = env.step(action)
            rows.append((observation.copy(), action, info["success"] > 0, reward))
    return tuple(np.array(column) for column in zip(*rows, strict=True))


def states_of(task: str, observations: np.ndarray) -> np.ndarray:
    """Put observations into the one state vector: (N, 39) -> (N, 91)."""
    states = np.zeros((len(observations), SPEC.state_size))
    states[:, GRIPPER], states[:, TARGET] = observations[:, :4], observations[:, 36:]
    for i, entity in enumerate(TASKS[task].entities):
        states[:, ENTITY[entity]] = observations[:, 4 + 7 * i : 11 + 7 * i]
    return states


def agreement(
    name: str, judged: np.ndarray, own: np.ndarray, reached: np.ndarray, reward: np.ndarray
) -> dict:
    """Compare verdicts and rewards, (N,) each: -> one row of the table."""
    equal = judged == reached
    return {
        "task": name,
        "steps": len(equal),
        "reached": reached.mean(),
        "equal": equal.mean(),
        "equal_reached": equal[reached].mean() if reached.any() else float("nan"),
        "correlation": np.corrcoef(own, reward)[0, 1],
        "error": np.abs(own - reward).mean(),
    }


def measure(task: str, episodes: int, horizon: int, seed: int) -> list[dict]:
    """Return the rows of a single task: its own, and that of each stage it is."""
    observations, actions, reached, reward = rollouts(task, episodes, horizon, seed)
    states = states_of(task, observations)
    judge = MetaWorldJudge([Goal.of(task)] * len(states))
    own = judge.own_reward(actions, states)
    rows = [agreement(task, judge.reached(states, states), own, reached, reward)]
    for name, stages in STAGES.items():
        if task in stages.tasks:
            stage = stages.tasks.index(task)
            judge = MetaWorldJudge([Goal.of(name)] * len(states))
            judged = judge.reached(states, states) if stage else judge.first_stage_done(states)
            own = 2 * (judge.own_reward(actions, states) - 5 * stage)
            rows.append(agreement(f"{name}, stage {stage + 1}", judged, own, reached, reward))
    return rows


def show(row: dict) -> None:
    """Print one row of the table."""
    numbers = [row[name] if name == "steps" else f"{row[name]:.4f}" for name in COLUMNS[1:]]
    sys.stdout.write(f"{row['task']:27}" + "".join(f"{number:>15}" for number in numbers) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure all single tasks and the stages of the composed ones."""
    parser = argparse.ArgumentParser(description="Verdicts and rewards against Meta-World's own.")
    parser.add_argument("--csv", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--horizon", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1000)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sys.stdout.write(f"{COLUMNS[0]:27}" + "".join(f"{name:>15}" for name in COLUMNS[1:]) + "\n")
    rows = []
    for task in SINGLE:
        for row in measure(task, options.episodes, options.horizon, options.seed):
            rows.append(row)
            show(row)
    with options.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(
            {k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()} for row in rows
        )


if __name__ == "__main__":
    main()
