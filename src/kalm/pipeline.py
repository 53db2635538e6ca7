"""A whole run: every stage once, then the rounds of the online loop, then the report.

One run is one folder::

    config.json            resolved settings, command, versions
    real/                  collected rollouts
    grounded/              metrics, checkpoint.safetensors while training, model/ at the end
    inspection/            inspect.json: what the model can do; the rollouts and texts it was measured on
    imagined/              imagined rollouts; where they are refined, with raw/ and the models in dynamics/
    shuffled/              the same with sentences permuted among goals, where train.controls asks for it
    policies/NAME/         one policy: metrics, weights
    evaluation/rows.csv    one row per episode
    rounds/1/              a round of the online loop, see `kalm.online`
    report/                report.html, report.md, figures

What is done already is skipped (`kalm.stages.base`). Started as several processes (`kalm.runs.processes`),
all of them ground and imagine together; the main one does the other stages while the others wait.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kalm.errors import KalmError
from kalm.online import JOIN, PLAY, JoinInputs, PlayInputs, collector, round_folder, settings_of
from kalm.runs.folder import (
    COLLECTED,
    DYNAMICS,
    EVALUATION,
    GROUNDED,
    IMAGINED,
    INSPECTION,
    MODEL,
    POLICIES,
    REAL,
    REPORT,
    SHUFFLED,
    claim,
)
from kalm.runs.io import read_json
from kalm.runs.progress import announce
from kalm.stages.base import NoInputs, StageRunner
from kalm.stages.collect import COLLECT
from kalm.stages.evaluate import EVALUATE, EvaluateInputs
from kalm.stages.ground import GROUND, GroundInputs
from kalm.stages.imagine import IMAGINE, ImagineInputs
from kalm.stages.inspect import INSPECT, InspectInputs
from kalm.stages.reading import require_reader
from kalm.stages.report import REPORT_PAGE, ReportInputs
from kalm.stages.train import TRAIN, TrainInputs, require_learners

if TYPE_CHECKING:
    from kalm.session import Session


def run_pipeline(
    session: Session, folder: Path, resume: bool = False, overwrite: bool = False
) -> dict[str, object]:
    """Do everything that is not done yet; return success with intervals, per policy and level.

    Args:
        session: the run's.
        folder: of the run.
        resume: go on with these settings in a folder of other ones; the stages that they change start anew.
        overwrite: delete first what the folder holds.

    Raises:
        KalmError: before anything starts, if the settings name what is not there or the folder holds
            something else; or what a stage raises.
    """
    announce(f"run: into {folder}")
    settings = session.config.model_dump(mode="json")
    with claim(folder, settings, session.command, session.reads(), resume, overwrite):
        _require_known(session)
        return _all_stages(session, folder)


def _all_stages(session: Session, folder: Path) -> dict[str, object]:
    runner = StageRunner()
    evaluation, inspection = _first(runner, session, folder)
    parts = [evaluation, inspection]
    for number in range(1, session.config.online.rounds + 1):
        evaluation = _round(runner, session, folder, number)
    if evaluation not in parts:
        parts.append(evaluation)
    page = runner.do(REPORT_PAGE, session, ReportInputs(folder, tuple(parts)), folder / REPORT)
    return read_json(page / "done.json", "report")["result"]


def _require_known(session: Session) -> None:
    """Check names of the settings: an hour of collecting must not end with a word about one."""
    session.require_device()
    if (control := session.config.imagine.control) != "none":
        raise KalmError(
            f"imagine.control={control} is for kalm imagine. For a run with the control beside +KALM set "
            f"train.controls=[{control}]."
        )
    require_learners(session, None, comes=True)
    require_reader(session, session.config)
    if session.config.online.rounds:
        collector(session.config)


def _first(runner: StageRunner, session: Session, run: Path) -> tuple[Path, Path]:
    """Do every stage once; return the folders of the evaluation and of the inspection."""
    real = runner.do(COLLECT, session, NoInputs(), run / REAL)
    model = runner.do(GROUND, session, GroundInputs(real), run / GROUNDED) / MODEL
    inspection = runner.do(INSPECT, session, InspectInputs(model), run / INSPECTION)
    imagined = runner.do(IMAGINE, session, ImagineInputs(model, real), run / IMAGINED)
    shuffled = None
    if "shuffled" in session.config.train.controls:
        control = session.changed(session.config.changed(imagine={"control": "shuffled"}))
        inputs = ImagineInputs(model, real, dynamics=imagined / DYNAMICS)
        shuffled = runner.do(IMAGINE, control, inputs, run / SHUFFLED)
    training = TrainInputs(real, imagined, model, shuffled=shuffled)
    policies = runner.do(TRAIN, session, training, run / POLICIES)
    return runner.do(EVALUATE, session, EvaluateInputs(policies), run / EVALUATION), inspection


def _round(runner: StageRunner, session: Session, run: Path, number: int) -> Path:
    """Do a round of the online loop; return the folder of its evaluation."""
    before, here = round_folder(run, number - 1), round_folder(run, number)
    later = session.changed(settings_of(session.config, number))
    # Each seed keeps its choice of the first real rollouts, and sees all that policies collected.
    training = session.changed(later.config.changed(seed=session.config.seed))
    parts = tuple(round_folder(run, earlier) / COLLECTED for earlier in range(1, number + 1))

    collected = runner.do(PLAY, session, PlayInputs(number, before / POLICIES), here / COLLECTED)
    real = runner.do(JOIN, session, JoinInputs(number, before / REAL, collected), here / REAL)
    grounding = GroundInputs(real, start=before / GROUNDED / MODEL)
    model = runner.do(GROUND, later, grounding, here / GROUNDED) / MODEL
    imagined = runner.do(IMAGINE, later, ImagineInputs(model, real), here / IMAGINED)
    inputs = TrainInputs(run / REAL, imagined, model, parts, before / POLICIES)
    policies = runner.do(TRAIN, training, inputs, here / POLICIES)
    return runner.do(EVALUATE, session, EvaluateInputs(policies), here / EVALUATION)
