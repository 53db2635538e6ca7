"""What tests of whole runs share: the command as users call it, and settings that keep a run to seconds."""

import subprocess
import sys

TINY = [
    "--set", "ground.match_rollouts=2", "--set", "ground.explain_rollouts=2",
    "--set", "ground.evaluate_every=1000", "--set", "ground.network_steps=20", "--set", "inspect.rollouts=2",
    "--set", "inspect.explanations=3", "--set", "inspect.transitions=4",
    "--set", "imagine.rephrase=1", "--set", "imagine.easy=0", "--set", "imagine.hard=0",
    "--set", "train.imagined=all", "--set", "train.algorithms=[bc]",
    "--set", "train.seeds=[0]", "--set", "report.filmstrips=1",
]  # fmt: skip


def kalm(*arguments, check=True, **options):
    done = subprocess.run(
        [sys.executable, "-m", "kalm", *map(str, arguments)], capture_output=True, text=True, **options
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done
