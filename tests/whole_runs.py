"""What tests of whole runs share: the command as users call it, and settings that keep a run to seconds."""

import subprocess
import sys

from typer.testing import CliRunner

from kalm.cli.main import app

TINY = [
    "--set", "ground.match_rollouts=2", "--set", "ground.explain_rollouts=2",
    "--set", "ground.evaluate_every=1000", "--set", "ground.network_steps=20",
    "--set", "ground.action_steps=20",
    "--set", "inspect.rollouts=2", "--set", "inspect.explanations=3", "--set", "inspect.transitions=4",
    "--set", "imagine.rephrase=0", "--set", "imagine.easy=0", "--set", "imagine.hard=1",
    "--set", "train.imagined=all", "--set", "train.algorithms=[bc]",
    "--set", "train.seeds=[0]", "--set", "report.filmstrips=1",
]  # fmt: skip


def kalm(*arguments, check=True, **options):
    done = subprocess.run(
        [sys.executable, "-m", "kalm", *map(str, arguments)], capture_output=True, text=True, **options
    )
    assert not check or done.returncode == 0, done.stderr[-3000:]
    return done


def here(*arguments):
    """Run the command in this process, which saves seconds of loading libraries; raises what it raises."""
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done
