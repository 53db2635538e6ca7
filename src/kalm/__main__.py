"""``python -m kalm``, for launchers that want a module."""

from kalm.cli import main

main()
