"""How a command ends when something goes wrong outside, inside, or by Ctrl-C."""

import errno
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from kalm.cli import border
from kalm.cli.main import main
from kalm.errors import KalmError


def ends(capsys, work) -> tuple[int, str]:
    """Return the exit code and what was said."""
    code = border.run_guarded(work)
    said = capsys.readouterr()
    assert said.out == ""
    return code, said.err


def fail(error):
    raise error


def one_line(told: tuple[int, str], *words: str) -> None:
    code, said = told
    assert code == 2 and said.count("\n") == 1 and said.startswith("Error: "), said
    for word in words:
        assert word in said


def read_parquet(path):
    import pyarrow.parquet as pq

    return pq.read_table(path)


def read_safetensors(path):
    from safetensors.torch import load_file

    return load_file(path)


def read_numpy(path):
    with np.load(path.with_suffix(".npz")) as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    ("read", "says"),
    [
        (read_parquet, "Parquet"),
        (read_safetensors, "safetensors"),
        (lambda path: json.loads(path.read_text("latin-1")), "is no JSON"),
        (lambda path: path.read_text("utf-8"), "is no text in UTF-8"),
        (lambda path: yaml.safe_load("a: [" + path.read_text("latin-1")[:0]), "is no YAML"),
        (lambda path: pickle.loads(path.read_bytes()), "is damaged"),
    ],
)
def test_a_file_of_another_kind_is_named(tmp_path, capsys, read, says):
    path = tmp_path / "file.bin"
    path.write_bytes(b"\xff\xfe\x80 version https://git-lfs.github.com/spec/v1\n" * 9)
    one_line(ends(capsys, lambda: read(path)), str(path), says)


def test_a_cut_archive_is_named(tmp_path, capsys):
    path = tmp_path / "file.npz"
    np.savez(path, a=np.arange(10_000))
    path.write_bytes(path.read_bytes()[:5000])
    one_line(ends(capsys, lambda: read_numpy(path)), str(path), "damaged")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a/b"), "a/b: permission denied. Give"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a"),
            "a: no such file or dir",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "left on device. Make room on",
        ),
        (
            OSError("my-org/none is not a local folder\nand more"),
            "Error: my-org/none is not a local folder\n",
        ),
        (MemoryError(), "too little memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"),
            "too little memory",
        ),
        (EOFError(), "ends too early"),
        (KalmError("x is wrong. Do y."), "Error: x is wrong. Do y.\n"),
    ],
)
def test_errors_of_the_system_are_one_line(capsys, error, says):
    one_line(ends(capsys, lambda: fail(error)), says)


def test_a_full_disk_names_the_file_and_the_remedy(tmp_path, capsys):
    """The limit on the size of a file stands for the disk's end."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        told = ends(capsys, lambda: (tmp_path / "big").write_bytes(b"x" * 5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    one_line(told, str(tmp_path / "big"), "file too large", "The same command goes on")


def test_a_fault_keeps_its_traceback_and_asks_for_a_report(capsys):
    code, said = ends(capsys, lambda: {}["missing"])
    assert code == 1 and "Traceback" in said and "KeyError: 'missing'" in said
    assert said.splitlines()[-1].startswith("Error: a fault of kalm, not of yours: KeyError. Please report")


def test_debugging_shows_the_traceback_of_every_error(capsys, monkeypatch):
    monkeypatch.setenv("KALM_DEBUG", "1")
    code, said = ends(capsys, lambda: fail(KalmError("x is wrong.")))
    assert code == 2 and "Traceback" in said and said.endswith("Error: x is wrong.\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["goals", "show", "--limit", "-5"], "'--limit': input should be greater"),
        (["collect", "--seed", "-1", "--out", "x"], "'--seed': input should be greater"),
        (
            ["collect", "--workers", "0", "--out", "x"],
            "'--workers': input should be greater",
        ),
        (["inspect", "m", "--rollouts", "0"], "'--rollouts': input should be greater"),
        (["run", "--rounds", "-1", "--out", "x"], "'--rounds': input should be greater"),
        (
            ["ground", "--data", "d", "--dry-run", "--processes", "0"],
            "'--processes': input should be greater",
        ),
        (["goals", "show", "--level", "hrad"], "unknown level 'hrad'"),
        (["goals", "check", "."], "cannot be read"),
        (["goals", "show", "--out", "."], "Is a directory"),
    ],
)
def test_options_out_of_bounds_are_refused(arguments, says, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["kalm", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    said = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 2 and says.lower() in said.lower()
    assert not list(tmp_path.iterdir())


@pytest.fixture
def interruptible():
    """Let processes hear Ctrl-C even where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def kalm(code: str, **options):
    """Start a process that runs some code under the border."""
    script = f"from kalm.cli.border import run_guarded\nimport sys, time\n{code}\nsys.exit(run_guarded(work))"
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


SWALLOWED = "except BaseException: raise RuntimeError('DataLoader worker exited')"
GOES_ON = "except BaseException: time.sleep(60)"


@pytest.mark.parametrize("then", ["finally: pass", SWALLOWED], ids=["raised", "turned"])
def test_ctrl_c_says_that_the_same_command_goes_on(then, interruptible):
    process = kalm(
        f"def work():\n try:\n  print('on', flush=True); time.sleep(60)\n {then}\n",
    )
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said == "Stopped. The same command goes on where this one ended.\n"


def test_a_second_ctrl_c_ends_what_swallowed_the_first(interruptible):
    process = kalm(f"def work():\n try:\n  print('on', flush=True); time.sleep(60)\n {GOES_ON}\n")
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and said.startswith("Stopped.")


def test_the_real_command_line_stops_in_the_same_way(tmp_path, interruptible):
    command = [sys.executable, "-m", "kalm", "collect", "--out", str(tmp_path / "o"), "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "o" / "started.json").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "Stopped. The same command goes on" in said and "Trace" not in said
    assert not (tmp_path / "o" / ".kalm.lock").exists()


def test_an_ascii_terminal_does_not_end_the_work():
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    process = kalm("def work(): print('61\\u00b13 \\U0001f600')", env=env)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out, said) == (0, "61\\xb13 \\U0001f600\n", "")


def test_who_has_seen_enough_may_close_the_pipe():
    process = kalm("def work():\n for _ in range(100_000): print('x' * 100)\n")
    process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    assert process.wait(60) == 0 and said == ""


def test_a_backbone_in_a_folder_with_any_name(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "mod\u00e8le \U0001f600 \"'{}"
    monkeypatch.setattr(
        sys, "argv", ["kalm", "ground", "--data", "d", "--backbone", str(folder), "--out", "o"]
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and "d/dataset.json does not exist" in capsys.readouterr().err
    started = json.loads((tmp_path / "o" / "started.json").read_text("utf-8"))
    assert started["made_from"]["ground"]["backbone"] == str(folder)
