"""Prints the counts of docs/architecture.md: size of the code, how often things are written, time to start.

Usage, from the root of the repository, for this tree or for another checkout::

    python docs/counts.py [PATH]

How often a thing is written is counted by what gives it away, which every line says. Times are the best of
five.
"""

from __future__ import annotations

import ast
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1])
SOURCE = ROOT / "src" / "kalm"
TRIES = 5
Trees = Mapping[Path, ast.Module]
Functions = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> None:
    """Print a Markdown table."""
    texts = {path.relative_to(SOURCE): path.read_text("utf-8") for path in sorted(SOURCE.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    lines = [len(text.splitlines()) for text in texts.values()]
    lengths = [node.end_lineno - node.lineno + 1 for node in functions(trees)]
    rows = {
        "files": len(texts),
        "lines": f"{sum(lines):,}",
        "lines of a file, median and longest": f"{statistics.median(lines):.0f}, {max(lines)}",
        "lines of a function, median and longest": f"{statistics.median(lengths):.0f}, {max(lengths)}",
        "distinct public names (classes, functions, methods)": len(set(public_names(trees))),
        "public classes that share their name with another": shared_names(trees),
        "the word `Any`": sum(len(re.findall(r"\bAny\b", text)) for text in texts.values()),
        "training loops (functions that call an optimizer's `step`)": counted(trees, steps_weights),
        "learning-rate schedules (made, or a rate set by hand)": counted(trees, schedules),
        "checkpoint writers (functions that write an optimizer's moments)": counted(trees, writes_moments),
        "normalisers (classes that hold a centre and a spread as tensors)": normalisers(trees),
        "episode loops (functions that ask a judge after a step)": counted(trees, judges_steps),
        "seconds for `import kalm`": f"{fastest('-c', 'import kalm'):.2f}",
        "seconds for `kalm --help`": f"{fastest('-m', 'kalm', '--help'):.2f}",
    }
    print("| measure | value |\n|---|---:|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")


def functions(trees: Trees) -> Iterator[Functions]:
    """Yield all functions and methods."""
    for tree in trees.values():
        yield from (node for node in ast.walk(tree) if isinstance(node, Functions))


def public_names(trees: Trees) -> Iterator[str]:
    """Yield the names of classes, functions and methods that do not begin with an underscore."""
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | Functions) and not node.name.startswith("_"):
                yield node.name


def shared_names(trees: Trees) -> int:
    """Count the names that more than one public class has."""
    found = [n.name for tree in trees.values() for n in tree.body if isinstance(n, ast.ClassDef)]
    return sum(1 for name in set(found) if not name.startswith("_") and found.count(name) > 1)


def counted(trees: Trees, telling: Callable[[Path, Functions], int]) -> int:
    """Sum up over the innermost functions."""
    return sum(
        telling(path, node)
        for path, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, Functions)
    )


def calls(node: ast.AST) -> Iterator[str]:
    """Yield what is called in a function, as written: ``"optimizer.step"``."""
    return (ast.unparse(inner.func) for inner in ast.walk(node) if isinstance(inner, ast.Call))


def steps_weights(path: Path, node: Functions) -> int:
    """Tell whether an optimizer takes a step here."""
    return any(call.endswith(("optimizer.step", "adam.step")) for call in calls(node))


def schedules(path: Path, node: Functions) -> int:
    """Tell whether a scheduler is made here, or a learning rate set by hand."""
    makers = ("LR", "get_scheduler", "_schedule_with_warmup")
    made = any(call.endswith(makers) for call in calls(node))
    targets = [t for inner in ast.walk(node) if isinstance(inner, ast.Assign) for t in inner.targets]
    return made or any(ast.unparse(target).endswith("['lr']") for target in targets)


def writes_moments(path: Path, node: Functions) -> int:
    """Tell whether tensors are written here, in a module that knows what an optimizer keeps."""
    tree_text = (SOURCE / path).read_text("utf-8")
    writer = any(call.endswith(("save_file", "torch.save")) for call in calls(node))
    return writer and any(word in tree_text for word in ("exp_avg", "optimizer.state", "optimizers"))


def judges_steps(path: Path, node: Functions) -> int:
    """Tell whether a judge is asked about success here; scoring stored rollouts and judges do not count."""
    judges = path.parts[0] == "goals" or (path.parts[0] == "envs" and len(path.parts) > 2)
    scoring = path.stem in ("score", "scoring", "simple", "base")
    return not judges and not scoring and any(call.endswith(".success") for call in calls(node))


def normalisers(trees: Trees) -> int:
    """Count classes that hold a centre and a spread as tensors, be they buffers or fields."""
    return sum(
        1
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and holds_units(node)
    )


def holds_units(node: ast.ClassDef) -> bool:
    """Tell whether a class has a tensor for where its numbers lie, and one for how far they spread."""
    fields = [inner.target for inner in ast.walk(node) if isinstance(inner, ast.AnnAssign)]
    words = {ast.unparse(field).removeprefix("self.") for field in fields}
    words |= {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    tensor = "Tensor" in ast.unparse(node)
    return (
        tensor and bool(words & {"mean", "center"}) and bool(words & {"spread", "std", "deviation", "scale"})
    )


def fastest(*arguments: str) -> float:
    """Return the seconds of the fastest of some calls of Python."""
    return min(seconds(arguments) for _ in range(TRIES))


def seconds(arguments: Iterable[str]) -> float:
    """Return the seconds of one call of Python."""
    began = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
