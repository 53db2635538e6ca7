"""Settings of the report."""

from __future__ import annotations

from pydantic import Field

from kalm.runs.section import Section


class ReportConfig(Section):
    """The page of tables and figures."""

    filmstrips: int = Field(
        default=3, ge=0, description="imagined rollouts drawn beside the policy's real ones"
    )
