"""The stages as functions: what the command line does, in Python.

Each function resolves settings as the command of its name does (defaults, then a preset, then what is given),
does one stage into a folder, and returns what it made. A folder whose result is already there, made from the
same settings and inputs, is not made again; a stopped call goes on where it was. ::

    import kalm

    kalm.collect("data/real", env="clevr", rollouts=2000)
    model = kalm.ground("data/real", "grounded", settings={"ground.epochs": 0.5})
    kalm.imagine(model, "imagined", levels=["rephrase"])
    policies = kalm.train("data/real", "imagined", "policies", algorithms=["bc"])
    results = kalm.evaluate("policies", "evaluation")

Where a folder of rollouts is asked for, a `kalm.RolloutSet` will do; where a part of a run, the run folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from kalm.runs.folder import EVALUATION, GROUNDED, IMAGINED, MODEL, POLICIES, REAL, ROWS, trained_policies
from kalm.types import LEVELS, Instruction, SplitChoice

if TYPE_CHECKING:
    from kalm.data.rollouts import RolloutSet
    from kalm.evaluation.results import Episode
    from kalm.evaluation.statistics import Rate
    from kalm.report.scores import Score
    from kalm.report.video import Watched
    from kalm.session import Session


class StageOptions(TypedDict, total=False):
    """What every stage may be given by keyword.

    Attributes:
        env: name of the environment; ``"clevr"`` by default.
        preset: settings to start from: ``"demo"``, ``"mini"``, ..., or a YAML file.
        settings: what to change: names with dots (``{"train.steps": 5000}``) or nested, as in YAML.
        seed: root of all random numbers.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"auto"``.
        workers: processes or threads for simulation and training.
        overwrite: delete what the folder holds first; else a folder with something else in it is an error.
    """

    env: str
    preset: str | Path
    settings: Mapping[str, object]
    seed: int
    device: str
    workers: int
    overwrite: bool


@dataclass(frozen=True)
class Results:
    """What policies achieved in the simulator.

    Attributes:
        folder: holds ``rows.csv``.
        env: name of the environment.
        episodes: one per row of the file.
    """

    folder: Path
    env: str
    episodes: tuple[Episode, ...]

    @cached_property
    def scores(self) -> list[Score]:
        """Success of every policy over its training seeds."""
        from kalm.envs import published
        from kalm.report.scores import scores

        return scores(self.episodes, published(self.env))

    def rate(self, policy: str, level: str) -> Rate:
        """Return the success of a policy, e.g. ``rate("BC+KALM", "rephrase").mean``, with its interval.

        Raises:
            KeyError: no such policy, or it did not play that level.
        """
        return {score.policy: score for score in self.scores}[policy].rates[level]

    def __str__(self) -> str:
        from kalm.report.tables import plain, success_table

        return plain(success_table(self.scores))


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        folder: of the run.
        results: of its evaluation.
    """

    folder: Path
    results: Results

    @property
    def real(self) -> RolloutSet:
        """Collected rollouts, read from the folder."""
        return _read(self.folder / REAL)

    @property
    def imagined(self) -> RolloutSet:
        """Imagined rollouts, read from the folder."""
        return _read(self.folder / IMAGINED)

    @property
    def model(self) -> Path:
        """Folder of the grounded language model, for `kalm.load_model`."""
        return self.folder / GROUNDED / MODEL

    @property
    def policies(self) -> dict[str, Path]:
        """Folders of the policies by name, for `kalm.load_policy`."""
        return _policies(self.folder / POLICIES)

    @property
    def report(self) -> Path:
        """The page of tables and figures."""
        return self.folder / "report" / "report.html"


def collect(out: str | Path, *, rollouts: int | None = None, **options: Unpack[StageOptions]) -> RolloutSet:
    """Collect real rollouts with the environment's expert.

    Args:
        out: folder for the dataset.
        rollouts: how many to keep; None: as the settings say.
        options: see `StageOptions`.

    Raises:
        KalmError: unknown environment or setting, or `out` holds something else.
    """
    from kalm.stages.base import NoInputs
    from kalm.stages.collect import COLLECT

    session = _session(options, {"collect.rollouts": rollouts})
    COLLECT.alone(session, NoInputs(), Path(out), options.get("overwrite", False))
    return _read(Path(out))


def ground(
    data: str | Path | RolloutSet,
    out: str | Path,
    *,
    backbone: str | Path | None = None,
    start: str | Path | None = None,
    **options: Unpack[StageOptions],
) -> Path:
    """Ground a language model in real rollouts; return the folder of the model (`kalm.load_model`).

    Args:
        data: real rollouts.
        out: folder for metrics, checkpoints and the model.
        backbone: language model: ``"minilm"``, ``"smollm2"``, a hub name, a folder or a GGUF file; None: as
            the settings say.
        start: grounded model of the same settings, from whose weights grounding goes on.
        options: see `StageOptions`.

    Raises:
        KalmError: bad data, settings or backbone, or `out` holds something else.
    """
    from kalm.stages.ground import GROUND, GroundInputs

    session = _session(options, {"ground.backbone": None if backbone is None else str(backbone)})
    inputs = GroundInputs(_data(data), None if start is None else Path(start))
    GROUND.alone(session, inputs, Path(out), options.get("overwrite", False))
    return Path(out) / MODEL


def imagine(
    model: str | Path,
    out: str | Path,
    *,
    goals: str | Path | Sequence[Instruction] | None = None,
    levels: Sequence[str] | None = None,
    real: str | Path | RolloutSet | None = None,
    actor: str | Path | None = None,
    **options: Unpack[StageOptions],
) -> RolloutSet:
    """Imagine rollouts for goals that the data never had.

    Args:
        model: folder of a grounded model, or of the run that made it.
        out: folder for the dataset.
        goals: goal file, or instructions, instead of the novel levels.
        levels: only these of the novel levels.
        real: real rollouts, from which the models are fitted that refine imagined ones, where settings ask.
        actor: folder of a second grounded model that chooses the actions.
        options: see `StageOptions`.

    Raises:
        KalmError: no model there, unknown level, bad goals or settings, or `out` holds something else.
    """
    from kalm.stages.imagine import IMAGINE, ImagineInputs

    inputs = ImagineInputs(
        Path(model),
        None if real is None else _data(real),
        _goals(goals),
        None if levels is None else _levels(levels),
        None if actor is None else Path(actor),
    )
    IMAGINE.alone(_session(options), inputs, Path(out), options.get("overwrite", False))
    return _read(Path(out))


def train(
    real: str | Path | RolloutSet,
    imagined: str | Path | RolloutSet | None,
    out: str | Path,
    *,
    algorithms: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    plain: bool | None = None,
    model: str | Path | None = None,
    shuffled: str | Path | RolloutSet | None = None,
    **options: Unpack[StageOptions],
) -> dict[str, Path]:
    """Train policies by offline RL; return their folders by name, e.g. ``"bc+kalm-seed0"``.

    Args:
        real: real rollouts.
        imagined: imagined rollouts; None: plain policies only.
        out: folder for the policies.
        algorithms: which; None: as the settings say.
        seeds: one policy per seed.
        plain: also train each algorithm without imagined rollouts, to compare.
        model: folder of the grounded model, for the algorithms ``"lm"`` and ``"dt"``.
        shuffled: rollouts imagined with ``imagine.control="shuffled"``, for the control of that name in
            ``train.controls``.
        options: see `StageOptions`.

    Raises:
        KalmError: an algorithm is unknown or does not fit, bad data or settings, or `out` holds something
            else.
    """
    from kalm.stages.train import TRAIN, TrainInputs, require_controls, require_learners

    chosen = {
        "train.algorithms": None if algorithms is None else list(algorithms),
        "train.seeds": None if seeds is None else list(seeds),
        "train.plain": plain,
    }
    session = _session(options, chosen)
    dreams = None if imagined is None else _data(imagined)
    control = None if shuffled is None else _data(shuffled)
    given = TrainInputs(_data(real), dreams, None if model is None else Path(model), shuffled=control)
    inputs = TRAIN.located(given)
    require_learners(session, inputs.model)
    require_controls(session, inputs)
    TRAIN.alone(session, inputs, Path(out), options.get("overwrite", False))
    return _policies(Path(out))


def evaluate(
    policies: str | Path,
    out: str | Path,
    *,
    goals: str | Path | Sequence[Instruction] | None = None,
    levels: Sequence[str] | None = None,
    episodes: int | None = None,
    split: SplitChoice | None = None,
    **options: Unpack[StageOptions],
) -> Results:
    """Play policies in the simulator.

    Args:
        policies: folder of one policy, of several, or of the run that made them.
        out: folder for ``rows.csv``, one row per episode.
        goals: goal file, or instructions, instead of the levels' own.
        levels: only these.
        episodes: per level, policy and seed.
        split: sentences and initial states that are played: ``"tune"``, ``"test"`` or ``"all"``; None: as the
            settings say, which is ``"test"`` by default.
        options: see `StageOptions`.

    Raises:
        KalmError: no policy there, unknown level, bad goals or settings, or `out` holds something else.
    """
    from kalm.stages.evaluate import EVALUATE, EvaluateInputs

    session = _session(options, {"evaluate.episodes": episodes, "evaluate.split": split})
    inputs = EvaluateInputs(Path(policies), _goals(goals), LEVELS if levels is None else _levels(levels))
    EVALUATE.alone(session, inputs, Path(out), options.get("overwrite", False))
    return _results(Path(out), session)


def watch(
    text: str,
    *,
    model: str | Path | None = None,
    policy: str | Path | None = None,
    read: bool = True,
    **options: Unpack[StageOptions],
) -> Watched:
    """Watch what a sentence comes to: imagined, answered by the simulator, done by a policy.

    For example::

        shown = kalm.watch("Push the red ball behind the blue ball.", model="runs/demo")
        print(shown)
        shown.save("film.mp4")

    Args:
        text: any sentence that the reader understands; its plan says when the goal is reached.
        model: folder of a grounded model, or of the run that made it; None: nothing is imagined.
        policy: folder of a policy; None: none acts.
        read: model and policy are asked in the plain words of the plan; else in the sentence itself.
        options: see `StageOptions`; ``seed`` draws the initial state.

    Raises:
        KalmError: neither model nor policy, none there, or the sentence is not understood.
    """
    from kalm.stages.watch import watch_sentence

    places = [None if place is None else Path(place) for place in (model, policy)]
    return watch_sentence(_session(options), text, *places, read=read)


def run(
    out: str | Path,
    *,
    rounds: int | None = None,
    resume: bool = False,
    **options: Unpack[StageOptions],
) -> RunResult:
    """Do everything: collect, ground, inspect, imagine, train, evaluate, report.

    Args:
        out: folder of the run.
        rounds: of the online loop after the first training.
        resume: go on with these settings in the folder of a run that had others.
        options: see `StageOptions`.

    Raises:
        KalmError: bad settings, or `out` holds something else.
    """
    from kalm.pipeline import run_pipeline

    session = _session(options, {"online.rounds": rounds})
    run_pipeline(session, Path(out), resume, options.get("overwrite", False))
    return RunResult(Path(out), _results(Path(out) / EVALUATION, session))


def _session(options: StageOptions, chosen: Mapping[str, object] | None = None) -> Session:
    """Return the session of these options; `chosen` settings that are not None win over all others."""
    from kalm import envs
    from kalm.config import load_config
    from kalm.session import Session

    preset = options.get("preset")
    given = {name: value for name, value in (chosen or {}).items() if value is not None}
    changes = {**dict(_flat(options.get("settings", {}))), **given}
    config = load_config(
        None if preset is None else str(preset),
        [f"{name}={json.dumps(value)}" for name, value in changes.items()],
        env=options.get("env"),
        seed=options.get("seed"),
        device=options.get("device"),
        workers=options.get("workers"),
    )
    envs.require(config.env)
    file = Path(preset) if preset is not None and Path(preset).is_file() else None
    return Session(config, "python", file)


def _flat(settings: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield settings by their whole names, those of sections too."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _data(data: str | Path | RolloutSet) -> Path | RolloutSet:
    return Path(data) if isinstance(data, str | Path) else data


def _goals(goals: str | Path | Sequence[Instruction] | None) -> Path | tuple[Instruction, ...] | None:
    if goals is None:
        return None
    return Path(goals) if isinstance(goals, str | Path) else tuple(goals)


def _levels(levels: Sequence[str]) -> tuple[str, ...]:
    from kalm.errors import unknown

    for level in levels:
        if level not in LEVELS:
            raise unknown("level", level, LEVELS)
    return tuple(levels)


def _read(folder: Path) -> RolloutSet:
    from kalm.data import storage

    return storage.read(folder)


def _policies(folder: Path) -> dict[str, Path]:
    return {job.name: place for job, place in trained_policies(folder)}


def _results(folder: Path, session: Session) -> Results:
    from kalm.evaluation.results import read_rows

    return Results(folder, session.config.env, tuple(read_rows(folder / ROWS)))
