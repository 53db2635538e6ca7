"""The one table of learners: what makes a policy, what it needs, and how a stored policy comes back.

It holds every algorithm of `kalm.rl.table`, the grounded language model itself (`lm`, nothing to train)
and the Decision Transformer on its backbone (`dt`). The command line, the pipeline, the sweep and the report
know learners through this table alone; a new one is one entry.

A policy folder says in the ``format`` of its ``policy.json`` who can read it, so loading one does not import
the library that trained it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from kalm.errors import KalmError, unknown
from kalm.pretrained.shipped import by_name
from kalm.runs.folder import PolicyJob
from kalm.runs.io import file_sha256, read_json, write_json
from kalm.runs.progress import Advance, silent
from kalm.types import JsonObject, WorldSpec

if TYPE_CHECKING:
    from kalm.data.rollouts import RolloutSet
    from kalm.dynamics.settings import DynamicsConfig
    from kalm.lm.decision_transformer.policy import DecisionTransformerPolicy
    from kalm.lm.decision_transformer.settings import DecisionTransformerConfig
    from kalm.lm.policy import LMPolicy
    from kalm.lm.settings import GroundConfig
    from kalm.rl.encoder import GoalEncoder
    from kalm.rl.policy import MLPPolicy
    from kalm.rl.settings import TrainConfig

    TrainedPolicy = MLPPolicy | LMPolicy | DecisionTransformerPolicy

FACTS = "policy.json"
LM_FORMAT, LM_VERSION, DT_FORMAT = "kalm-lm-policy", 1, "kalm-decision"
MODEL_FILES = ("grounded.json", "modules.safetensors")


@dataclass(frozen=True)
class TrainingTask:
    """One policy to make.

    Attributes:
        job: which learner, with or without imagined rollouts, which seed.
        train: settings of offline RL.
        dynamics: settings of the models that COMBO trains on.
        decision_transformer: settings of the Decision Transformer.
        ground: settings of grounding, from which the Decision Transformer takes its backbone.
        real: real rollouts to learn from.
        imagined: imagined rollouts to learn from, or None.
        model: folder of the grounded model, or None.
        encoder: sentence encoder.
        folder: for the policy.
        device: torch device.
        eval_callback: see `kalm.rl.train.train_offline`.
        start: folder of the policy whose training goes on, or None.
        advance: told of finished steps.
    """

    job: PolicyJob
    train: TrainConfig
    dynamics: DynamicsConfig
    decision_transformer: DecisionTransformerConfig
    ground: GroundConfig
    real: RolloutSet
    imagined: RolloutSet | None
    model: Path | None
    encoder: GoalEncoder
    folder: Path
    device: str
    eval_callback: Callable[[TrainedPolicy, int], Mapping[str, float]] | None = None
    start: Path | None = None
    advance: Advance = silent


@dataclass(frozen=True)
class AlgorithmSpec:
    """One entry of the table.

    Attributes:
        fit: makes the policy and stores it in the task's folder.
        trains: it learns from rollouts; else there is no +KALM variant, and its model is all that it knows.
        needs_model: it needs a grounded language model.
        sections: settings that its policies depend on besides those of ``train``.
        check: raises KalmError where it does not fit a world's actions.
    """

    fit: Callable[[TrainingTask], None]
    trains: bool = True
    needs_model: bool = False
    sections: tuple[str, ...] = ()
    check: Callable[[WorldSpec], object] = lambda spec: None


@cache
def table() -> Mapping[str, AlgorithmSpec]:
    """Return the learners by name, in the order of tables and help texts."""
    from kalm.rl.table import ALGORITHMS, learner_class

    offline = {
        name: AlgorithmSpec(
            _fit_offline,
            sections=("dynamics",) if algorithm.model_based else (),  # it fits a model of its own
            check=lambda spec, name=name: learner_class(name, spec),
        )
        for name, algorithm in ALGORITHMS.items()
    }
    language = {
        "lm": AlgorithmSpec(_point_at_model, trains=False, needs_model=True),
        "dt": AlgorithmSpec(_fit_decision, sections=("decision_transformer", "ground")),
    }
    return {**offline, **language}


def require_algorithm(name: str, spec: WorldSpec, model: Path | None, comes: bool = False) -> AlgorithmSpec:
    """Return a learner that can work with this world and this grounded model (unless one `comes` later).

    Raises:
        KalmError: unknown, not for this world's actions, or it needs a grounded model and there is none.
    """
    learner = table().get(name)
    if learner is None:
        raise unknown("algorithm", name, table())
    learner.check(spec)
    if learner.needs_model and not comes:
        if model is None:
            raise KalmError(f"algorithm {name!r} needs a grounded language model. Give --model FOLDER.")
        if not all((model / file).exists() for file in MODEL_FILES):
            raise KalmError(f"{model} holds no grounded language model, which algorithm {name!r} needs.")
    return learner


def load_policy(
    path: Path | str,
    device: str = "cpu",
    encoder: GoalEncoder | None = None,
    world: str | WorldSpec | None = None,
) -> TrainedPolicy:
    """Load the policy of a folder, whoever made it: what `kalm.evaluation.episodes` can play.

    Args:
        path: a policy folder, or one of its checkpoints; or the name of one that comes with kalm.
        device: torch device to act on.
        encoder: a sentence encoder to share, where it is the policy's.
        world: name or spec of the world that it shall act in; None: whatever it was made for.

    Raises:
        KalmError: no policy there, a damaged one, one of another world or that this version does not know.
    """
    folder = by_name(Path(path))
    facts = read_json(folder / FACTS, "policy")
    kind = facts.get("format") if isinstance(facts, dict) else None
    if kind not in (LM_FORMAT, DT_FORMAT):
        from kalm.rl.policy import load_mlp_policy

        return load_mlp_policy(folder, device, encoder, world)
    if kind == LM_FORMAT:
        found = _load_lm(folder, facts, device)
    else:
        from kalm.lm.decision_transformer.policy import load_decision_transformer

        found = load_decision_transformer(folder, device)
    if world not in (None, found.spec, found.spec.name):
        asked = world if isinstance(world, str) else world.name
        raise KalmError(
            f"policy {folder} acts in environment {found.spec.name!r} with {found.spec.state_size} state "
            f"numbers and {found.spec.action_kind} actions, not in the {asked!r} asked for. Give it its own "
            "environment."
        )
    return found


def checkpoints(folder: Path, count: int) -> list[tuple[int, Path]]:
    """Return the last checkpoints of a policy folder, oldest first: (gradient steps, folder).

    A policy that keeps none, such as `lm`, is its own only checkpoint, at step 0.
    """
    steps = sorted(place.parent for place in folder.glob(f"steps/*/{FACTS}"))
    return [(int(place.name), place) for place in steps[-count:]] or [(0, folder)]


def _fit_offline(task: TrainingTask) -> None:
    from kalm.rl.train import train_offline

    train_offline(
        task.real.spec,
        task.real,
        task.imagined,
        task.job.algorithm,
        task.job.seed,
        task.train,
        task.encoder,
        task.folder,
        task.device,
        task.advance,
        eval_callback=task.eval_callback,
        start=task.start,
        dynamics=task.dynamics,
    )


def _fit_decision(task: TrainingTask) -> None:
    from kalm.lm.decision_transformer.train import train_decision_transformer

    train_decision_transformer(
        task.ground,
        task.decision_transformer,
        task.real,
        task.imagined,
        task.train.mix,
        task.job.seed,
        task.folder,
        task.device,
        task.advance,
        eval_callback=task.eval_callback,
        start=task.start,
    )


def _point_at_model(task: TrainingTask) -> None:
    """Note where the model is, relative to the policy: a run folder that moves as a whole keeps working."""
    assert task.model is not None
    facts = {
        "format": LM_FORMAT,
        "version": LM_VERSION,
        "world": task.real.spec.to_json(),
        "model": os.path.relpath(task.model.resolve(), task.folder.resolve()),
        "model_sha256": {name: file_sha256(task.model / name) for name in MODEL_FILES},
    }
    write_json(task.folder / FACTS, facts)


def _load_lm(folder: Path, facts: JsonObject, device: str) -> LMPolicy:
    from kalm.lm.model import load_model
    from kalm.lm.policy import LMPolicy

    if facts.get("version") != LM_VERSION:
        raise KalmError(
            f"policy {folder} has format version {facts.get('version')}; this kalm reads {LM_VERSION}. "
            "Update it."
        )
    model = (folder / facts["model"]).resolve()
    for name, digest in facts["model_sha256"].items():
        if not (model / name).exists() or file_sha256(model / name) != digest:
            raise KalmError(
                f"policy {folder} is the grounded model in {model}, whose {name} is missing or was changed. "
                "Put it back, or train the policy again."
            )
    return LMPolicy(load_model(model, device))
