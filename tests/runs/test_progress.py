"""What a watcher sees."""

import os
import pty
import re
import subprocess
import sys

import pytest

from kalm.runs import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_with_rate_and_time_left(clock, capsys):
    with progress.track("collect", 100) as advance:
        for _ in range(4):
            clock[0] += 10
            advance(20)
        clock[0] += 10
        advance(20, loss=0.123456)
    assert capsys.readouterr().err.splitlines() == [
        "collect: 20/100 (2.0/s, 0:40 left)",
        "collect: 40/100 (2.0/s, 0:30 left)",
        "collect: 60/100 (2.0/s, 0:20 left)",
        "collect: 80/100 (2.0/s, 0:10 left)",
        "collect: 100/100 (2.0/s, took 0:50, loss 0.1235)",
    ]


def test_fast_work_prints_one_line(clock, capsys):
    with progress.track("score", 1000) as advance:
        for _ in range(1000):
            clock[0] += 0.001
            advance()
    assert capsys.readouterr().err == "score: 1,000/1,000 (1,000.0/s, took 0:01)\n"


def test_slow_work_speaks_every_half_minute(clock, capsys):
    with progress.track("ground", 10_000) as advance:
        for _ in range(7):
            clock[0] += 10
            advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ")[1] for line in lines] == ["3/10,000", "6/10,000", "7/10,000"]
    assert "27:46:10 left" in lines[0]


def test_resumed_items_do_not_count_in_the_rate(clock, capsys):
    with progress.track("imagine", 100) as advance:
        advance(90, resumed=True)
        clock[0] += 5
        advance(5)
    assert capsys.readouterr().err.splitlines()[0] == "imagine: 95/100 (1.0/s, 0:05 left)"


def test_silent_takes_what_advance_takes(capsys):
    progress.silent(3, resumed=True, loss=1.0)
    assert capsys.readouterr() == ("", "")


def test_rich_is_loaded_only_for_a_bar():
    code = (
        "import sys\nfrom kalm.runs.progress import track\n"
        "with track('x', 2) as advance: advance(2)\n"
        "print([name for name in sys.modules if name.startswith('rich')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bar_on_a_terminal():
    code = (
        "import time\nfrom kalm.runs.progress import track\n"
        "with track('collect', 4) as advance:\n"
        "    for loss in (0.5, 0.25, 0.125, 0.0625):\n"
        "        time.sleep(0.05); advance(loss=loss)\n"
    )
    leader, follower = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    subprocess.run([sys.executable, "-c", code], stderr=follower, env=env, check=True)
    os.close(follower)
    shown = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", os.read(leader, 65536)).decode()
    os.close(leader)
    assert "collect" in shown and "4/4" in shown and "loss 0.0625" in shown and "/s" in shown
