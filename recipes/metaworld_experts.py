"""How often Meta-World's experts reach their goals, and in how many steps: 50 seeds per task.

`within_100` is the verdict that ends episodes everywhere: on states alone, within the horizon. `within_500`
gives the same verdict more time. `package` is the package's own verdict within 500 steps: its environment
takes the same actions side by side. The composed tasks are not in the package, so it has no say there.

    python recipes/metaworld_experts.py [--seeds 50] [--csv results/metaworld-experts.csv] [task ...]
"""

import argparse
import csv
from pathlib import Path

import numpy as np

from kalm.envs.metaworld.composed import COMPOSED
from kalm.envs.metaworld.expert import MetaWorldExpert
from kalm.envs.metaworld.scenes import scene
from kalm.envs.metaworld.spec import SPEC, TASKS
from kalm.envs.registry import make
from kalm.types import Goal

LATE = 500
COLUMNS = (
    "task",
    "level",
    "seeds",
    "within_100",
    "within_500",
    "package",
    "median_steps",
    "p95_steps",
    "max_steps",
)


def play(task: str, seed: int) -> tuple[int, int]:
    """Play one episode; return in which step the judge and the package first call it a success.

    ``LATE + 1`` stands for never.
    """
    world, goals, rng = make("metaworld"), [Goal.of(task)], np.random.default_rng(0)
    judge, simulator, expert = world.judge(goals), world.simulator(1), MetaWorldExpert()
    state, env = simulator.reset(goals, [seed]), scene(task).env  # which stands where the simulator does
    judged = said = LATE + 1
    for step in range(1, LATE + 1):
        action = expert.act(state, judge, rng)
        after = simulator.step(action)
        if judge.success(state, action, after)[0]:
            judged = min(judged, step)
        # The package refuses to step on once its 500 steps are over, and judges no composed task.
        if task not in COMPOSED and env.step(action[0])[4]["success"]:
            said = min(said, step)
        if judged <= LATE and (said <= LATE or task in COMPOSED or step > judged + 20):
            break
        state = after
    return judged, said


def measure(task: str, seeds: int) -> dict[str, str | int | float]:
    """Play one task and return its row."""
    judged, said = np.array([play(task, seed) for seed in range(seeds)]).T
    return {
        "task": task,
        "level": TASKS[task].levels[0],
        "seeds": seeds,
        "within_100": (judged <= SPEC.horizon).mean().round(3),
        "within_500": (judged <= LATE).mean().round(3),
        "package": "" if task in COMPOSED else (said <= LATE).mean().round(3),
        "median_steps": int(np.median(judged)),
        "p95_steps": int(np.percentile(judged, 95)),
        "max_steps": int(judged.max()),
    }


def main() -> None:
    """Print the table and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--csv", type=Path, default=Path("results/metaworld-experts.csv"))
    options = parser.parse_args()
    rows = []
    print(" ".join(f"{name:>18}" if name == "task" else f"{name:>12}" for name in COLUMNS))
    for task in options.tasks:
        rows.append(measure(task, options.seeds))
        print(
            " ".join(f"{v!s:>18}" if n == "task" else f"{v!s:>12}" for n, v in rows[-1].items()), flush=True
        )
    with options.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
