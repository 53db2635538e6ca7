"""The border of the command line: how a command ends when something goes wrong.

- Bad input, a file of another kind or damaged, a full disk, too little memory: one line that names the file
  and what to do, exit code 2.
- Ctrl-C: one line, exit code 130.
- All else is a fault of kalm: the traceback, then a line that asks for a report, exit code 1.

With ``KALM_DEBUG=1`` in the environment the traceback comes before every such line.

Unusual: errors of libraries are known by the names of their classes, so that no library is loaded to explain
an error that it cannot have raised. They rarely name the file; it is found as the innermost path that a
function on the way was given.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Protocol, runtime_checkable

from kalm.errors import KalmError
from kalm.runs.io import reason

USAGE, FAULT, STOPPED = 2, 1, 130  # exit codes
GOES_ON = "The same command goes on where this one ended."
REMEDIES = {
    errno.ENOSPC: f"Make room on that disk. {GOES_ON}",
    errno.EDQUOT: f"Make room in your quota. {GOES_ON}",
    errno.EFBIG: f"Raise the limit on the size of files (ulimit -f), or write elsewhere. {GOES_ON}",
    errno.EACCES: "Give another place, or change who may read and write there.",
    errno.EPERM: "Give another place, or change who may read and write there.",
    errno.EROFS: "Give a place that can be written to.",
    errno.ENOENT: "Check the name.",
    errno.ENOTDIR: "A folder is needed there.",
    errno.EISDIR: "A file is needed there.",
    errno.ENAMETOOLONG: "Give a shorter name.",
    errno.EMFILE: f"Raise the limit on open files (ulimit -n), or give fewer --workers. {GOES_ON}",
    errno.ENOMEM: f"Give the command more memory, fewer --workers or smaller batches. {GOES_ON}",
}
MEMORY = (
    f"too little memory. Give the command more, fewer --workers or smaller batches (*.batch_size). {GOES_ON}"
)
# What libraries raise at a file that is not what its name says, by the class that they raise or derive from.
DAMAGED = {
    "SafetensorError": "is damaged or unfinished, or is no safetensors file",
    "ArrowException": "is damaged or unfinished, or is no Parquet file of rollouts",
    "JSONDecodeError": "is no JSON",
    "YAMLError": "is no YAML",
    "UnicodeError": "is no text in UTF-8",
    "_csv.Error": "is no table (CSV)",
    "UnpicklingError": "is damaged, or holds more than numbers",
    "BadZipFile": "is damaged or unfinished",
    "EOFError": "ends too early",
}
AGAIN = "Make or copy it again; weights that are half written or copied look like this."


@runtime_checkable
class _Shows(Protocol):
    """What the option parser raises: an error of use that can print itself."""

    exit_code: int

    def show(self) -> None:
        """Print usage and error."""


def run_guarded(command: Callable[[], object]) -> int:
    """Call a command; return the exit code, after a line on standard error if it failed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not what a test puts there
            stream.reconfigure(errors="backslashreplace")  # a terminal in ASCII must not end the work
    interrupted = _watch_keyboard()
    try:
        code = command()
    except SystemExit:
        raise
    except BaseException as error:
        # What else goes wrong after Ctrl-C comes of it.
        return _stop() if interrupted or isinstance(error, KeyboardInterrupt) else _fail(error)
    if code == STOPPED:  # the parser made it of Ctrl-C
        return _stop()
    return code if isinstance(code, int) else 0


def _watch_keyboard() -> list[bool]:
    """Note Ctrl-C, which libraries turn into other errors or swallow; a second one ends the process."""
    interrupted: list[bool] = []

    def note(number: int, frame: FrameType | None) -> None:
        if interrupted:
            _stop()
            os._exit(STOPPED)
        interrupted.append(True)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, note)
    return interrupted


def _stop() -> int:
    _say(f"Stopped. {GOES_ON}")
    return STOPPED


def _fail(error: BaseException) -> int:
    if isinstance(error, _Shows):
        return _show(error)
    if isinstance(error.__cause__, EOFError):  # the parser takes it for the end of the keyboard's input
        error = error.__cause__
    if isinstance(error, BrokenPipeError):  # who read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    line = explain_error(error)
    if line is None or os.environ.get("KALM_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    if line is None:
        _say(
            f"Error: a fault of kalm, not of yours: {type(error).__name__}. Please report it with the lines "
            f"above and your command. {GOES_ON}"
        )
        return FAULT
    _say(f"Error: {line}")
    return USAGE


def _show(error: _Shows) -> int:
    error.show()
    return error.exit_code


def _say(line: str) -> None:
    """Print a line on standard error, in red on a terminal."""
    red = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    sys.stderr.write(f"\033[31m{line}\033[0m\n" if red else f"{line}\n")
    sys.stderr.flush()


def explain_error(error: BaseException) -> str | None:
    """Return one line on an error that comes from outside: what, which file, what to do; None for a fault."""
    if isinstance(error, KalmError):
        return str(error)
    if _is_memory(error):
        return MEMORY
    names = _class_names(error)
    for name, words in DAMAGED.items():
        if name in names and not isinstance(error, UnicodeEncodeError):
            return f"{_place(error) or 'a file'} {words} ({_first_line(error)}). {AGAIN}"
    if isinstance(error, OSError):
        return _of_system(error)
    return None


def _of_system(error: OSError) -> str:
    remedy = REMEDIES.get(error.errno or 0, "")
    if error.errno is None:  # a library's own words, not the system's
        return _first_line(error)
    place = _place(error)
    return f"{f'{place}: ' if place else ''}{reason(error)}. {remedy}".strip()


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or "OutOfMemoryError" in _class_names(error):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "not enough memory", "out of memory")
    )


def _class_names(error: BaseException) -> set[str]:
    """Return the names of an error's classes, with and without their module."""
    kinds = type(error).__mro__
    return {kind.__name__ for kind in kinds} | {f"{kind.__module__}.{kind.__name__}" for kind in kinds}


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".") if lines else type(error).__name__


def _place(error: BaseException) -> str:
    """Return the file that an error is about, or the folder that it lies in; empty if unknown."""
    if isinstance(error, OSError) and isinstance(error.filename, str | bytes):
        return os.fsdecode(error.filename)
    for path in _paths(error.__traceback__):
        if path.is_file():
            return str(path)
        if path.is_dir():
            return f"a file in {path}"
    return ""


def _paths(trace: TracebackType | None) -> Iterator[Path]:
    """Yield the paths among the variables of the functions on the way to an error, innermost first."""
    frames = [frame for frame, _ in traceback.walk_tb(trace)]
    for frame in reversed(frames):
        yield from (value for value in frame.f_locals.values() if isinstance(value, Path))
