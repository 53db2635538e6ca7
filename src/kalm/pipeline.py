"""The stages in order, each from folders to a folder: collect, ground, imagine, train, evaluate, report.

One run is one folder::

    config.json            resolved settings, command, versions
    real/                  collected rollouts
    grounded/              metrics, checkpoint/ while training, model/ at the end
    imagined/              imagined rollouts
    policies/NAME/         one policy: metrics, weights
    evaluation/rows.csv    one row per episode
    report/                report.html, report.md, figures

Every stage leaves a marker (``done.json``) that says what it was made from: settings of its own section and
the marker of the stages before. A stage whose marker still fits is skipped, one that was stopped goes on, all
others start anew.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kalm import envs
from kalm.config import Config
from kalm.errors import KalmError
from kalm.goals.suites import read_goals
from kalm.progress import track
from kalm.runs import (
    EVALUATION,
    GROUNDED,
    IMAGINED,
    JOB,
    POLICIES,
    REAL,
    REPORT,
    ROWS,
    SETTINGS,
    Job,
    Stage,
    derive_seed,
    file_sha256,
    read_json,
    trained,
    versions,
    write_json,
)
from kalm.types import LEVELS, NOVEL_LEVELS

if TYPE_CHECKING:
    from kalm.envs.base import World
    from kalm.evaluation.results import Episode

ENCODINGS = "encodings"
# Files that tell one input folder from another.
CONTENTS = ("dataset.json", "grounded.json", "modules.safetensors", JOB, "done.json")


def claim(folder: Path, config: Config, command: str, resume: bool = False, overwrite: bool = False) -> None:
    """Make a run folder, or enter the one that an earlier call of the same run left.

    Raises:
        KalmError: the folder holds another run (unless `resume` or `overwrite`), or no run at all.
    """
    settings = config.model_dump(mode="json")
    if folder.exists() and any(folder.iterdir()):
        if not (folder / SETTINGS).exists():
            raise KalmError(f"{folder} is not empty and holds no run. Give another --out.")
        if overwrite:
            shutil.rmtree(folder)
        elif not resume and read_json(folder / SETTINGS, "run")["settings"] != settings:
            raise KalmError(
                f"{folder} holds a run with other settings. Give another --out, or --resume to continue it "
                "with these settings (stages that they change start anew), or --overwrite to delete it first."
            )
    write_json(folder / SETTINGS, {"settings": settings, "command": command, "versions": versions()})


def run(config: Config, folder: Path, command: str = "") -> dict[str, Any]:
    """Do all stages that are not done yet; return the summary of the report."""
    device(config.device)  # an hour of collecting must not end with a word about the device
    collected = _stage(
        folder / REAL, _only(config, "collect"), lambda: collect(config, folder / REAL, command)
    )
    grounded = _stage(
        folder / GROUNDED,
        {**_only(config, "ground"), "data": collected},
        lambda: ground(config, folder / REAL, folder / GROUNDED),
    )
    imagined = _stage(
        folder / IMAGINED,
        {**_only(config, "imagine"), "model": grounded},
        lambda: imagine(config, folder / GROUNDED / "model", folder / IMAGINED, command=command),
    )
    trained = _stage(
        folder / POLICIES,
        {**_only(config, "train"), "real": collected, "imagined": imagined},
        lambda: train(config, folder / REAL, folder / IMAGINED, folder / POLICIES),
    )
    evaluated = _stage(
        folder / EVALUATION,
        {**_only(config, "evaluate"), "policies": trained},
        lambda: evaluate(config, folder / POLICIES, folder / EVALUATION),
    )
    _stage(
        folder / REPORT,
        {**_only(config, "report"), "evaluation": evaluated},
        lambda: report(folder, folder / REPORT),
    )
    return read_json(folder / REPORT / "done.json", "report")["result"]


def collect(config: Config, folder: Path, command: str = "") -> dict[str, Any]:
    """Collect real rollouts into a dataset folder."""
    from kalm.data.collect import collect as collect_rollouts

    world = envs.make(config.env)
    with track("collect", config.collect.rollouts) as advance:
        rollouts = collect_rollouts(
            world, config.collect, config.seed, folder, config.workers, advance, command
        )
    return {"rollouts": len(rollouts), "transitions": rollouts.transitions}


def ground(config: Config, data: Path, folder: Path) -> dict[str, Any]:
    """Ground the language model in a dataset; the model comes to ``folder/model``."""
    from kalm.data import store
    from kalm.lm import sft

    rollouts = store.read(data)
    world = _world_of(rollouts.spec.name, config)
    model = sft.fresh(config.ground, world, config.seed, device(config.device))
    sft.train(model, rollouts, world, config.ground, config.seed, folder, partial(track, "ground"))
    return {"rollouts": len(rollouts)}


def imagine(
    config: Config,
    model: Path,
    folder: Path,
    goals: Path | None = None,
    levels: Sequence[str] | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Imagine rollouts for the levels' suites, or for a goal file, into a dataset folder."""
    from kalm.lm import grounded
    from kalm.lm.imagine import imagine_dataset, plan, repeated

    lm = grounded.load(model, device(config.device))
    world = _world_of(lm.spec.name, config)
    if goals is not None:
        rows = repeated(read_goals(goals, world.parse_goal, world.spec.state_size), config.imagine)
    else:
        rows = [i for i in plan(world, config.imagine) if levels is None or i.level in levels]
    provenance = {
        "made_by": "imagine",
        "command": command,
        "world": config.env,
        "settings": config.imagine.model_dump(mode="json"),
        "seed": config.seed,
    }
    with track("imagine", len(rows)) as advance:
        rollouts = imagine_dataset(lm, world, rows, config.imagine, config.seed, folder, provenance, advance)
    return {"rollouts": len(rollouts), "match_rate": float(rollouts.success.mean())}


def jobs(config: Config, imagined: bool = True) -> list[Job]:
    """Return the policies asked for, cheapest information first: all of one seed, then the next."""
    per_level: tuple[str | None, ...] = NOVEL_LEVELS if config.train.per_level else (None,)
    return [
        Job(algorithm, kalm, seed, level)
        for seed in config.train.seeds
        for algorithm in config.train.algorithms
        for kalm in ((False, True) if imagined else (False,))
        for level in (per_level if kalm else (None,))
    ]


def train(config: Config, real: Path, imagined: Path | None, folder: Path) -> dict[str, Any]:
    """Train every policy of `jobs`, several at a time; finished ones are kept."""
    from kalm.rl.algorithms import require

    world = envs.make(config.env)
    for algorithm in config.train.algorithms:
        require(algorithm, world.spec)
    todo = jobs(config, imagined is not None)
    with track("train", len(todo)) as advance:
        for job in todo:
            if _finished(folder / job.name):
                advance(resumed=True)
        for job in _train_all(
            config, [j for j in todo if not _finished(folder / j.name)], real, imagined, folder
        ):
            advance(policy=job.name)
    return {"policies": [job.name for job in todo]}


def _train_all(
    config: Config, todo: Sequence[Job], real: Path, imagined: Path | None, folder: Path
) -> Iterator[Job]:
    """Train these policies in `config.workers` processes of one thread each, and yield each when it is done.

    The networks are small: two processes of one thread are far faster than one process of two.
    """
    _encode_goals(config, real, imagined, folder)
    with ProcessPoolExecutor(config.workers, get_context("spawn")) as pool:
        running = {pool.submit(_train_one, config, job, real, imagined, folder): job for job in todo}
        for future in as_completed(running):
            future.result()
            yield running[future]


def _train_one(config: Config, job: Job, real: Path, imagined: Path | None, folder: Path) -> None:
    from kalm.data import store
    from kalm.rl.encoder import GoalEncoder
    from kalm.rl.train import fit, select

    where = device(config.device)
    dreams = store.read(imagined) if job.kalm and imagined is not None else None
    data, dreams = select(store.read(real), dreams, config.train, job.seed, job.level)
    encoder = GoalEncoder(config.train.encoder, where, folder / ENCODINGS)
    fit(data.spec, data, dreams, job.algorithm, job.seed, config.train, encoder, folder / job.name, where)
    write_json(folder / job.name / JOB, asdict(job))


def _encode_goals(config: Config, real: Path, imagined: Path | None, folder: Path) -> None:
    """Encode all sentences once, before several processes ask for them."""
    from kalm.data import store
    from kalm.rl.encoder import GoalEncoder

    encoder = GoalEncoder(config.train.encoder, device(config.device), folder / ENCODINGS)
    for data in (real, imagined):
        if data is not None:
            encoder.encode([instruction.text for instruction in store.read(data).instructions])


def _finished(folder: Path) -> bool:
    return (folder / JOB).exists()


def evaluate(
    config: Config,
    policies: Path,
    folder: Path,
    goals: Path | None = None,
    levels: Sequence[str] = LEVELS,
) -> dict[str, Any]:
    """Play every policy of a folder, or the one policy that it is, and write one row per episode.

    Raises:
        KalmError: no policy in the folder, unknown level, or a malformed goal file.
    """
    from kalm.evaluation.episodes import evaluate as play
    from kalm.evaluation.episodes import sample_episodes
    from kalm.evaluation.results import Label, write_rows
    from kalm.rl.encoder import GoalEncoder
    from kalm.rl.policy import load_policy

    world = envs.make(config.env)
    if goals is None:
        suite = [instruction for level in levels for instruction in world.suite(level)]
    else:
        suite = list(read_goals(goals, world.parse_goal, world.spec.state_size))
    found = trained(policies)
    if not found:
        raise KalmError(f"no trained policy in {policies}. Train one with: kalm train --help.")
    # A run's encodings are shared; beside a policy from elsewhere nothing is written.
    cache = policies if (policies / ENCODINGS).exists() else folder
    encoder = GoalEncoder(config.train.encoder, device(config.device), cache / ENCODINGS)
    rows = []
    with track("evaluate", len(found)) as advance:
        for job, place in found:
            mine = [i for i in suite if job.level in (None, i.level)]
            policy = load_policy(place, device(config.device), encoder)
            chosen, seeds = sample_episodes(
                mine, config.evaluate.episodes, derive_seed(config.seed, job.seed)
            )
            label = Label(job.policy, job.algorithm, job.kalm, job.seed)
            horizon = config.evaluate.horizon
            rows += play(policy, world, chosen, seeds, horizon, config.workers, label)
            advance(policy=job.name)
    write_rows(folder / ROWS, rows)
    return {"rows": len(rows), "success": sum(row.success for row in rows) / len(rows)}


def report(run: Path, folder: Path) -> dict[str, Any]:
    """Write the report of a run folder; return its figures."""
    from kalm.report.gather import gather
    from kalm.report.page import write_report

    data = gather(run)
    write_report(folder, data)
    return summary(data.rows)


def results(folder: Path) -> dict[str, Any]:
    """Return the figures of an evaluation folder."""
    from kalm.evaluation.results import read_rows

    return summary(read_rows(folder / ROWS))


def summary(rows: Sequence[Episode]) -> dict[str, Any]:
    """Return success with intervals, per policy and level, JSON-ready."""
    from kalm.report import scores

    return scores.to_json(scores.scores(rows))


def alone(
    folder: Path,
    section: str,
    config: Config,
    inputs: Mapping[str, object],
    overwrite: bool,
    work: Callable[[], Mapping[str, Any]],
) -> dict[str, Any]:
    """Do one stage outside a run; what a stopped call with the same inputs left is continued.

    Args:
        folder: for the result.
        section: name of the stage's settings.
        config: settings.
        inputs: what else the result depends on: folders, files, choices.
        overwrite: delete what the folder holds first.
        work: does it and returns figures.

    Raises:
        KalmError: the folder holds something else.
    """
    made_from = {**_only(config, section), **{name: _trace(value) for name, value in inputs.items()}}
    stage = Stage(folder, made_from)
    if folder.exists() and any(folder.iterdir()):
        if not stage.started.exists():
            raise KalmError(f"{folder} is not empty and was not made by kalm {section}. Give another --out.")
        if overwrite:
            shutil.rmtree(folder)
        elif not stage.begun():
            raise KalmError(
                f"{folder} holds the result of other settings or inputs. Give another --out, or --overwrite "
                "to delete it first."
            )
    _stage(folder, made_from, work)
    return read_json(stage.marker, "stage marker")["result"]


def _trace(value: object) -> object:
    """Return what stands for an input: place and content of files and folders, else the value itself."""
    if not isinstance(value, Path):
        return value
    contents = [value] if value.is_file() else [value / name for name in CONTENTS]
    return [str(value.resolve()), *(file_sha256(path) for path in contents if path.is_file())]


def device(name: str) -> str:
    """Return the torch device of a name; ``auto`` is the first GPU or the CPU.

    Raises:
        KalmError: no such device here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise KalmError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]} Known here: cpu, auto."
        ) from None
    return name


def _world_of(name: str, config: Config) -> World:
    """Return the world that data or a model came from; the settings must not speak of another."""
    if name != config.env:
        raise KalmError(
            f"the input belongs to world {name!r}, the settings to {config.env!r}. Use --env {name}."
        )
    return envs.make(name)


def _only(config: Config, section: str) -> dict[str, Any]:
    """Return what a stage's result depends on besides its inputs."""
    settings = config.model_dump(mode="json")
    return {"env": config.env, "seed": config.seed, section: settings[section]}


def _stage(folder: Path, made_from: Mapping[str, Any], work: Callable[[], Mapping[str, Any]]) -> str:
    """Do a stage unless its marker says that it is done; return its key."""
    stage = Stage(folder, made_from)
    if not stage.done():
        stage.begin()
        began = time.monotonic()
        stage.finish(work(), time.monotonic() - began)
    return stage.key
