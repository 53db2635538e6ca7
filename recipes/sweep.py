"""The sweep of all algorithms on CLEVR-Robot, plain and with imagined rollouts, from one `mini` run.

The run gives the grounded model, the real and the imagined rollouts; the sweep trains and plays everything
else. Both go on where they were stopped. The sweep takes about 90 minutes on two cores; to do it in pieces,
give fewer algorithms or seeds and ask for the others later: all calls fill the same table.

    python recipes/sweep.py --run runs/mini --out runs/sweep --results results
    python recipes/sweep.py --run runs/mini --out runs/sweep --algos bc cql --seeds 0

COMBO, the language model and the Decision Transformer cost most. The score is the mean over the last five
checkpoints, which divide the episodes; the Decision Transformer keeps none of 90 MB and is its last one.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

ALGORITHMS = ("bc", "cql", "td3bc", "awac", "iql", "combo", "lm", "dt")
SETTINGS = {
    "train.checkpoint_every": 600,
    "train.evaluate_every": 4_000,
    "train.evaluate_episodes": 30,
    "evaluate.episodes": 220,
    "evaluate.checkpoints": 5,
}


def kalm(*arguments: str | Path) -> None:
    """Run one command of kalm; its errors end this script."""
    subprocess.run([sys.executable, "-m", "kalm", *map(str, arguments)], check=True)


def main() -> None:
    """Make what is missing of the run, sweep, and copy table and rows to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the mini run; made if missing")
    parser.add_argument("--out", type=Path, required=True, help="folder of the sweep")
    parser.add_argument("--results", type=Path, help="folder that gets clevr-sweep.csv and its rows")
    parser.add_argument("--algos", nargs="+", choices=ALGORITHMS, default=ALGORITHMS)
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"])
    asked = parser.parse_args()
    if not (asked.run / "imagined" / "dataset.json").exists():
        kalm("run", "--preset", "mini", "--out", asked.run)
    sets = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
    folders = {"--real": "real", "--imagined": "imagined", "--model": "grounded/model"}
    inputs = [part for option, name in folders.items() for part in (option, asked.run / name)]
    kalm(
        "sweep", "--preset", "mini", *inputs, "--out", asked.out,
        "--algos", *asked.algos, "--seeds", *asked.seeds, *sets, "--final",
    )  # fmt: skip
    if asked.results:
        shutil.copyfile(asked.out / "sweep.csv", asked.results / "clevr-sweep.csv")
        shutil.copyfile(asked.out / "evaluation" / "rows.csv", asked.results / "clevr-sweep-rows.csv")


if __name__ == "__main__":
    main()
