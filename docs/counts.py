"""Prints the counts of docs/architecture.md: size of the code, how often things are written, time to start.

Usage, from the root of the repository, for this tree or for others beside each other::

    python docs/counts.py [PATH ...]

How often a thing is written is counted by what gives it away, which every line says. Times are the best of
five. The size of an installation is that of all packages that the dependencies bring, as they lie here.
"""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

TRIES = 5
Functions = ast.FunctionDef | ast.AsyncFunctionDef
MAKES_SCHEDULE = ("LR", "get_scheduler", "_schedule_with_warmup")
KEEPS_MOMENTS = ("exp_avg", "optimizer.state", "optimizers")
NOT_PLAYING = ("score", "scoring", "simple", "base")  # modules that judge what is stored, or define judges


@dataclass(frozen=True)
class Code:
    """The package in a checkout."""

    root: Path

    @cached_property
    def texts(self) -> dict[Path, str]:
        """Path below ``src/kalm`` -> text."""
        source = self.root / "src" / "kalm"
        return {path.relative_to(source): path.read_text("utf-8") for path in sorted(source.rglob("*.py"))}

    @cached_property
    def nodes(self) -> list[tuple[Path, ast.AST]]:
        """All nodes of all syntax trees."""
        return [(path, node) for path, text in self.texts.items() for node in ast.walk(ast.parse(text))]

    @cached_property
    def functions(self) -> list[tuple[Path, Functions]]:
        """All functions and methods."""
        return [(path, node) for path, node in self.nodes if isinstance(node, Functions)]

    @cached_property
    def classes(self) -> list[ast.ClassDef]:
        """All classes."""
        return [node for _, node in self.nodes if isinstance(node, ast.ClassDef)]


def main() -> None:
    """Print a Markdown table, a column per checkout."""
    roots = [Path(name) for name in sys.argv[1:]] or [Path(__file__).parents[1]]
    columns = [counts(Code(root)) for root in roots]
    print(f"| measure | {' | '.join(root.name or 'here' for root in roots)} |")
    print(f"|---|{'---:|' * len(roots)}")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(str(column[name]) for column in columns)} |")


def counts(code: Code) -> dict[str, object]:
    """Return measure -> value."""
    lines = [len(text.splitlines()) for text in code.texts.values()]
    lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for _, node in code.functions]
    defined = [node.name for _, node in code.functions] + [node.name for node in code.classes]
    return {
        "files": len(lines),
        "lines": f"{sum(lines):,}",
        "lines of a file, median and longest": f"{statistics.median(lines):.0f}, {max(lines)}",
        "lines of a function, median and longest": f"{statistics.median(lengths):.0f}, {max(lengths)}",
        "distinct public names (classes, functions, methods)": len({n for n in defined if n[0] != "_"}),
        "public classes that share their name with another": shared_names(code),
        "the word `Any`": sum(len(re.findall(r"\bAny\b", text)) for text in code.texts.values()),
        "training loops (functions that let an optimizer step)": counted(code, steps_weights),
        "learning-rate schedules (made, or a rate set by hand)": counted(code, schedules),
        "checkpoint writers (functions that store an optimizer's moments)": counted(code, writes_moments),
        "normalisers (classes with tensors for a centre and a spread)": sum(map(holds_units, code.classes)),
        "episode loops (functions that ask a judge after a step)": counted(code, judges_steps),
        "seconds for `import kalm`": f"{fastest(code, '-c', 'import kalm'):.2f}",
        "seconds for `kalm --help`": f"{fastest(code, '-m', 'kalm', '--help'):.2f}",
        "packages, and GB, of an installation without extras": installation(code),
    }


def shared_names(code: Code) -> int:
    """Count the names that more than one public class has."""
    found = [node.name for node in code.classes if not node.name.startswith("_")]
    return sum(1 for name in set(found) if found.count(name) > 1)


def counted(code: Code, telling: Callable[[Code, Path, Functions], bool]) -> int:
    """Count the functions of which that is true."""
    return sum(telling(code, path, node) for path, node in code.functions)


def calls(node: ast.AST) -> Iterator[str]:
    """Yield what is called in a function, as written: ``"optimizer.step"``."""
    return (ast.unparse(inner.func) for inner in ast.walk(node) if isinstance(inner, ast.Call))


def steps_weights(code: Code, path: Path, node: Functions) -> bool:
    """Tell whether an optimizer takes a step here."""
    return any(call.endswith(("optimizer.step", "adam.step")) for call in calls(node))


def schedules(code: Code, path: Path, node: Functions) -> bool:
    """Tell whether a scheduler is made here, or a learning rate set by hand."""
    targets = [part for inner in ast.walk(node) if isinstance(inner, ast.Assign) for part in inner.targets]
    by_hand = any(ast.unparse(target).endswith("['lr']") for target in targets)
    return by_hand or any(call.endswith(MAKES_SCHEDULE) for call in calls(node))


def writes_moments(code: Code, path: Path, node: Functions) -> bool:
    """Tell whether tensors are written here, in a module that knows what an optimizer keeps."""
    knows = any(word in code.texts[path] for word in KEEPS_MOMENTS)
    return knows and any(call.endswith(("save_file", "torch.save")) for call in calls(node))


def judges_steps(code: Code, path: Path, node: Functions) -> bool:
    """Tell whether a judge is asked about success here."""
    defines = path.parts[0] == "goals" or (path.parts[0] == "envs" and len(path.parts) > 2)
    return (
        not defines
        and path.stem not in NOT_PLAYING
        and any(call.endswith(".success") for call in calls(node))
    )


def holds_units(node: ast.ClassDef) -> bool:
    """Tell whether a class has a tensor for where numbers lie, and one for how far they spread."""
    fields = [inner.target for inner in ast.walk(node) if isinstance(inner, ast.AnnAssign)]
    words = {ast.unparse(field).removeprefix("self.") for field in fields}
    words |= {str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant)}
    tensors = "Tensor" in ast.unparse(node)
    return tensors and bool(words & {"mean", "center"}) and bool(words & {"spread", "std", "scale"})


def fastest(code: Code, *arguments: str) -> float:
    """Return the seconds of the fastest of some calls of Python."""
    return min(seconds(code, arguments) for _ in range(TRIES))


def seconds(code: Code, arguments: tuple[str, ...]) -> float:
    """Return the seconds of one call of Python with this package."""
    environment = {**os.environ, "PYTHONPATH": str(code.root / "src")}
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def installation(code: Code) -> str:
    """Return the number and the size of all packages that the dependencies bring; ``–``: one is not here."""
    project = tomllib.loads((code.root / "pyproject.toml").read_text("utf-8"))["project"]
    found: dict[str, int] = {}
    waiting = [Requirement(line) for line in project["dependencies"]]
    while waiting:
        wanted = waiting.pop()
        name = wanted.name.lower().replace("_", "-")
        extras = [{"extra": extra} for extra in wanted.extras] or [{"extra": ""}]
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        try:
            package = distribution(name)
        except PackageNotFoundError:
            return "–"
        places = [Path(str(package.locate_file(file))) for file in package.files or []]
        found[name] = sum(place.stat().st_size for place in places if place.is_file())
        needs = [Requirement(line) for line in package.requires or []]
        waiting += [r for r in needs if not r.marker or any(r.marker.evaluate(extra) for extra in extras)]
        for need in waiting:
            need.marker = None  # evaluated just now
    return f"{len(found)}, {sum(found.values()) / 1e9:.2f}"


if __name__ == "__main__":
    main()
