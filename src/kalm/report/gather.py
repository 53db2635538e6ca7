"""Run folder to `ReportData`: reads what the stages left, measures imagined rollouts, plays for filmstrips.

Everything is optional: a stage that has not run leaves its part empty, and the page says so.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kalm import envs, registry
from kalm.data import storage
from kalm.data.rollouts import RolloutSet
from kalm.envs.base import World
from kalm.evaluation.effects import read_effects
from kalm.evaluation.episodes import play
from kalm.evaluation.grounding import Inspection
from kalm.evaluation.imagined import quality
from kalm.evaluation.results import Episode, label_of, read_rows
from kalm.report.figures import Curve
from kalm.report.films import Filmstrip, film
from kalm.report.loop import Round
from kalm.report.page import ReportData
from kalm.runs.folder import (
    COLLECTED,
    EVALUATION,
    EVALUATIONS,
    GROUNDED,
    IMAGINED,
    INSPECTED,
    INSPECTION,
    POLICIES,
    REAL,
    ROUNDS,
    ROWS,
    SETTINGS,
    SHUFFLED,
    STAGES,
    PolicyJob,
    trained_policies,
)
from kalm.runs.io import read_json
from kalm.runs.metrics import read_metrics
from kalm.types import NOVEL_LEVELS, JsonObject


def gather_run(run: Path, world: World, filmstrips: int, effects: Path | None = None) -> ReportData:
    """Collect all that a run folder holds.

    Args:
        run: its folder.
        world: the environment of the run.
        filmstrips: imagined rollouts to draw, each above what a policy does.
        effects: table of effects (CSV), or None.

    Raises:
        KalmError: no run there, or a file in it is damaged.
    """
    about = read_json(run / SETTINGS, "run")
    settings = about["settings"]
    real = _rollouts(run / REAL)
    imagined = _rollouts(run / IMAGINED)
    jobs = trained_policies(run / POLICIES)
    return ReportData(
        title=f"KALM on {settings['env']}",
        published=envs.published(settings["env"]),
        rows=_rows(run / EVALUATION / ROWS),
        imagined=quality(imagined, world) if imagined else {},
        refined=_result(run / IMAGINED),
        shuffled=_result(run / SHUFFLED),
        real=quality(real, world) if real else {},
        grounding=read_metrics(run / GROUNDED),
        inspection=_inspection(run / INSPECTION / INSPECTED),
        effects=read_effects(effects) if effects else (),
        training=[Curve(label_of(job), read_metrics(place)) for job, place in jobs],
        evaluations=[row for _, place in jobs for row in _rows(place / EVALUATIONS)],
        rounds=_rounds(run),
        sweep="sweep" in about,
        filmstrips=_filmstrips(world, imagined, jobs, filmstrips),
        config=settings,
        versions=about["versions"],
        timings=_timings(run),
        commands=about.get("commands")
        or [about["command"] or shlex.join(["kalm", "run", "--out", str(run)])],
    )


def _rows(file: Path) -> list[Episode]:
    return read_rows(file) if file.exists() else []


def _rollouts(folder: Path) -> RolloutSet | None:
    return storage.read(folder) if storage.sealed(folder) else None


def _result(stage: Path) -> JsonObject:
    """Return the figures of a stage that is done."""
    marker = stage / "done.json"
    return read_json(marker, "stage marker")["result"] if marker.exists() else {}


def _rounds(run: Path) -> list[Round]:
    """Return the run itself and the rounds after it that have been played; none without rounds."""
    later = []
    while (place := run / ROUNDS / str(len(later) + 1) / EVALUATION / ROWS).exists():
        later.append(Round(read_rows(place), _result(place.parents[1] / COLLECTED)))
    return [Round(_rows(run / EVALUATION / ROWS)), *later] if later else []


def _inspection(file: Path) -> Inspection | None:
    return Inspection.from_json(read_json(file, "inspection")) if file.exists() else None


def _timings(run: Path) -> dict[str, float]:
    markers = {name: run / folder / "done.json" for name, folder in STAGES.items()}
    return {
        name: float(read_json(marker, "stage marker")["seconds"])
        for name, marker in markers.items()
        if marker.exists()
    }


def _filmstrips(
    world: World, imagined: RolloutSet | None, jobs: Sequence[tuple[PolicyJob, Path]], count: int
) -> list[Filmstrip]:
    """Draw imagined rollouts, level by level, each above what a +KALM policy does.

    Both begin in the same state where the world can be put into one.
    """
    mine = [place for job, place in jobs if job.data == "kalm"]
    if imagined is None or not mine or count == 0:
        return []
    policy = registry.load_policy(mine[0])
    strips = []
    for row in _chosen(imagined, count):
        dream = imagined[int(row)]
        same = tuple(dream.states[0].tolist()) if world.restorable else None
        start = replace(dream.instruction, state=same)
        # At most as many frames as fit beside each other; the policy may take its time.
        played = play(policy, world, [start], [0])[0]
        films = (film(world, dream, "imagined"), film(world, played, "policy in the simulator"))
        strips.append(Filmstrip(dream.instruction.text, dream.instruction.level, films))
    return strips


def _chosen(imagined: RolloutSet, count: int) -> np.ndarray:
    """Pick rollouts evenly over levels and, within a level, over the file, goal reached or not."""
    rows = [np.flatnonzero(imagined.levels == level) for level in NOVEL_LEVELS]
    rows = [found for found in rows if len(found)]
    shares = [len(part) for part in np.array_split(np.arange(count), max(1, len(rows)))]
    picked = [
        found[np.linspace(0, len(found) - 1, share + 2).astype(int)[1:-1]]
        for found, share in zip(rows, shares, strict=False)
    ]
    return np.concatenate([*picked, np.zeros(0, int)]).astype(int)
