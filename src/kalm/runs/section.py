"""The base of every settings class, and the kinds of numbers that settings are made of.

Unknown fields are errors, every value is checked, nothing is changed in place. Unusual: true and false are no
numbers here (pydantic takes them for 1 and 0), and neither are infinities.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Self, get_args

from annotated_types import Ge, Gt, MinLen
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, field_validator


def _each_once(values: tuple[object, ...]) -> tuple[object, ...]:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} more than once; give each once")
    return values


Widths = Annotated[tuple[Annotated[int, Gt(0)], ...], MinLen(1)]  # of hidden layers
Seeds = Annotated[tuple[Annotated[int, Ge(0)], ...], MinLen(1), AfterValidator(_each_once)]
Names = Annotated[tuple[str, ...], MinLen(1), AfterValidator(_each_once)]


def _spelled_off(value: object, kind: object) -> object:
    """Return "off" where that is among the words of a field and YAML made false of it."""
    if isinstance(value, list | tuple):
        return [_spelled_off(part, next(iter(get_args(kind)), None)) for part in value]
    return "off" if value is False and "off" in get_args(kind) else value


class Section(BaseModel):
    """Settings of one stage or algorithm."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: object, info: ValidationInfo) -> object:
        """Refuse true and false where the field is not one of those; `off` is false to YAML, not to us."""
        kind = cls.model_fields[str(info.field_name)].annotation
        value = _spelled_off(value, kind)
        if isinstance(value, bool) and kind is not bool and bool not in get_args(kind):
            raise ValueError(f"{str(value).lower()} is neither a number nor a name")
        return value

    def changed(self, **fields: object) -> Self:
        """Return these settings with other values, checked like any (`model_copy` checks nothing).

        A mapping given for a section changes those of its fields that it names.

        Raises:
            pydantic.ValidationError: an unknown field, or a value that is not allowed.
        """
        values = dict(self)
        for name, value in fields.items():
            old = values.get(name)
            if isinstance(old, Section) and isinstance(value, Mapping):
                value = old.changed(**value)
            values[name] = value
        return type(self).model_validate(values)
