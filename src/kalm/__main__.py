"""``python -m kalm``, for launchers that want a module."""

from kalm.cli.main import main

main()
