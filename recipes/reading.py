"""What reading, the grounded model and the filter buy: every combination, one budget, the same three seeds.

Grounded models (MiniLM, SmolLM2) x what imagination is asked in (own words, the reader's plans, the goals'
own parts) x what policies learn from (real rollouts alone, with imagined ones, with shuffled and with
unfiltered ones) x what policies are asked in. Budget, settings and real rollouts are those of a finished
`demo`, and so is its grounded MiniLM; SmolLM2 learns as many steps, with adapters. The learner is BC. What is
done already is not repeated. Three hours on two cores, fifty minutes of them to ground SmolLM2.

    make demo
    python recipes/reading.py --run runs/demo --out runs/reading --csv results/clevr-reading.csv
    python recipes/reading.py --run runs/demo --out runs/reading --csv minilm.csv --only minilm
"""

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from kalm.evaluation.results import Episode, read_rows, write_rows

BACKBONES = {"minilm": "MiniLM", "smollm2": "SmolLM2"}
# In a few steps low-rank adapters come as far as all weights (log), in less time.
TUNING = ("ground.backbone=smollm2", "ground.tuning=lora", "ground.body_lr=1.0e-3")
READINGS = {"off": "own words", "reader": "reader", "parts": "given parts"}
PRESET = ("--preset", "demo")


def kalm(*arguments: str | Path) -> None:
    """Run one command of kalm; its errors end this script."""
    subprocess.run([sys.executable, "-m", "kalm", *map(str, arguments)], check=True)


def plain(run: Path, out: Path) -> list[Episode]:
    """Train and play what learns from real rollouts alone, the same for all combinations: -> its rows."""
    return played(out / "plain", "--real", run / "real")


def combination(backbone: str, reading: str, run: Path, out: Path) -> list[Episode]:
    """Ground, imagine, train and play one combination: -> its rows, named after it."""
    real, grounded, place = run / "real", run / "grounded", out / backbone / reading
    if backbone != "minilm":
        grounded = out / backbone / "grounded"
        settings = [part for setting in TUNING for part in ("--set", setting)]
        kalm("ground", *PRESET, "--data", real, "--out", grounded, *settings)
    asked = (*PRESET, "--model", grounded, "--real", real, "--set", f"imagine.reading={reading}")
    kalm("imagine", *asked, "--out", place / "imagined")
    kalm("imagine", *asked, "--out", place / "shuffled", "--set", "imagine.control=shuffled")
    inputs = ("--real", real, "--imagined", place / "imagined", "--shuffled", place / "shuffled")
    name = f"{BACKBONES[backbone]}, {READINGS[reading]}"
    rows = played(place, *inputs, "--set", "train.plain=false")
    return [replace(row, policy=f"{name}: {row.policy}", algorithm=name) for row in rows]


def played(place: Path, *inputs: str | Path) -> list[Episode]:
    """Train policies with three seeds and play them."""
    seeds = ("--set", "train.seeds=[0,1,2]")
    kalm("train", *PRESET, *inputs, "--algo", "bc", *seeds, "--out", place / "policies")
    kalm("evaluate", *PRESET, "--policy", place / "policies", "--out", place / "evaluation")
    return read_rows(place / "evaluation" / "rows.csv")


def main() -> None:
    """Measure all combinations that are asked for, and write the rows after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished demo")
    parser.add_argument("--out", type=Path, required=True, help="folder for models, rollouts and policies")
    parser.add_argument("--csv", type=Path, required=True, help="rows of episodes to write")
    parser.add_argument("--only", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    asked = parser.parse_args()
    rows = plain(asked.run, asked.out)
    for backbone in asked.only:
        for reading in READINGS:
            rows += combination(backbone, reading, asked.run, asked.out)
            write_rows(asked.csv, rows)


if __name__ == "__main__":
    main()
