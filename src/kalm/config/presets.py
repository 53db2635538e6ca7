"""Presets: files of settings that say only what differs from the defaults, or from a preset they extend.

``extends: NAME`` takes over a preset that ships with the library; ``extends: FILE.yaml`` a file, found from
the folder of the one that says so. Sections are merged, values and lists replaced.

Unusual: an environment may have its own form of a preset (``presets/ENV/NAME.yaml``), which is then taken
wherever that name is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import yaml

import kalm
from kalm.config.tree import Config
from kalm.errors import KalmError, unknown

FOLDER = Path(kalm.__file__).parent / "presets"
EXTENDS = "extends"
ENDINGS = (".yaml", ".yml")

Settings = dict[str, object]  # nested, as in YAML: section, field, value


def preset_names() -> list[str]:
    """Return the names of the presets that ship with the library."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def read_preset(name: str, env: str | None) -> Settings:
    """Read a preset and those that it extends.

    Args:
        name: one that ships with the library, or a YAML file of settings.
        env: environment, whose own form of a preset is taken if there is one; None: the one that the
            settings name, else the default.

    Raises:
        KalmError: unknown, unreadable, not a mapping, or it extends itself.
    """
    return _resolved(_locate(name, env, Path()), env, ())


def merged(below: Mapping[str, object], above: Mapping[str, object]) -> Settings:
    """Return the settings of both; where both set the same, those from `above`."""
    out = dict(below)
    for name, value in above.items():
        old = out.get(name)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        out[name] = merged(cast(Settings, old), cast(Settings, value)) if both else value
    return out


def _locate(name: str, env: str | None, folder: Path) -> Path:
    """Return the file of a preset; names of files count from `folder`."""
    if name.endswith(ENDINGS):
        return folder / name
    if name not in preset_names():
        raise unknown("preset", name, preset_names())
    own = FOLDER / (env or Config().env) / f"{name}.yaml"
    return own if own.is_file() else FOLDER / f"{name}.yaml"


def _resolved(path: Path, env: str | None, seen: tuple[Path, ...]) -> Settings:
    """Read a file and all that it extends; `seen` are the files that led here."""
    place = path.resolve()
    if place in seen:
        chain = " extends ".join(str(file) for file in (*seen[seen.index(place) :], place))
        raise KalmError(f"settings extend themselves: {chain}. Take one `extends` out.")
    data = _read_settings(path)
    if EXTENDS not in data:
        return data
    base = data.pop(EXTENDS)
    if not isinstance(base, str):
        raise KalmError(f"settings {path}: extends is {base!r}; give the name of one preset or YAML file.")
    env = env or cast(str | None, data.get("env"))
    return merged(_resolved(_locate(base, env, path.parent), env, (*seen, place)), data)


def _read_settings(path: Path) -> Settings:
    try:
        data = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise KalmError(f"settings {path} cannot be read: {error}.") from None
    if not isinstance(data, dict):
        raise KalmError(f"settings {path} hold {type(data).__name__}; write sections such as `train: ...`.")
    odd = [name for name in data if not isinstance(name, str)]
    if odd:
        raise KalmError(f"settings {path}: {odd[0]!r} is no section's name; write e.g. `train: ...`.")
    return data
