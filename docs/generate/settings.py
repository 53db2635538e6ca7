"""All settings: type, default, bounds and meaning of each, one table per section."""

from __future__ import annotations

import json
from itertools import groupby

from kalm.config import Setting, describe_settings, sections


def reference() -> str:
    """Return a part per section of the settings."""
    found = groupby(describe_settings(), key=lambda setting: setting.path.rpartition(".")[0])
    return "\n\n".join(_section(path, list(settings)) for path, settings in found)


def _section(path: str, settings: list[Setting]) -> str:
    title = f"## `{path}` {{ #{path.replace('.', '-')} }}" if path else "## Of the whole run { #run }"
    head = ["| setting | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    return "\n".join([title, "", sections()[path], "", *head, *map(_row, settings)])


def _row(setting: Setting) -> str:
    default = setting.default if isinstance(setting.default, str) else json.dumps(setting.default)
    cells = (f"`{setting.path}`", setting.type, f"`{default}`", setting.bounds, setting.description)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
