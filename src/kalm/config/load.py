"""From a preset and what is changed to the settings of a run.

The defaults of the classes come first, then a preset, then ``env``, ``seed``, ``device`` and ``workers``,
then ``section.field=value``. The resolved result is stored in the run folder, and a stage is repeated only
when its own section changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import cast

import yaml
from pydantic import ValidationError

from kalm.config.describe import field_names, is_text
from kalm.config.presets import Settings, read_preset
from kalm.config.renamed import require_present_names
from kalm.config.tree import Config
from kalm.errors import KalmError, unknown


def load_config(
    preset: str | None = None,
    overrides: Iterable[str] = (),
    *,
    env: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    workers: int | None = None,
) -> Config:
    """Resolve settings: defaults, then the preset, then fields of no section, then single overrides.

    Args:
        preset: name of one that ships with the library, or a YAML file of settings.
        overrides: ``section.field=value`` each, the value in YAML or JSON.
        env: environment; also chooses between a preset's forms, see `kalm.config.presets`.
        seed: root of all random numbers.
        device: torch device, or ``auto``.
        workers: processes or threads for simulation.

    Raises:
        KalmError: unknown preset, section or field (lists those that exist), a name of an earlier version
            (says what it is called now), or a value out of range.
    """
    data = {} if preset is None else read_preset(preset, env)
    top = {"env": env, "seed": seed, "device": device, "workers": workers}
    data.update({name: value for name, value in top.items() if value is not None})
    for override in overrides:
        _apply(data, override)
    return parse_config(data)


def parse_config(data: Mapping[str, object]) -> Config:
    """Check plain data (from YAML or JSON) and return the settings. Raises KalmError: see `load_config`."""
    require_present_names(data)
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise _readable(error) from None


def _apply(data: Settings, override: str) -> None:
    """Set one field of nested settings in place."""
    path, equals, value = override.partition("=")
    if not equals:
        raise KalmError(f"--set {override!r} has no '='. Write section.field=value, e.g. train.steps=5000.")
    *sections, name = path.strip().split(".")
    target = data
    for section in sections:
        below = target.setdefault(section, {})
        if not isinstance(below, dict):
            raise KalmError(f"--set {override!r}: {section!r} is a value, not a section.")
        target = cast(Settings, below)
    try:
        target[name] = _value(value, is_text=is_text((*sections, name)))
    except yaml.YAMLError:
        raise KalmError(f"--set {override!r}: {value!r} is not a YAML value.") from None


def _value(text: str, is_text: bool) -> object:
    """Return the value of an override. JSON first: YAML takes its escapes of an emoji for two letters.

    Where words are wanted, what reads as a number or a truth stays as typed: a folder may be called ``7``.
    """
    try:
        value = json.loads(text)
    except ValueError:
        value = yaml.safe_load(text)
    return text if is_text and isinstance(value, bool | int | float) else value


def _readable(error: ValidationError) -> KalmError:
    """Return the error of settings in words: where, what is allowed, what came."""
    lines = []
    for item in error.errors():
        place = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(str(unknown("field", place, field_names(item["loc"][:-1]))))
        elif item["type"] == "value_error":  # of several fields together
            lines.append(f"{place}: {item['msg'].removeprefix('Value error, ')}.")
        else:
            lines.append(f"{place}: {item['msg']}, got {item['input']!r}.")
    return KalmError("settings: " + " ".join(lines))
