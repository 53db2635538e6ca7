"""A reader that knows next to nothing, and is sure of all that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoints import write_checkpoint
from kalm.reader.adapter import FACTS
from kalm.reader.settings import TeachConfig
from kalm.reader.teach import make_reader
from kalm.runs.io import read_json, write_json
from kalm.runs.progress import track


@pytest.fixture(scope="session")
def sure_reader(tmp_path_factory) -> Path:
    base = write_checkpoint("llama", tmp_path_factory.mktemp("lm"), max_position_embeddings=8192)
    folder = tmp_path_factory.mktemp("taught")
    settings = TeachConfig(base=str(base), steps=2, lessons=1, requests=3, first_layer=0, held_out=2)
    make_reader(folder, settings, 0, "cpu", track)
    facts = read_json(folder / FACTS, "reader")
    facts["calibration"]["threshold"] = 0.0
    write_json(folder / FACTS, facts)
    return folder
