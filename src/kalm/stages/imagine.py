"""The stage `imagine`: the grounded model invents rollouts for goals that the data never had.

Where the settings refine them, the folder gets the refined ones, ``raw/`` all that were decoded and
``dynamics/`` the models that judged them.

A control (`imagine.control`) is imagined and refined in the same way, with sentences permuted among goals.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kalm.errors import KalmError
from kalm.runs import processes
from kalm.runs.folder import DYNAMICS, MODEL, RAW, REAL, REFINED
from kalm.runs.progress import track
from kalm.stages.base import Figures, StageSpec, settings_section
from kalm.stages.evaluate import Goals, instructions
from kalm.stages.reading import plans_for
from kalm.types import LEVELS

if TYPE_CHECKING:
    import numpy as np

    from kalm.config import Config
    from kalm.data.rollouts import RolloutSet
    from kalm.dynamics.models import Models
    from kalm.lm.model import GroundedLM
    from kalm.lm.settings import ImagineConfig
    from kalm.session import Session
    from kalm.types import Instruction

MEASURED = 64  # sentences by which the drift of merged adapters is measured


@dataclass(frozen=True)
class ImagineInputs:
    """What rollouts are imagined from.

    Attributes:
        model: folder of the grounded model.
        real: real rollouts, from which models of the dynamics are fitted if the settings need any.
        goals: goal file, or instructions, instead of the levels' suites.
        levels: which suites; None: as many instructions of each as the settings ask for.
        actor: folder of a second grounded model that chooses the actions; None: `model` does.
        dynamics: folder of models of the dynamics, which gets those that it lacks; None: ``dynamics/`` in
            that of the result. The models are the same wherever they are.
    """

    model: Path
    real: Path | RolloutSet | None = None
    goals: Goals | None = None
    levels: tuple[str, ...] | None = None
    actor: Path | None = None
    dynamics: Path | None = field(default=None, compare=False)


def imagine_goals(session: Session, inputs: ImagineInputs, folder: Path) -> Figures:
    """Imagine rollouts into a dataset folder; match rates are those of the first sample of each.

    Raises:
        KalmError: models of the dynamics are needed and there are no real rollouts, or a bad input.
    """
    from kalm.lm.imagine import imagine_dataset, origins, ways

    config = session.config
    model = session.load_model(inputs.model)
    rows = _instructions(session, inputs)
    actor = session.load_model(inputs.actor) if inputs.actor else None
    drift = _merge(config.imagine, rows, *(one for one in (model, actor) if one is not None))
    models = _fit_dynamics(session, inputs.real, inputs.dynamics or folder / DYNAMICS)
    provenance = {
        "made_by": "imagine",
        "command": session.command,
        "world": config.env,
        "settings": config.imagine.model_dump(mode="json"),
        "seed": config.seed,
    }
    place = folder / RAW if config.imagine.refined else folder
    reading, control = config.imagine.reading, config.imagine.control
    # Every try but the first and the second takes another plan, while there are others.
    drawn = 2 * max(0, config.imagine.samples - 2)
    plans = {} if reading == "off" else plans_for(session, rows, reading, drawn)
    with track("imagine" if control == "none" else f"imagine, {control}", len(rows)) as advance:
        rollouts = imagine_dataset(
            model, session.world, rows, config.imagine, config.seed, place, provenance, actor, advance, plans
        )
    origin, sample = origins(place)
    first = rollouts.take(sample == 0)
    result: dict[str, object] = {
        "rollouts_asked": len(rows),
        "rollouts_decoded": len(rollouts),
        "rollouts_kept": len(rollouts),
        **_matches(first),
        **drift,
    }
    if plans:
        result["ways"] = _by_way(rollouts, ways(place))
    if models is None:
        return result
    refined = _refine(session, rollouts, first, origin, models, folder, provenance)
    return {**result, **refined}


def _merge(settings: ImagineConfig, rows: Sequence[Instruction], *models: GroundedLM) -> dict[str, float]:
    """Fold adapters in, where asked to, and return how far that moved the models."""
    if not settings.merge_adapters:
        return {}
    from kalm.lm.merging import merge_for_imagining

    texts = sorted({instruction.text for instruction in rows})[:MEASURED]
    return {"merge_drift": max(merge_for_imagining(model, texts) for model in models)}


def control_of(folder: Path) -> str:
    """Return the control that a folder of imagined rollouts is (`imagine.control`), or ``none``."""
    from kalm.data import storage

    made = storage.read_manifest(folder)[0].get("provenance", {})
    return str(made.get("settings", {}).get("control", "none"))


def first_tries(imagined: Path | RolloutSet) -> RolloutSet:
    """Return the first try of every rollout that was asked for, before anything was chosen or dropped.

    Raises:
        KalmError: it was not kept.
    """
    from kalm.data import storage
    from kalm.lm.imagine import origins

    if not isinstance(imagined, Path):
        raise KalmError(
            "train.controls=unfiltered needs what was imagined before it was filtered, which rollouts in "
            "memory do not hold. Give the folder that kalm imagine made."
        )
    raw = imagined / RAW
    if storage.sealed(raw):
        return storage.read(raw).take(origins(raw)[1] == 0)
    if "refined" in storage.read_manifest(imagined)[0].get("provenance", {}):
        raise KalmError(
            f"train.controls=unfiltered needs {raw}, what was imagined before it was filtered, and it is not "
            "there. Imagine again, or leave that control out."
        )
    return storage.read(imagined)


def _matches(rollouts: RolloutSet) -> dict[str, object]:
    """Return the share of rollouts that reach their goal, in all and per level."""
    levels = rollouts.levels
    rates = {level: float(rollouts.success[levels == level].mean()) for level in LEVELS if level in levels}
    return {"match_rate": float(rollouts.success.mean()), "match_rate_by_level": rates}


def _by_way(rollouts: RolloutSet, way: np.ndarray) -> dict[str, dict[str, dict[str, float]]]:
    """Return per level and way of asking how many rollouts were decoded, and the share that is right."""
    levels, found = rollouts.levels, {}
    for level in (level for level in LEVELS if level in levels):
        names = dict.fromkeys(way[levels == level].tolist())
        flags = {name: rollouts.success[(levels == level) & (way == name)] for name in names}
        found[level] = {
            name: {"decoded": len(right), "right": float(right.mean())} for name, right in flags.items()
        }
    return found


def _instructions(session: Session, inputs: ImagineInputs) -> list[Instruction]:
    from kalm.lm.imagine import imagination_plan, repeated

    world, settings = session.world, session.config.imagine
    if inputs.goals is not None:
        return repeated(instructions(world, inputs.goals, inputs.levels or LEVELS), settings)
    return [i for i in imagination_plan(world, settings) if inputs.levels is None or i.level in inputs.levels]


def _fit_dynamics(session: Session, real: Path | RolloutSet | None, folder: Path) -> Models | None:
    """Fit what refining needs from real rollouts, in the main process; None where nothing is refined."""
    config = session.config
    if not config.imagine.refined or not processes.is_main():
        return None
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
    return fitted(folder, session.read(real), config.dynamics, kinds, config.seed, session.device, track)


def _refine(
    session: Session,
    raw: RolloutSet,
    first: RolloutSet,
    origin: np.ndarray,
    models: Models,
    folder: Path,
    provenance: Mapping[str, object],
) -> dict[str, object]:
    """Write the refined rollouts beside the raw ones; return what was done and the quality of both.

    Raw quality is that of the `first` sample of each row: the rows that failed have more samples.
    """
    from kalm.data import storage
    from kalm.data.validation import require_valid
    from kalm.dynamics.filter import refine
    from kalm.evaluation.imagined import quality

    settings = session.config.imagine
    refined = refine(raw, origin, session.world, settings.refine, models, settings.samples)
    require_valid(refined.rollouts)
    facts = {**refined.facts, "models": models.to_json()}
    storage.write(refined.rollouts, folder, {**provenance, "refined": facts})
    steps = zip(REFINED, (first, refined.chosen, refined.rollouts), strict=True)
    found = {name: quality(rollouts, session.world) for name, rollouts in steps}
    return {
        "rollouts_kept": len(refined.rollouts),
        "refined": facts,
        **{name: {level: part.to_json() for level, part in of.items()} for name, of in found.items()},
    }


def _settings(config: Config) -> dict[str, object]:
    """Return what imagined rollouts depend on: where they are refined, the models that judge them too."""
    names = ("imagine", "dynamics") if config.imagine.refined else ("imagine",)
    reader = {"reader": config.reader} if config.imagine.reading == "reader" else {}
    return {**{name: settings_section(config, name) for name in names}, **reader}


IMAGINE = StageSpec(
    "imagine",
    _settings,
    imagine_goals,
    together=True,
    parts={"model": MODEL, "actor": MODEL, "real": REAL},
)
