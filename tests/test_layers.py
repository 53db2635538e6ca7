"""The floors of the house: imports run downward, and heavy libraries load in the room that needs them."""

import ast
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import kalm
from kalm.data.collect import collect_rollouts
from kalm.data.settings import CollectConfig
from kalm.envs import make

ROOT = Path(kalm.__file__).parent
FLOORS = {
    "types": 0, "errors": 0, "runs": 1, "pretrained": 1, "training": 2, "envs": 2, "data": 3,
    "dynamics": 4, "lm": 5, "rl": 5, "registry": 6, "reader": 6, "evaluation": 7, "report": 8,
    "config": 9, "session": 10, "stages": 11, "sweep": 12, "online": 12, "pipeline": 13, "api": 14, "cli": 15,
    "__main__": 16,
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
    assert {room(path) for path in FILES} <= FLOORS.keys()


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


# By their users' agreement; every other name is imported as it is called.
ALIASES = {"np", "pd", "plt", "pa", "pq", "F"}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """Modules of kalm that a file imports, wherever in the file, without `kalm.`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kalm":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}".removeprefix("kalm.")
                names.add(inner if inner in modules else node.module.removeprefix("kalm").lstrip("."))
    return (names & modules) - {module_name(path)}


def cycles(graph: dict[str, set[str]]) -> Iterator[tuple[str, ...]]:
    """Every cycle that a walk from somewhere closes, beginning with its first name."""
    finished: set[str] = set()

    def walk(name: str, way: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        if name in way:
            found = way[way.index(name) :]
            first = found.index(min(found))
            yield (*found[first:], *found[:first])
        elif name not in finished:
            for other in sorted(graph[name]):
                yield from walk(other, (*way, name))
            finished.add(name)

    for name in sorted(graph):
        yield from walk(name, ())


def test_a_cycle_is_found():
    assert list(cycles({"a": {"b"}, "b": {"c"}, "c": {"b"}})) == [("b", "c")]
    assert not list(cycles({"a": {"b", "c"}, "b": {"c"}, "c": set()}))


def test_no_module_imports_itself_by_others():
    paths = {module_name(path): path for path in FILES}
    graph = {name: imported_modules(path, paths.keys()) for name, path in paths.items()}
    assert not set(cycles(graph))


def test_nothing_is_imported_under_another_name():
    found = {
        (module_name(path), alias.asname)
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if alias.asname not in (None, alias.name, *ALIASES)
    }
    assert not found


def public_names(path: Path) -> list[str]:
    """Classes and functions of a module; those of the environments stand side by side in the same files."""
    body = ast.parse(path.read_text("utf-8")).body
    alike = path.relative_to(ROOT).parts[0] == "envs" and path.parent.parent.name == "envs"
    kinds = ast.ClassDef if alike else ast.ClassDef | ast.FunctionDef
    return [node.name for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


def test_no_public_class_or_function_stands_twice():
    counts = Counter(name for path in ROOT.rglob("*.py") for name in public_names(path))
    twice = {name for name, count in counts.items() if count > 1}
    assert not twice, "give one of them a name that says what it does"


CALL = "from kalm.cli.main import main; main()"


@pytest.mark.parametrize(
    ("code", "arguments", "needed"),
    [
        ("import kalm", [], ()),
        (CALL, ["--help"], ()),
        (CALL, ["run", "--help"], ()),
        (CALL, ["goals", "show", "--limit", "1"], ()),
        (CALL, ["models", "list"], ()),
        (CALL, ["data", "info", "DATASET"], ("pyarrow",)),
    ],
    ids=["import", "help", "run help", "goals show", "models list", "data info"],
)
def test_what_needs_nothing_heavy_loads_nothing_heavy(code, arguments, needed, tmp_path):
    if "DATASET" in arguments:
        rollouts = collect_rollouts(make("clevr"), CollectConfig(rollouts=2, shard=2), 0, tmp_path / "data")
        assert len(rollouts) == 2
        arguments = [str(tmp_path / "data") if part == "DATASET" else part for part in arguments]
    check = (
        f"import sys; sys.argv = ['kalm', *{arguments!r}]\ntry:\n {code}\nexcept SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == str(list(needed))
    assert not done.stderr


def test_importing_kalm_leaves_gymnasium_and_numpy_alone_yet_its_environments_are_known():
    check = (
        "import kalm, sys; print([m for m in ('gymnasium', 'numpy', 'pydantic') if m in sys.modules])\n"
        "import gymnasium; print(gymnasium.make('kalm/ClevrRobot-v0').spec.id)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "kalm/ClevrRobot-v0"]
    check = "import gymnasium, kalm; print(gymnasium.make('kalm/ClevrRobot-v0').spec.id)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["kalm/ClevrRobot-v0"]
