"""Output folders: what every command does before it writes into a folder.

`output_folder` refuses a folder that holds or lies in something that the command reads, refuses a place where
no folder can be, makes the folder, and holds it against other commands. Only then is anything touched. `free`
says whether a folder holds nothing yet, `clear` empties it.

Unusual:

- Folders are compared resolved, so that neither links nor ``..`` hide that two are the same.
- A folder is emptied, never removed: as a link, as a mount point, as the current folder, with its mode and
  group, it stays what it was. Links in it are removed, what they point to is not.
- Hidden files and folders that kalm did not make (``.git``, ``.nfs...``, ``.snapshot``) and ``lost+found``
  are never removed and count as nothing; all that is hidden and kalm's begins with ``.kalm.``. The visible
  contents of a folder that kalm marked as its own go, whoever made them, when a stage starts anew in it
  (`--overwrite`, or `--resume` with settings that change the stage). A folder without a mark is refused.
- The lock (``.kalm.lock``) tells who holds the folder: process, machine, command, since when. It is the
  system's lock on the file, which ends with its process, however that ends. Between machines, where such
  locks may mean nothing, its age counts: the holder touches it every half minute, and one that has not been
  touched for ten minutes is taken over.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shlex
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kalm.errors import KalmError
from kalm.runs.io import HIDDEN, reason

LOCK = f"{HIDDEN}lock"
TOUCHED_EVERY, TAKEN_OVER_AFTER = 30.0, 600.0  # seconds


@contextmanager
def output_folder(folder: Path, reads: Iterable[Path] = ()) -> Iterator[None]:
    """Make a folder if there is none, and hold it.

    Args:
        folder: to be written to.
        reads: all files and folders that are read meanwhile.

    Raises:
        KalmError: it is, holds or lies in one of `reads`; it cannot be a folder or be written to; another
            process holds it.
    """
    require_apart(folder, reads)
    require_possible(folder)
    _require_free_above(folder)
    with _held(folder):
        yield


def require_apart(folder: Path, reads: Iterable[Path]) -> None:
    """Raise KalmError if a folder to be written to is, holds or lies in one of the inputs."""
    out = _resolved(folder)
    for path in reads:
        source = _resolved(path)
        if out == source:
            relation = "is"
        elif source.is_relative_to(out):
            relation = "holds"
        elif out.is_relative_to(source):
            relation = "lies in"
        else:
            continue
        raise KalmError(
            f"the output folder {folder} {relation} {path}, which is an input, and inputs are never written "
            "to. Nothing was changed. Give another --out."
        )


def require_possible(folder: Path) -> None:
    """Raise KalmError unless there is a folder at this place, or one can be made; make it."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
    if not nearest.exists():
        raise KalmError(
            f"{nearest} is a link to {os.readlink(nearest)}, which does not exist. Make that folder, or give "
            "another --out."
        )
    if not nearest.is_dir():
        below = "" if nearest == folder else f", so {folder} cannot be made"
        raise KalmError(f"{nearest} is a file{below}; the output is a folder. Give another --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KalmError(f"{folder} cannot be made: {reason(error)}. Give another --out.") from None


def free(folder: Path, marks: Iterable[str] = ()) -> bool:
    """Whether a folder holds nothing: no folder at all, or empty folders, what is hidden, and `marks`.

    Args:
        folder: which need not exist.
        marks: names of files that only say that something was begun.
    """
    if not folder.exists():
        return True
    names = set(marks)
    return all(
        free(entry, names) if entry.is_dir() and not entry.is_symlink() else entry.name in names
        for entry in _counted(folder)
    )


def clear(folder: Path) -> None:
    """Remove what a folder holds; the folder stays, and what is hidden and not kalm's."""
    hidden = [entry for entry in folder.glob(f"{HIDDEN}*") if entry.name != LOCK]
    for entry in [*_counted(folder), *hidden]:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _counted(folder: Path) -> list[Path]:
    """Return what counts as the contents of a folder."""
    return [
        entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name != "lost+found"
    ]


def _resolved(path: Path) -> Path:
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError) as error:  # a name too long; links in a circle
        raise KalmError(f"{path} cannot be used: {error}.") from None


def _require_free_above(folder: Path) -> None:
    """Raise KalmError if another process holds a folder in which this one lies, such as its run."""
    for path in (above / LOCK for above in folder.resolve().parents):
        if not path.exists():
            continue
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            continue  # not ours to read, or gone by now
        try:
            if _lock(descriptor, fcntl.LOCK_SH) is False:
                raise KalmError(_in_use(path, _owner(descriptor)))
        finally:
            os.close(descriptor)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; what another process left of its lock is taken over."""
    path = folder / LOCK
    try:
        descriptor = _open_locked(path)
    except OSError as error:
        raise KalmError(
            f"{folder} cannot be written to: {reason(error)}. Give another --out, or change who may write."
        ) from None
    ended = threading.Event()
    try:
        owner = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": shlex.join(sys.argv),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        threading.Thread(target=_keep_young, args=(path, ended), daemon=True).start()
        yield
    finally:
        ended.set()
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _open_locked(path: Path) -> int:
    """Return the descriptor of the lock file, locked. Raises KalmError: another process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            known = _lock(descriptor)
            owner = _owner(descriptor)
            if known is False or (owner and _elsewhere(owner, known) and _age(path) < TAKEN_OVER_AFTER):
                raise KalmError(_in_use(path, owner))
            # Its last holder may have removed it between the opening and the locking here.
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool | None:
    """Try to get the system's lock; None: this file system has none."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    return True


def _owner(descriptor: int) -> dict[str, object]:
    try:
        found = json.loads(os.pread(descriptor, 1 << 16, 0))
    except ValueError:
        return {}  # just made, or cut off by a kill
    return found if isinstance(found, dict) else {}


def _elsewhere(owner: dict[str, object], locked: bool | None) -> bool:
    """Whether the owner may live though the system's lock does not show it: elsewhere, or without locks."""
    if owner.get("host") != socket.gethostname():
        return True
    return locked is None and _alive(owner.get("pid"))


def _alive(process: object) -> bool:
    try:
        os.kill(int(str(process)), 0)
    except PermissionError:
        return True  # another user's
    except (ProcessLookupError, ValueError):
        return False
    return True


def _age(path: Path) -> float:
    """Return the seconds since a file was touched, by the clock of the machine that stores it."""
    probe = path.with_name(f"{LOCK}.{os.getpid()}")
    probe.touch()
    try:
        return probe.stat().st_mtime - path.stat().st_mtime
    finally:
        probe.unlink()


def _in_use(path: Path, owner: dict[str, object]) -> str:
    here = owner.get("host") in (None, socket.gethostname())
    where = "" if here else f" on {owner['host']} (if that has ended, remove {path})"
    return (
        f"the folder {path.parent} is in use by process {owner.get('pid', 'unknown')}{where} since "
        f"{owner.get('since', 'just now')}: {owner.get('command', '')}. "
        "Wait for it, stop it, or give another --out."
    )


def _keep_young(path: Path, ended: threading.Event) -> None:
    while not ended.wait(TOUCHED_EVERY):
        try:
            os.utime(path)
        except OSError:
            return  # removed by hand: whoever did so wants the folder
