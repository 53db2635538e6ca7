"""A command killed in the middle, without a chance to tidy up, and given again ends where it would have."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kalm.cli.main import app
from kalm.data import storage
from kalm.data.goal_files import write_goals

GROUND = {
    "rows": 2,
    "row_tokens": 128,
    "epochs": 0.5,
    "network_steps": 5,
    "held_out": 16,
    "checkpoint_every": 3,
    "match_rollouts": 0,
    "explain_rollouts": 0,
}
IMAGINE = {"per_file_instruction": 4, "horizon": 6, "shard": 8}


@pytest.fixture(scope="module")
def place(world, rollouts, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("killed")
    storage.write(rollouts, place / "real", {})
    write_goals(place / "goals.jsonl", world.suite("rephrase")[:12])
    return place


def ground(place: Path, llama: Path, out: str) -> list[str]:
    settings = [f"--set=ground.{name}={value}" for name, value in {**GROUND, "backbone": llama}.items()]
    return ["ground", "--data", str(place / "real"), "--out", str(place / out), "--device", "cpu", *settings]


def imagine(place: Path, model: str, out: str) -> list[str]:
    settings = [f"--set=imagine.{name}={value}" for name, value in IMAGINE.items()]
    folders = ["--model", str(place / model / "model"), "--out", str(place / out)]
    goals = ["--goals", str(place / "goals.jsonl")]
    return ["imagine", *folders, *goals, "--device", "cpu", *settings]


def kill_at(arguments: list[str], sign: Path) -> None:
    """Start a command and kill it as soon as it has left a sign of its work."""
    running = subprocess.Popen([sys.executable, "-m", "kalm", *arguments], stderr=subprocess.DEVNULL)
    while not sign.exists():
        assert running.poll() is None, "the command ended before it left a sign"
        time.sleep(0.005)
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL


def test_a_killed_grounding_and_a_killed_imagination_go_on_to_the_same_result(place, llama):
    app(ground(place, llama, "whole"), standalone_mode=False)
    kill_at(ground(place, llama, "killed"), place / "killed" / "checkpoint.safetensors")
    assert not (place / "killed" / "model").exists()
    app(ground(place, llama, "killed"), standalone_mode=False)
    for part in ("modules.safetensors", "backbone/model.safetensors"):
        whole, killed = (load_file(place / name / "model" / part) for name in ("whole", "killed"))
        assert whole.keys() == killed.keys()
        assert all(torch.equal(whole[name], killed[name]) for name in whole)

    app(imagine(place, "whole", "imagined"), standalone_mode=False)
    kill_at(imagine(place, "whole", "again"), storage.shard_path(place / "again", 1))
    assert not storage.sealed(place / "again")
    app(imagine(place, "whole", "again"), standalone_mode=False)
    whole, killed = storage.read(place / "imagined"), storage.read(place / "again")
    for name in ("states", "actions", "rewards", "lengths", "which", "success"):
        assert np.array_equal(getattr(whole, name), getattr(killed, name)), name
