"""How the threads of numerical libraries share the cores."""

import os
import subprocess
import sys

import pytest

from kalm.runs import processes


@pytest.fixture
def unset(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", processes.CHOSEN):
        monkeypatch.setenv(name, "")  # so that what the test sets is undone
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("quota", "found"), [("200000 100000", 2), ("50000 100000", 1), ("max 100000", None), ("", None)]
)
def test_the_quota_of_a_group(tmp_path, quota, found):
    (tmp_path / "cpu.max").write_text(quota)
    assert processes._quota(tmp_path / "cpu.max") == found
    assert processes._quota(tmp_path / "none") is None


def test_cores_are_those_that_this_process_may_use(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GROUP_QUOTA", tmp_path / "cpu.max")
    assert processes.cores() == len(os.sched_getaffinity(0))
    (tmp_path / "cpu.max").write_text("100000 100000")
    assert processes.cores() == 1


def test_threads_sleep_and_what_the_user_said_stays(unset, monkeypatch):
    processes.share_cores()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"
    assert os.environ["OMP_NUM_THREADS"] == str(processes.cores())
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    processes.share_cores()
    assert (os.environ["OMP_WAIT_POLICY"], os.environ["OMP_NUM_THREADS"]) == ("active", "7")


def threads(_: int) -> str:
    return os.environ["OMP_NUM_THREADS"]


@pytest.mark.parametrize(("given", "expected"), [(None, "1"), ("7", "7")])
def test_workers_divide_the_cores_unless_the_user_said(unset, monkeypatch, given, expected):
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    processes.share_cores()
    told = {result for _, result in processes.each(threads, [1, 2], 10 * processes.cores())}
    assert told == {expected}


def test_the_command_line_shares_before_any_library_is_loaded():
    code = (
        "import os, sys; sys.argv = ['kalm', '--help']\nfrom kalm.cli.main import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    env = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.splitlines()[-1] == "passive False"
