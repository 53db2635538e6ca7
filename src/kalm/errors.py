"""The one error that users meet, raised wherever something from outside is wrong.

The command line prints its text without a traceback, so the text says what came, what is allowed and
what to do.
"""

from collections.abc import Iterable


class KalmError(ValueError):
    """Bad input from outside the library: a file, a name, a field, a folder, a shape."""


def unknown(what: str, came: object, allowed: Iterable[object]) -> KalmError:
    """Return the error for a name that is not in a closed list, e.g. ``unknown("level", "sen", LEVELS)``.

    Args:
        what: kind of thing, as a user calls it.
        came: the name that was given.
        allowed: the names that exist.
    """
    names = ", ".join(sorted(str(name) for name in allowed))
    return KalmError(f"unknown {what} {str(came)!r}. Known: {names}.")
