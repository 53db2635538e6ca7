"""Files: written atomically, read with clear errors, told apart by content.

A file is first written beside its place under a temporary name and then renamed, so that a kill leaves either
the old file or the new one.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kalm.errors import KalmError

HIDDEN = ".kalm."  # how the names of files begin that are not for reading: unfinished ones, locks
PACKAGES = ("kalm", "torch", "transformers", "mujoco", "gymnasium", "numpy", "pyarrow")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it is renamed to `path`, else removed."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{HIDDEN}{path.name[:100]}.{secrets.token_hex(4)}{path.suffix}"
    temporary.touch(exist_ok=False)  # with the mode that the user's mask and the folder give
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes the place of `path`, else it is removed.

    A folder cannot be renamed onto a full one, so the old folder steps aside for a moment. A kill in that
    moment leaves it aside; whoever reads a folder that is replaced in this way calls `recover_folder` first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(path)
    temporary = path.parent / f"{HIDDEN}{path.name}.new.{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        yield temporary
        if path.exists():
            os.replace(path, _aside(path))
        os.replace(temporary, path)
    finally:
        recover_folder(path)


def recover_folder(path: Path) -> None:
    """Undo what a kill left of an `atomic_folder`: the old folder comes back unless the new one is there."""
    for unfinished in path.parent.glob(f"{HIDDEN}{glob.escape(path.name)}.new.*"):
        shutil.rmtree(unfinished)
    old = _aside(path)
    if old.exists() and path.exists():
        shutil.rmtree(old)
    elif old.exists():
        os.replace(old, path)


def _aside(path: Path) -> Path:
    return path.parent / f"{HIDDEN}{path.name}.old"


def write_json(path: Path, data: object) -> None:
    """Write JSON atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, what: str) -> Any:
    """Read JSON. Raises KalmError that names `what` when the file is missing or broken."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise KalmError(f"{what}: {path} does not exist.") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise KalmError(f"{what}: {path} cannot be read as JSON ({error}).") from None


def fingerprint(data: object) -> str:
    """Return a short hash of JSON-ready data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": ".".join(str(part) for part in sys.version_info[:3])}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def reason(error: OSError) -> str:
    """Return the system's words for what went wrong, e.g. ``permission denied``."""
    words = (error.strerror or str(error) or type(error).__name__).strip()
    return f"{words[:1].lower()}{words[1:]}"
