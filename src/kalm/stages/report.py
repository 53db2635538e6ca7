"""The stage `report`: one page of what a run left on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kalm.runs.folder import SETTINGS
from kalm.runs.io import read_json
from kalm.runs.progress import announce
from kalm.stages.base import Figures, StageSpec, whole_sections

if TYPE_CHECKING:
    from kalm.session import Session


@dataclass(frozen=True)
class ReportInputs:
    """What a report is of.

    Attributes:
        run: the run folder; that it is there says nothing, its `parts` do.
        parts: folders of the stages whose results it shows.
        effects: table of effects (CSV), or None.
    """

    run: Path = field(compare=False)
    parts: tuple[Path, ...] = ()
    effects: Path | None = None


def write_run_report(session: Session, inputs: ReportInputs, folder: Path) -> Figures:
    """Write the report of a run folder; return success with intervals, per policy and level."""
    from kalm.report import scores
    from kalm.report.gather import gather_run
    from kalm.report.page import write_report

    data = gather_run(inputs.run, session.world, session.config.report.filmstrips, inputs.effects)
    write_report(folder, data)
    return scores.scores_to_json(scores.scores(data.rows, data.published))


def report_run(run: Path, folder: Path, effects: Path | None = None) -> Figures:
    """Write the report of a run folder, with its own settings; see `write_run_report`.

    Raises:
        KalmError: no run there, or one whose settings this version does not know.
    """
    announce(f"report: into {folder}")  # before what takes seconds to load
    from kalm.config import parse_config
    from kalm.session import Session

    session = Session(parse_config(read_json(run / SETTINGS, "run")["settings"]))
    return write_run_report(session, ReportInputs(run, effects=effects), folder)


REPORT_PAGE = StageSpec("report", whole_sections("report"), write_run_report)
