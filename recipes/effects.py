r"""Effects of design choices on grounding: the same small budget, one thing changed at a time.

Every variant is grounded on the same rollouts and inspected (`kalm inspect`), on the split `tune`, because
settings are chosen by it; a table of effects comes out, for `kalm inspect --effects` and `kalm report
--effects`. What is done already is not repeated.

    kalm collect --preset mini --out runs/effects/real
    python recipes/effects.py --data runs/effects/real --out runs/effects --csv results/clevr-effects.csv

The paper's ablation of tasks (its Table 1), and how everything grows with epochs and data:

    python recipes/effects.py --data runs/effects/real --out runs/effects --csv results/clevr-tasks.csv \
        --only default "no dynamics" "no explanation" "generation only" --seeds 0 1 2
    python recipes/effects.py --data runs/gpu/real --out runs/growth --csv results/clevr-growth.csv \
        --backbone smollm2 --only default "2 epochs" "5 epochs" "10 epochs" \
        "10,000 rollouts" "30,000 rollouts" "100,000 rollouts"
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from kalm.evaluation.effects import Effect, write_effects

BUDGET = {
    "ground.rollouts": 4000,
    "ground.tasks.explanation": 0.35,
    "ground.tasks.dynamics": 0.1,
    "ground.loss.text": 0.5,
    "ground.network_steps": 800,
    "ground.evaluate_every": 100_000,
    "ground.match_rollouts": 0,
    "ground.explain_rollouts": 0,
}
LOOK = {
    "inspect.split": "tune",
    "inspect.rollouts": 96,
    "inspect.explanations": 96,
    "inspect.transitions": 256,
    "imagine.horizon": 12,
    "imagine.temperature": 0.8,
}
NO_NETWORK = {"ground.state_network": False}
VARIANTS = {
    "default": {},
    "random body": {"ground.pretrained": False, "ground.train_embeddings": True},
    "entity tokens": {"ground.entity_tokens": True},
    "absolute states": {**NO_NETWORK, "ground.still_gate": False, "ground.state_target": "absolute"},
    "changes": {**NO_NETWORK, "ground.still_gate": False},
    "gated changes": NO_NETWORK,
    "LoRA": {"ground.tuning": "lora"},
    "frozen body": {"ground.tuning": "frozen"},
    "text replay": {"ground.tasks.text_replay": 0.2},
    "language warm-up": {"ground.language.steps": 100, "ground.language.lr": 5e-4},
    "no dynamics": {"ground.tasks.dynamics": 0},
    "no explanation": {"ground.tasks.explanation": 0},
    "relations": {"ground.relations": True},
    "entity tokens and relations": {"ground.entity_tokens": True, "ground.relations": True},
    "generation only": {"ground.tasks.explanation": 0, "ground.tasks.dynamics": 0},
    "causal prompt": {"ground.attention": "causal"},
    **{f"{count} epochs": {"ground.epochs": count} for count in (2, 5, 10)},
    **{f"{count:,} rollouts": {"ground.rollouts": count} for count in (10_000, 30_000, 100_000)},
}


def kalm(command: str, *arguments: str | Path, settings: dict[str, object]) -> None:
    """Run one command of kalm; its errors end this script."""
    sets = [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    subprocess.run([sys.executable, "-m", "kalm", command, *map(str, arguments), *sets], check=True)


def measured(variant: str, seed: int, data: Path, out: Path, backbone: str) -> list[Effect]:
    """Ground and inspect one variant; what an earlier call did is not repeated, and refused if it differs."""
    place = out / f"{variant.replace(' ', '-')}-seed{seed}"
    looked = place.with_name(place.name + "-inspected")
    settings = {**BUDGET, "ground.backbone": backbone, **VARIANTS[variant]}
    kalm("ground", "--data", data, "--out", place, "--seed", str(seed), settings=settings)
    kalm("inspect", place, "--out", looked, "--seed", str(seed), settings=LOOK)
    found = json.loads((looked / "inspect.json").read_text())
    return [Effect(variant, seed, *line) for line in lines(found)]


def lines(found: dict) -> list[tuple[str, float, int]]:
    """Pick the measures of an inspection: (measure, value, count)."""
    kept = []
    for level, quality in found["levels"].items():
        kept.append((f"match/{level}", quality["match"]["mean"], quality["match"]["n"]))
        if first := quality["goal_first"]:
            kept.append((f"goal_first/{level}", first["mean"], first["n"]))
    for name, (some, _) in found["levels"]["rephrase"]["violations"].items():
        kept.append((f"{name}/rephrase", some["mean"], some["n"]))
    for prompt, slots in found["explanation"].items():
        kept.append((f"explanation/{prompt}", slots["all"]["mean"], slots["all"]["n"]))
    return kept


def main() -> None:
    """Measure all variants and seeds that are asked for, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="dataset of real rollouts")
    parser.add_argument("--out", type=Path, required=True, help="folder for models and inspections")
    parser.add_argument("--csv", type=Path, required=True, help="table to write")
    parser.add_argument("--backbone", default="minilm", help="language model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    asked = parser.parse_args()
    table = []
    for seed in asked.seeds:
        for variant in asked.only:
            table += measured(variant, seed, asked.data, asked.out, asked.backbone)
            write_effects(asked.csv, table)


if __name__ == "__main__":
    main()
