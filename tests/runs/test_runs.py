import json
import os

import pytest

from kalm.errors import KalmError
from kalm.runs.folder import Stage
from kalm.runs.io import atomic_folder, atomic_write, read_json, recover_folder
from kalm.runs.metrics import Metrics, read_metrics
from kalm.runs.output import LOCK
from kalm.runs.seeding import derive_seed


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_failed_folder_leaves_the_old_folder(tmp_path):
    with atomic_folder(tmp_path / "a") as place:
        (place / "x").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "a") as place:
        (place / "x").write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "a" / "x").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_seeds_differ_by_every_part_and_stay():
    seeds = {derive_seed(*parts) for parts in [(0, "a", 0), (0, "a", 1), (0, "b", 0), (1, "a", 0)]}
    assert len(seeds) == 4 and all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "collect", 1) == derive_seed(0, "collect", 1)


def test_a_stage_is_done_only_for_what_it_was_made_from(tmp_path, capsys):
    stage = Stage(tmp_path / "s", {"steps": 1})
    stage.folder.mkdir()
    (stage.folder / LOCK).touch()  # who works in a folder holds it
    stage.begin()
    assert not capsys.readouterr().err
    (stage.folder / "half").write_text("kept")
    assert not stage.done()
    Stage(tmp_path / "s", {"steps": 1}).begin()
    assert (stage.folder / "half").exists(), "an interrupted twin goes on"
    stage.finish({"ok": 1}, 2.0)
    assert Stage(tmp_path / "s", {"steps": 1}).done()
    other = Stage(tmp_path / "s", {"steps": 2})
    assert not other.done() and not capsys.readouterr().err
    other.begin()
    assert "is made anew" in capsys.readouterr().err
    assert not (stage.folder / "half").exists(), "what other settings made is cleared"


def test_metrics_after_a_resume_have_no_double_part(tmp_path):
    metrics = Metrics(tmp_path)
    for step in (10, 20, 30):
        metrics.log(step, {"loss": step})
    metrics.close()
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 40, "lo')
    metrics = Metrics(tmp_path, step=20)
    metrics.log(30, {"loss": -1})
    metrics.close()
    assert [(row["step"], row["loss"]) for row in read_metrics(tmp_path)] == [(10, 10), (20, 20), (30, -1)]


def test_broken_json_names_the_file(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(KalmError, match=r"run: .*x\.json cannot be read"):
        read_json(tmp_path / "x.json", "run")
    with pytest.raises(KalmError, match="does not exist"):
        read_json(tmp_path / "y.json", "run")
    (tmp_path / "z.json").write_text(json.dumps([1]))
    assert read_json(tmp_path / "z.json", "run") == [1]


def test_a_kill_while_a_folder_is_replaced_loses_neither(tmp_path):
    """Stop between every two steps on the disk: what is read afterwards is the old folder or the new one."""
    folder = tmp_path / "a"
    with atomic_folder(folder) as place:
        (place / "x").write_text("old")
    # Killed while writing: an unfinished new folder beside the old one.
    (tmp_path / ".kalm.a.new.1").mkdir()
    recover_folder(folder)
    assert (folder / "x").read_text() == "old" and list(tmp_path.iterdir()) == [folder]
    # Killed after the old one stepped aside: it comes back.
    folder.rename(tmp_path / ".kalm.a.old")
    (tmp_path / ".kalm.a.new.1").mkdir()
    recover_folder(folder)
    assert (folder / "x").read_text() == "old" and list(tmp_path.iterdir()) == [folder]
    # Killed after the new one came: the old one goes.
    folder.rename(tmp_path / ".kalm.a.old")
    folder.mkdir()
    (folder / "x").write_text("new")
    recover_folder(folder)
    assert (folder / "x").read_text() == "new" and list(tmp_path.iterdir()) == [folder]


def test_a_kill_right_after_the_old_folder_stepped_aside_is_survived(tmp_path, monkeypatch):
    folder = tmp_path / "a"
    with atomic_folder(folder) as place:
        (place / "x").write_text("old")
    moves, replace = [], os.replace

    def dying(source, target):
        moves.append(target)
        if len(moves) == 2:
            os._exit(9)
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    child = os.fork()
    if child == 0:
        with atomic_folder(folder) as place:
            (place / "x").write_text("new")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    monkeypatch.undo()
    assert not folder.exists()
    recover_folder(folder)
    assert (folder / "x").read_text() == "old" and list(tmp_path.iterdir()) == [folder]
