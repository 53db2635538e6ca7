"""The base of every settings class: unknown fields are errors, every value is checked."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Settings of one stage or algorithm."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def changed(self, **fields: Any) -> Self:
        """Return these settings with other values, checked like any (`model_copy` checks nothing).

        Raises:
            pydantic.ValidationError: an unknown field, or a value that is not allowed.
        """
        return self.model_validate({**dict(self), **fields})
