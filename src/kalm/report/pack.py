"""Packing: a grounded model or a policy as a few small files to hand on, with a card that says what it is.

A grounded model has to have been tuned with adapters, or not at all: its backbone is then had by name, and
what it learnt, in bfloat16, is a few MB. The networks of transitions and actions stay in float32: in bfloat16
a position is only known to millimetres.
"""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from kalm.errors import KalmError
from kalm.evaluation.results import label_of, read_rows
from kalm.lm.settings import GroundConfig
from kalm.pretrained.shipped import CARD
from kalm.registry import FACTS
from kalm.report.scores import scores
from kalm.rl.policy import WEIGHTS
from kalm.runs.folder import GROUNDED, INSPECTED, JOB, MODEL, PolicyJob, inside
from kalm.runs.io import atomic_folder, file_sha256, read_json, versions, write_json
from kalm.runs.metrics import read_metrics
from kalm.types import JsonObject

LICENCE = "Apache-2.0"


def pack_model(place: Path, out: Path, inspection: Path | None = None) -> JsonObject:
    """Pack a grounded model, and return its card.

    Args:
        place: its folder, or that of the stage or run that made it.
        out: folder to write.
        inspection: what `kalm inspect` wrote of it: match rates, explanations.

    Raises:
        KalmError: no grounded model there, or one whose body was tuned as a whole.
    """
    from kalm.lm.model import load_model

    model = load_model(inside(place, MODEL))
    origin = model.backbone.origin
    if origin.stored:
        raise KalmError(
            f"all weights of the body of {place} were tuned: packed it would hold the whole language model. "
            "Ground with ground.tuning=lora or frozen, or hand on the folder as it is."
        )
    stage = inside(place, MODEL).parent
    made = read_json(stage / "done.json", "grounding")
    last: dict[str, float] = {}
    for row in read_metrics(stage):
        last |= row
    found = {} if inspection is None else read_json(inspection / INSPECTED, "inspection")
    card = {
        "kind": "grounded model",
        "environment": model.spec.name,
        "backbone": origin.name,
        "backbone_digest": origin.digest,
        "data": made["result"],
        "steps": int(last["step"]),
        "losses": {name: value for name, value in last.items() if name.startswith("held_out/")},
        "match": {level: shown["match"] for level, shown in found.get("levels", {}).items()},
        "goal_first": {level: shown["goal_first"] for level, shown in found.get("levels", {}).items()},
        "explanations": {name: slots["all"] for name, slots in found.get("explanation", {}).items()},
        "splits": found.get("splits", []),
        "licence": f"{LICENCE}; of the backbone: its own",
        "command": _command(made["made_from"]),
    }
    with atomic_folder(out) as folder:
        model.save(folder, half=True)
        return _carded(folder, {"name": out.name, **card})


def pack_policy(place: Path, out: Path, rows: Path | None = None) -> JsonObject:
    """Pack a policy, and return its card.

    Args:
        place: its folder.
        out: folder to write.
        rows: episodes of it and others, as `kalm evaluate` writes them.

    Raises:
        KalmError: no policy of networks there.
    """
    facts, job = read_json(place / FACTS, "policy"), PolicyJob.from_json(read_json(place / JOB, "policy"))
    if not (place / WEIGHTS).exists():
        raise KalmError(f"{place} holds no {WEIGHTS}: only policies that are networks can be packed.")
    mine = [row for row in read_rows(rows) if row.seed == job.seed] if rows else []
    card = {
        "kind": "policy",
        "environment": facts["world"]["name"],
        "policy": job.policy,
        "seed": job.seed,
        "encoder": facts["encoder"]["name"],
        "steps": facts["provenance"]["steps"],
        "success": {
            score.policy: {level: rate.to_json() for level, rate in score.rates.items()}
            for score in scores(mine)
            if score.policy in (label_of(job).policy, label_of(job, reading="reader").policy)
        },
        "licence": LICENCE,
        "settings": facts["provenance"]["made_from"]["settings"],
    }
    with atomic_folder(out) as folder:
        for name in (FACTS, WEIGHTS, JOB):
            shutil.copyfile(place / name, folder / name)
        return _carded(folder, {"name": out.name, **card})


def _carded(folder: Path, card: JsonObject) -> JsonObject:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    whole = {
        **card,
        "versions": versions(),
        "files": {
            str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in files
        },
    }
    write_json(folder / CARD, whole)
    return whole


def _command(made_from: JsonObject) -> str:
    """Return the command that grounds with these settings."""
    usual, asked = GroundConfig().model_dump(), made_from["ground"]
    changed = [f"ground.{path}={value}" for path, value in _differences(usual, asked)]
    options = [part for setting in changed for part in ("--set", setting)]
    fixed = ["--env", made_from["env"], "--seed", str(made_from["seed"]), "--data", "REAL", "--out", GROUNDED]
    return shlex.join(["kalm", "ground", *fixed, *options])


def _differences(usual: JsonObject, asked: JsonObject, prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in asked.items():
        if isinstance(value, dict):
            found += _differences(usual[name], value, f"{prefix}{name}.")
        elif usual.get(name) != value:
            found.append((f"{prefix}{name}", value))
    return found
