"""Output folders: refused before anything is touched, held, emptied without being removed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kalm.errors import KalmError
from kalm.runs import output
from kalm.runs.folder import Stage, alone, claim
from kalm.runs.output import LOCK, clear, free, output_folder, require_apart


@pytest.mark.parametrize(
    ("out", "source", "relation"),
    [("d", "d", "is"), (".", "d", "holds"), ("d/x/y", "d", "lies in"), ("e/../d", "d", "is")],
)
def test_an_output_that_touches_an_input_is_refused(tmp_path, out, source, relation):
    for name in ("d", "e"):
        (tmp_path / name).mkdir()
    (tmp_path / "d" / "dataset.json").write_text("{}")
    with pytest.raises(KalmError, match=f"output folder .* {relation} .*d, which is an input"):
        require_apart(tmp_path / out, [tmp_path / source])
    require_apart(tmp_path / "e", [tmp_path / source])
    require_apart(tmp_path / "dd", [tmp_path / source])


def test_links_do_not_hide_that_output_and_input_are_the_same(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "d")
    for out, source in (("link", "d"), ("d", "link"), ("link/below", "d")):
        with pytest.raises(KalmError, match="which is an input"):
            require_apart(tmp_path / out, [tmp_path / source])


def test_a_stage_alone_deletes_none_of_its_inputs(tmp_path):
    data = tmp_path / "data"
    Stage(data, {"made": "before"}).begin()
    (data / "dataset.json").write_text("{}")
    for out in (data, tmp_path):
        with pytest.raises(KalmError, match="Nothing was changed"):
            alone(out, "train", {}, {"real": data}, lambda: {}, overwrite=True)
        with pytest.raises(KalmError, match="Nothing was changed"):
            alone(out, "train", {}, {}, lambda: {}, reads=[data], overwrite=True)
        with pytest.raises(KalmError, match="Nothing was changed"), claim(out, {}, "", [data]):
            pass
    assert (data / "dataset.json").exists() and sorted(tmp_path.iterdir()) == [data]


def test_places_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    cases = {
        tmp_path / "file": "is a file; the output is a folder",
        tmp_path / "file" / "below" / "it": "is a file, so .* cannot be made",
        tmp_path / "dangling": "is a link to .*nowhere, which does not exist",
        tmp_path / "dangling" / "below": "is a link to .*nowhere, which does not exist",
        tmp_path / ("x" * 300): "cannot be made: file name too long",
        Path("/proc/kalm"): "cannot be made: no such file",
        Path("/sys/kernel"): "cannot be written to: ",
    }
    for place, says in cases.items():
        with pytest.raises(KalmError, match=says) as refused, output_folder(place):
            pass
        assert "\n" not in str(refused.value)
    assert (tmp_path / "file").read_text() == "mine"


def stage(folder: Path, steps: int, overwrite: bool = False) -> None:
    """Do a stage that writes a file named after its settings."""
    alone(
        folder,
        "made",
        {"steps": steps},
        {},
        lambda: (folder / f"result-{steps}").write_text("x") and {},
        overwrite=overwrite,
    )


def test_contents_are_replaced_and_the_folder_stays(tmp_path, monkeypatch):
    real, folder = tmp_path / "disk", tmp_path / "out"
    real.mkdir(mode=0o770)
    real.chmod(0o2770)
    folder.symlink_to(real)
    before = real.stat()
    stage(folder, 1)
    (folder / "sub").mkdir()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "kept").write_text("theirs")
    (folder / "link").symlink_to(tmp_path / "others")
    (folder / ".git").mkdir()
    (folder / "lost+found").mkdir()
    (folder / ".kalm.model.new.12ab34cd").mkdir()
    with pytest.raises(KalmError, match="other settings"):
        stage(folder, 2)
    stage(folder, 2, overwrite=True)
    assert folder.is_symlink() and (real.stat().st_ino, real.stat().st_mode) == (
        before.st_ino,
        before.st_mode,
    )
    names = {entry.name for entry in real.iterdir()}
    assert names == {"result-2", "started.json", "done.json", ".git", "lost+found"}
    assert (tmp_path / "others" / "kept").exists()
    monkeypatch.chdir(real)
    stage(Path("."), 3, overwrite=True)
    assert (real / "result-3").exists() and real.stat().st_ino == before.st_ino


def test_new_files_take_mode_and_group_from_the_folder(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    os.chown(folder, -1, os.getgroups()[-1] if os.getuid() else 12)
    folder.chmod(0o2770)
    old = os.umask(0o007)
    try:
        stage(folder, 1)
    finally:
        os.umask(old)
    made = (folder / "done.json").stat()
    assert made.st_gid == folder.stat().st_gid and made.st_mode & 0o777 == 0o660


def test_what_is_hidden_or_only_begun_counts_as_nothing(tmp_path):
    assert free(tmp_path / "none") and free(tmp_path)
    (tmp_path / ".snapshot").mkdir()
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "real").mkdir()
    assert free(tmp_path)
    (tmp_path / "real" / "started.json").write_text("{}")
    assert not free(tmp_path) and free(tmp_path, ["started.json"])
    (tmp_path / "real" / "shard").write_text("")
    assert not free(tmp_path, ["started.json"])


def test_after_a_first_call_that_failed_at_once_the_right_one_goes_on(tmp_path):
    def fails():
        raise KalmError("no such model")

    with pytest.raises(KalmError, match="no such model"):
        alone(tmp_path / "o", "imagine", {}, {"model": "typo"}, fails)
    alone(tmp_path / "o", "imagine", {}, {"model": "right"}, lambda: {})
    with pytest.raises(KalmError, match="no such env"), claim(tmp_path / "r", {"env": 1}, "kalm run"):
        raise KalmError("no such env")
    with claim(tmp_path / "r", {"env": 2}, "kalm run"):
        pass
    assert json.loads((tmp_path / "r" / "config.json").read_text())["settings"] == {"env": 2}


def test_settings_of_another_program_are_not_taken_for_a_run(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(KalmError, match="not made by kalm"):
        stage(tmp_path, 1, overwrite=True)
    assert (tmp_path / "config.json").read_text() == '{"model_type": "bert"}'


HOLD = """
import sys, time
from pathlib import Path
from kalm.runs.output import output_folder
with output_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "o")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


def test_a_second_process_is_refused_until_the_first_ends(tmp_path, holder):
    folder = tmp_path / "o"
    for place in (folder, folder / "policies"):
        with pytest.raises(KalmError, match=f"in use by process {holder.pid} since 2.*Wait for it"):
            stage(place, 1)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (folder / LOCK).exists(), "it had no time to clean up"
    stage(folder, 1)
    assert not (folder / LOCK).exists()


def test_a_lock_of_another_machine_holds_while_it_is_young(tmp_path):
    lock = tmp_path / LOCK
    lock.write_text(json.dumps({"pid": 1, "host": "elsewhere", "command": "kalm run", "since": "noon"}))
    with pytest.raises(KalmError, match="process 1 on elsewhere .*remove .* since noon: kalm run"):
        stage(tmp_path, 1)
    old = time.time() - output.TAKEN_OVER_AFTER - 1
    os.utime(lock, (old, old))
    stage(tmp_path, 1)
    assert (tmp_path / "result-1").exists()


def test_without_the_systems_locks_a_living_process_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "_lock", lambda *_: None)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for process, refused in ((os.getppid(), True), (gone.pid, False)):
        about = {"pid": process, "host": output.socket.gethostname(), "since": "noon"}
        (tmp_path / LOCK).write_text(json.dumps(about))
        if refused:
            with pytest.raises(KalmError, match="in use by process"), output_folder(tmp_path):
                pass
        else:
            with output_folder(tmp_path):
                pass


def test_the_holder_keeps_its_lock_young(tmp_path, monkeypatch):
    monkeypatch.setattr(output, "TOUCHED_EVERY", 0.01)
    with output_folder(tmp_path):
        os.utime(tmp_path / LOCK, (0, 0))
        for _ in range(500):
            if (tmp_path / LOCK).stat().st_mtime > 0:
                break
            time.sleep(0.01)
        assert time.time() - (tmp_path / LOCK).stat().st_mtime < 60


def test_clearing_keeps_the_lock(tmp_path):
    with output_folder(tmp_path):
        (tmp_path / "a").write_text("")
        clear(tmp_path)
        assert [entry.name for entry in tmp_path.iterdir()] == [LOCK]
