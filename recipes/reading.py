"""What reading, the grounded model and the filter buy: every combination, one budget, the same three seeds.

Grounded models (MiniLM, SmolLM2) x what imagination is asked in (own words, the reader's plans, the goals'
own parts) x what policies learn from (real rollouts alone, with imagined ones, with shuffled and with
unfiltered ones) x what policies are asked in. Real rollouts, budget and settings are those of a finished
`demo`; the learner is BC. What is done already is not repeated. SmolLM2 takes most of the time.

    make demo
    python recipes/reading.py --run runs/demo --out runs/reading --results results
    python recipes/reading.py --run runs/demo --out runs/reading --only minilm
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

BACKBONES = ("minilm", "smollm2")
READINGS = ("off", "reader", "parts")


def kalm(*arguments: str | Path) -> None:
    """Run one command of kalm; its errors end this script."""
    subprocess.run([sys.executable, "-m", "kalm", *map(str, arguments)], check=True)


def rows_of(backbone: str, reading: str, real: Path, out: Path) -> Path:
    """Ground, imagine, train and play one combination: -> its rows."""
    preset = ("--preset", "demo")
    grounded, place = out / backbone / "grounded", out / backbone / reading
    kalm("ground", *preset, "--data", real, "--out", grounded, "--set", f"ground.backbone={backbone}")
    asked = ("--model", grounded, "--real", real, "--set", f"imagine.reading={reading}")
    kalm("imagine", *preset, *asked, "--out", place / "imagined")
    kalm("imagine", *preset, *asked, "--out", place / "shuffled", "--set", "imagine.control=shuffled")
    inputs = ("--real", real, "--imagined", place / "imagined", "--shuffled", place / "shuffled")
    seeds = ("--set", "train.seeds=[0,1,2]")
    kalm("train", *preset, *inputs, "--algo", "bc", "--out", place / "policies", *seeds)
    kalm("evaluate", *preset, "--policy", place / "policies", "--out", place / "evaluation")
    return place / "evaluation" / "rows.csv"


def main() -> None:
    """Measure all combinations that are asked for, and copy the rows of each to the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished demo")
    parser.add_argument("--out", type=Path, required=True, help="folder for models, rollouts and policies")
    parser.add_argument("--results", type=Path, help="folder that gets clevr-reading-BACKBONE-READING.csv")
    parser.add_argument("--only", nargs="+", choices=BACKBONES, default=BACKBONES)
    asked = parser.parse_args()
    for backbone in asked.only:
        for reading in READINGS:
            rows = rows_of(backbone, reading, asked.run / "real", asked.out)
            if asked.results:
                shutil.copyfile(rows, asked.results / f"clevr-reading-{backbone}-{reading}.csv")


if __name__ == "__main__":
    main()
