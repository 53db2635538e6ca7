"""The floors of the house: imports run downward, and heavy libraries load in the room that needs them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import kalm

ROOT = Path(kalm.__file__).parent
FLOORS = {
    "types": 0, "errors": 0, "run": 1, "pretrained": 1, "training": 2, "envs": 2, "data": 3,
    "dynamics": 4, "lm": 5, "rl": 5, "registry": 6, "evaluation": 7, "report": 8, "config": 9, "session": 10,
    "policies": 11, "sweep": 12, "pipeline": 12, "online": 13, "cli": 14, "__main__": 15,
}  # fmt: skip
HEAVY = ("torch", "mujoco", "d3rlpy", "matplotlib", "transformers", "gradio", "pyarrow")
# Files whose names are looked up on first use only.
LAZY = {"__init__.py"}


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("kalm.")} & FLOORS.keys()


FILES = [path for path in ROOT.rglob("*.py") if str(path.relative_to(ROOT)) not in LAZY]


def test_every_room_has_a_floor():
    assert {room(path) for path in FILES} == FLOORS.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downward(path):
    mine = room(path)
    for other in imported_rooms(path) - {mine}:
        assert FLOORS[other] < FLOORS[mine] or FLOORS[mine] <= 1 and FLOORS[other] <= 1, (
            f"{mine} imports {other}"
        )


def test_no_relative_imports():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path


@pytest.mark.parametrize("code", ["import kalm", "from kalm.cli.main import main; main()"])
def test_import_and_help_load_nothing_heavy(code):
    check = (
        f"import sys; sys.argv = ['kalm', '--help']\ntry:\n {code}\nexcept SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"
