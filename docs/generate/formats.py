"""The data format, from what the library writes: Parquet columns of both kinds of action, and a manifest."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np

from kalm.data import storage
from kalm.data.columns import schema
from kalm.data.rollouts import RolloutSet
from kalm.types import Goal, Instruction, WorldSpec


def columns() -> str:
    """Return the columns of a shard, for S state numbers and either kind of action."""
    discrete, continuous = schema(_spec("discrete")), schema(_spec("continuous"))
    rows = []
    for field in discrete:
        other = continuous.field(field.name)
        kinds = [str(field.type)] if field.type == other.type else [str(field.type), str(other.type)]
        rows.append(f"| `{field.name}` | {' or '.join(f'`{kind}`' for kind in kinds)} |")
    return "\n".join(["| column | Arrow type |", "|---|---|", *rows])


def manifest() -> str:
    """Return the manifest of a dataset with one small rollout, as the library writes it."""
    instruction = Instruction("Push the box to the right.", "seen", Goal.of("push", to="right"))
    rollouts = RolloutSet(
        spec=_spec("continuous"),
        instructions=(instruction,),
        which=np.zeros(1, np.int32),
        lengths=np.full(1, 2, np.int32),
        states=np.zeros((3, 3), np.float32),
        actions=np.zeros((2, 2), np.float32),
        rewards=np.zeros(2, np.float32),
        success=np.ones(1, bool),
        source=np.zeros(1, np.int8),
    )
    with TemporaryDirectory() as folder:
        storage.write(rollouts, Path(folder), {"command": "kalm collect ..."})
        written = json.loads((Path(folder) / storage.MANIFEST).read_text("utf-8"))
    return "\n".join(["```json", json.dumps(written, indent=2), "```"])


def _spec(action_kind: Literal["discrete", "continuous"]) -> WorldSpec:
    """Return an environment of three state numbers and two actions, or two numbers per action."""
    return WorldSpec("boxes", ("x", "y", "height"), action_kind, 2, horizon=20)
