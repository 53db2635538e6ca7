"""The stages in order, each from folders to a folder: collect, ground, imagine, train, evaluate, report.

One run is one folder::

    config.json            resolved settings, command, versions
    real/                  collected rollouts
    grounded/              metrics, checkpoint.safetensors while training, model/ at the end
    inspection/            inspect.json: what the model can do; the rollouts and texts it was measured on
    imagined/              imagined rollouts; where they are refined, with raw/ and the models in dynamics/
    policies/NAME/         one policy: metrics, weights
    evaluation/rows.csv    one row per episode
    report/                report.html, report.md, figures

What is done already is skipped (`kalm.run.folder`). Started as several processes, all of
them ground and imagine together; the main one does the other stages while the others wait.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kalm import envs, session
from kalm.config import Config
from kalm.data.goal_files import read_goals
from kalm.errors import KalmError
from kalm.policies import Inputs, evaluate, instructions, made_from, require_learners, train
from kalm.run import processes
from kalm.run.folder import (
    DYNAMICS,
    EVALUATION,
    GROUNDED,
    IMAGINED,
    INSPECTED,
    INSPECTION,
    POLICIES,
    RAW,
    REAL,
    REFINED,
    ROWS,
    stage,
)
from kalm.run.io import atomic_write, write_json
from kalm.run.progress import track
from kalm.session import device, only, world_of
from kalm.types import LEVELS

if TYPE_CHECKING:
    import numpy as np

    from kalm.data.rollouts import RolloutSet
    from kalm.dynamics.models import Models
    from kalm.envs.base import World
    from kalm.evaluation.results import Episode

ENCODINGS = "encodings"


@dataclass(frozen=True)
class Keys:
    """Keys of the stages of a round: what the stages after it are made from."""

    real: str
    grounded: str
    imagined: str
    policies: str
    evaluation: str
    inspection: str


def run(config: Config, folder: Path, command: str = "") -> Keys:
    """Do all stages before the report that are not done yet."""
    # An hour of collecting must not end with a word about a name.
    device(config.device)
    require_learners(config, None, comes=True)
    model = folder / GROUNDED / "model"
    collected = stage(folder / REAL, only(config, "collect"), lambda: collect(config, folder / REAL, command))
    grounded = stage(
        folder / GROUNDED,
        {**only(config, "ground"), "data": collected},
        lambda: ground(config, folder / REAL, folder / GROUNDED),
        together=True,
    )
    inspected = stage(
        folder / INSPECTION,
        {**only(config, "inspect"), **only(config, "imagine"), "model": grounded},
        lambda: inspect(config, model, folder / INSPECTION, command=command),
    )
    imagined = stage(
        folder / IMAGINED,
        {**only(config, "imagine"), **refining(config), "model": grounded},
        lambda: imagine(config, model, folder / IMAGINED, real=folder / REAL, command=command),
        together=True,
    )
    inputs = Inputs(folder / REAL, folder / IMAGINED, model)
    trained = stage(
        folder / POLICIES,
        {**made_from(config), "real": collected, "imagined": imagined},
        lambda: train(config, inputs, folder / POLICIES),
    )
    evaluated = stage(
        folder / EVALUATION,
        {**only(config, "evaluate"), "policies": trained},
        lambda: evaluate(config, folder / POLICIES, folder / EVALUATION),
    )
    return Keys(collected, grounded, imagined, trained, evaluated, inspected)


def collect(config: Config, folder: Path, command: str = "") -> dict[str, Any]:
    """Collect real rollouts into a dataset folder."""
    from kalm.data.collect import collect_rollouts
    from kalm.data.storage import read_manifest

    world = envs.make(config.env)
    with track("collect", config.collect.rollouts) as advance:
        rollouts = collect_rollouts(
            world, config.collect, config.seed, folder, config.workers, advance, command
        )
    made = read_manifest(folder)[0]["provenance"]
    told = {name: made[name] for name in ("episodes", "success_rate", "success_by_kind")}
    return {"rollouts": len(rollouts), "transitions": rollouts.transitions, **told}


def ground(config: Config, data: Path, folder: Path, start: Path | None = None) -> dict[str, Any]:
    """Ground the language model in a dataset; the model comes to ``folder/model``.

    With `start`, the folder of a grounded model of the same settings, grounding goes on from its weights.
    """
    from kalm.data import storage
    from kalm.lm import sft
    from kalm.lm.model import load_model

    rollouts = storage.read(data)
    world = world_of(rollouts.spec.name, config)
    model = sft.fresh(config.ground, world, config.seed, device(config.device))
    if start is not None:
        model.load_state_dict(load_model(start, device(config.device)).state_dict())
    conditions = config.imagine.conditions
    sft.finetune(model, rollouts, world, config.ground, config.seed, folder, track, conditions)
    return {"rollouts": len(rollouts)}


def budget(config: Config, data: Path, count: int) -> dict[str, Any]:
    """Return what `ground` would cost, from settings, tokenizer and data alone (`kalm ground --dry-run`)."""
    from kalm.data import storage
    from kalm.lm.budget import estimate

    rollouts = storage.read(data)
    world = world_of(rollouts.spec.name, config)
    return estimate(config.ground, rollouts, world, config.seed, device(config.device), count)


def imagine(
    config: Config,
    model: Path,
    folder: Path,
    goals: Path | None = None,
    levels: Sequence[str] | None = None,
    real: Path | None = None,
    actor: Path | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Imagine rollouts for the levels' suites, or for a goal file, into a dataset folder.

    Where the settings refine them, the folder gets the refined ones and ``raw/`` all that were decoded. Match
    rates are those of the first sample of each.

    Args:
        config: settings.
        model: folder of the grounded model.
        folder: for the result.
        goals: goal file instead of the suites.
        levels: which suites; None: as many as the settings ask for.
        real: real rollouts, from which models of the dynamics are fitted if the settings need any.
        actor: folder of a second grounded model that chooses the actions; None: `model` does.
        command: noted with the rollouts.

    Raises:
        KalmError: models of the dynamics are needed and `real` is missing, or what the stages raise.
    """
    from kalm.lm.imagine import imagine_dataset, origins, plan, repeated
    from kalm.lm.model import load_model

    lm = load_model(model, device(config.device))
    world = world_of(lm.spec.name, config)
    if goals is not None:
        rows = repeated(read_goals(goals, world.parse_goal, world.spec.state_size), config.imagine)
    else:
        rows = [i for i in plan(world, config.imagine) if levels is None or i.level in levels]
    doer = load_model(actor, device(config.device)) if actor else None
    models = _fit_dynamics(config, real, folder / DYNAMICS)
    provenance = {
        "made_by": "imagine",
        "command": command,
        "world": config.env,
        "settings": config.imagine.model_dump(mode="json"),
        "seed": config.seed,
    }
    place = folder / RAW if config.imagine.refined else folder
    with track("imagine", len(rows)) as advance:
        rollouts = imagine_dataset(
            lm, world, rows, config.imagine, config.seed, place, provenance, doer, advance
        )
    result = {"rollouts": len(rollouts), "match_rate": float(rollouts.success.mean())}
    if not config.imagine.refined or not processes.main():
        return result
    origin, sample = origins(place)
    first = rollouts.take(sample == 0)
    result["match_rate"] = float(first.success.mean())
    return {**result, **_refine(config, rollouts, first, origin, world, models, folder, provenance)}


def _fit_dynamics(config: Config, real: Path | None, folder: Path) -> Models | None:
    """Fit what the refinement needs from real rollouts, in the main process; None where it needs nothing."""
    if not config.imagine.refined or not processes.main():
        return None
    from kalm.data import storage
    from kalm.dynamics.models import Models, fitted, needed

    kinds = needed(config.imagine.refine, config.dynamics, config.imagine.samples)
    if not kinds:
        return Models()
    if real is None:
        raise KalmError(
            "imagine.samples, refine.relabel and refine.plausibility need models of the dynamics "
            f"({', '.join(kinds)}), fitted on real rollouts. Give --real FOLDER. With dynamics.members=0 "
            "there are no forward ones."
        )
    rollouts = storage.read(real)
    world_of(rollouts.spec.name, config)
    return fitted(folder, rollouts, config.dynamics, kinds, config.seed, device(config.device), track)


def _refine(
    config: Config,
    raw: RolloutSet,
    first: RolloutSet,
    origin: np.ndarray,
    world: World,
    models: Models | None,
    folder: Path,
    provenance: Mapping[str, Any],
) -> dict[str, Any]:
    """Write the refined rollouts beside the raw ones; return what was done and the quality of both.

    Raw quality is that of the `first` sample of each row: the rows that failed have more samples.
    """
    from kalm.data import storage
    from kalm.data.validation import require_valid
    from kalm.dynamics.filter import refine
    from kalm.evaluation.imagined import quality

    assert models is not None
    refined = refine(raw, origin, world, config.imagine.refine, models, config.imagine.samples)
    require_valid(refined.rollouts)
    facts = {**refined.facts, "models": models.to_json()}
    storage.write(refined.rollouts, folder, {**provenance, "refined": facts})
    session = zip(REFINED, (first, refined.chosen, refined.rollouts), strict=True)
    found = {name: quality(rollouts, world) for name, rollouts in session}
    return {
        "refined": facts,
        **{name: {level: part.to_json() for level, part in of.items()} for name, of in found.items()},
    }


def imagine_inputs(
    config: Config,
    model: Path,
    goals: Path | None,
    levels: Sequence[str] | None,
    real: Path | None,
    actor: Path | None,
) -> dict[str, object]:
    """Return what imagined rollouts depend on besides the settings of their own section (for `alone`)."""
    inputs = {"model": model, "actor": actor, "goals": goals, "levels": levels, "real": real}
    return {**inputs, **refining(config)}


def inspect(
    config: Config,
    model: Path,
    folder: Path | None,
    goals: Path | None = None,
    levels: Sequence[str] = LEVELS,
    data: Path | None = None,
    command: str = "",
) -> dict[str, Any]:
    """Measure what a grounded model can do, on goals of the levels' suites or of a goal file.

    Args:
        config: settings; how to imagine is those of `imagine`.
        model: folder of the model, or of the stage or run that made it.
        folder: gets ``inspect.json``, ``rollouts/`` and ``explanations.jsonl``; None: nothing is written.
        goals: goal file instead of the suites.
        levels: which suites.
        data: real rollouts that the model has not learnt from; None: fresh ones of the expert.
        command: noted with the rollouts.

    Returns:
        The `Inspection`, JSON-ready.
    """
    from kalm.data import storage
    from kalm.evaluation import grounding
    from kalm.lm.model import load_model

    lm = load_model(session.model_folder(model), device(config.device))
    world = world_of(lm.spec.name, config)
    chosen = instructions(world, goals, levels)
    if data is not None:
        real = storage.read(data)
        world_of(real.spec.name, config)
    else:
        real = grounding.fresh_rollouts(world, config.inspect, config.collect, config.seed)
    with track("inspect", grounding.needed(chosen, config.inspect)) as advance:
        found, evidence = grounding.inspect(
            lm, world, chosen, real, config.inspect, config.imagine, config.seed, config.workers, advance
        )
    if folder is not None:
        provenance = {"made_by": "inspect", "command": command, "world": config.env, "seed": config.seed}
        storage.write(evidence.imagined, folder / "rollouts", provenance)
        with atomic_write(folder / "explanations.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in evidence.lines()))
        write_json(folder / INSPECTED, found.to_json())
    return found.to_json()


def inspect_inputs(
    config: Config, model: Path, goals: Path | None, levels: Sequence[str] | None, data: Path | None
) -> dict[str, object]:
    """Return what an inspection depends on besides the settings of its own section (for `alone`)."""
    settings = {**only(config, "imagine"), **only(config, "collect")}
    return {"model": session.model_folder(model), "goals": goals, "levels": levels, "data": data, **settings}


def report(run: Path, folder: Path, effects: Path | None = None) -> dict[str, Any]:
    """Write the report of a run folder, with a table of effects (CSV) if one is given; return its figures."""
    from kalm.report.gather import gather
    from kalm.report.page import write_report

    data = gather(run, effects)
    write_report(folder, data)
    return summary(data.rows, data.world)


def results(folder: Path, world: str) -> dict[str, Any]:
    """Return the figures of an evaluation folder."""
    from kalm.evaluation.results import read_rows

    return summary(read_rows(folder / ROWS), world)


def summary(rows: Sequence[Episode], world: str) -> dict[str, Any]:
    """Return success with intervals, per policy and level, JSON-ready."""
    from kalm.report import scores

    return scores.to_json(scores.scores(rows, world))


def refining(config: Config) -> dict[str, Any]:
    """Return the settings of the models of the dynamics, where imagined rollouts depend on them."""
    return {"dynamics": config.dynamics.model_dump(mode="json")} if config.imagine.refined else {}
