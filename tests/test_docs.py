"""README and docs hold: snippets run, commands, settings and links exist, numbers are those of results/."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from itertools import groupby
from pathlib import Path

import pytest
import typer

from documents import DOCUMENTS, LANGUAGES, ROOT, Snippet, kalm_words, lines, snippets
from kalm.cli.main import app, main
from kalm.config import describe_settings, load_config, sections
from kalm.evaluation.results import read_rows
from kalm.report.scores import scores
from kalm.report.tables import share

README = ROOT / "README.md"
PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in DOCUMENTS]
RUNNING = [
    pytest.param(page, id=str(page.relative_to(ROOT)))
    for page in DOCUMENTS
    if any(one.runs and one.language in ("python", "sh") for one in snippets(page))
]
TOOLS = {"pip", "pytest", "make", "python", "python3.11", "export", ".", "pre-commit", "git"}


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_blocks_are_known(page: Path) -> None:
    for one in snippets(page):
        assert one.language in LANGUAGES, f"{one.place}: language {one.language!r}"
        if one.language == "python":
            compile(one.text, one.place, "exec")
        if one.why_not.startswith("a part of "):
            whole = (ROOT / one.why_not.removeprefix("a part of ")).read_text("utf-8")
            lost = [line for line in one.text.splitlines() if line.strip() and line.strip() not in whole]
            assert not lost, f"{one.place}: {lost}"
        if one.language == "sh":
            for words in lines(one.text):
                check_command(one, words)


def check_command(one: Snippet, words: list[str]) -> None:
    arguments = kalm_words(words)
    if arguments is not None:
        check_call(one.place, arguments)
        return
    assert words[0] in TOOLS, f"{one.place}: {words[0]!r} is no known tool"
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text("utf-8"), f"{one.place}: make {words[1]}"
    for word in words[1:]:
        if word.endswith(".py") or word.startswith(("tests/", "docs/", "./examples")):
            assert (ROOT / word).exists(), f"{one.place}: {word} does not exist"


def check_call(place: str, arguments: list[str]) -> None:
    """Parse a call as the command line would, and resolve its settings."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert arguments and arguments[0] in command.commands, f"{place}: kalm {' '.join(arguments)}"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    given = command.make_context(command.name, list(arguments)).params
    if given.get("env") != "taxi":  # a plug-in, which need not be installed here
        load_config(given.get("preset"), given.get("set_") or [], env=given.get("env"))


@pytest.mark.parametrize("page", RUNNING)
def test_snippets_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("examples", "results", "recipes"):  # what snippets name is where it is in the repository
        (tmp_path / folder).symlink_to(ROOT / folder)
    names: dict[str, object] = {"__name__": "__main__"}
    for one in snippets(page):
        if one.runs and one.language == "python":
            exec(compile(one.tested, one.place, "exec"), names)
        if one.runs and one.language == "sh":
            for words in lines(one.tested):
                run_command(one, words, monkeypatch)


def run_command(one: Snippet, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert words[0] == "kalm", f"{one.place}: {words[0]!r} is not run here; say why above the block"
    monkeypatch.setattr(sys, "argv", words)
    before = dict(os.environ)
    try:
        main()
    except SystemExit as end:
        assert not end.code, f"{one.place}: {' '.join(words)} ended with {end.code}"
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.mark.parametrize("page", PAGES)
def test_settings_in_yaml_load(page: Path, tmp_path: Path) -> None:
    for number, one in enumerate(each for each in snippets(page) if each.language == "yaml"):
        file = tmp_path / f"{number}.yaml"
        file.write_text(one.text, "utf-8")
        load_config(str(file))


SECTIONS = "|".join(name for name in sections() if name and "." not in name)
NAMED = re.compile(rf"`((?:{SECTIONS})\.[a-z_.0-9]+?)(?:=[^`]*)?`")
FILES = (".csv", ".html", ".json", ".md", ".py")


@pytest.mark.parametrize("page", PAGES)
def test_settings_in_the_text_exist(page: Path) -> None:
    known = {setting.path for setting in describe_settings()} | set(sections())
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)
    named = {name for name in NAMED.findall(text) if not name.endswith(FILES)}
    assert named <= known, f"{page.name}: {sorted(named - known)}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if not target.startswith(("http", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def test_walks_name_files_and_enter_no_room_more_than_twice() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("## Four walks")[2]
    walks = re.split(r"^### ", page.partition("\n## ")[0], flags=re.M)[1:]
    assert len(walks) == 4
    for walk in walks:
        files = re.findall(r"^\d+\. `(\S+\.py)` ", walk, re.M)
        assert len(files) > 3 and all((ROOT / "src" / "kalm" / file).is_file() for file in files), files
        rooms = [room for room, _ in groupby(file.partition("/")[0] for file in files)]
        assert max(Counter(rooms).values()) <= 2, rooms


def test_the_rooms_of_the_plan_are_those_of_the_package() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("## Rooms")[2]
    plan = re.search(r"^```text\n(.*?)^```$", page, re.M | re.S)
    assert plan is not None
    named = {room.strip("/") for line in plan[1].splitlines() for room in line[:32].split()}
    places = (ROOT / "src" / "kalm").iterdir()
    found = {place.stem for place in places if place.suffix == ".py" or (place / "__init__.py").exists()}
    assert named == found - {"__init__", "__main__"}


def test_numbers_of_the_readme_are_those_of_its_results() -> None:
    tables = re.findall(r"^<!-- numbers: (\S+) -->\n((?:\|.*\n)+)", README.read_text("utf-8"), re.M)
    assert len(tables) == 2
    for file, table in tables:
        found = {score.policy: score.rates for score in scores(read_rows(ROOT / file))}
        header, _, *rows = [
            [cell.strip(" *") for cell in line.split("|")[1:-1]] for line in table.splitlines()
        ]
        for policy, *cells in rows:
            names = ["novel" if name == "novel mean" else name for name in header[1:]]
            assert cells == [share(found[policy][name]) for name in names], f"{file}: {policy}"


def test_readme_is_short() -> None:
    assert len(README.read_text("utf-8").splitlines()) <= 150
