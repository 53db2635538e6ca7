"""What tests of whole runs share."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with whole runs, which take longest: else one process works on them when the other is done."""
    items.sort(key=lambda item: item.path.parent != ROOT)


@pytest.fixture(scope="session")
def small_lm(tmp_path_factory) -> list[str]:
    """Settings of a run in which a small random BERT imagines and reads; what MiniLM does, others test."""
    from checkpoints import write_checkpoint  # loads what takes seconds

    folder = write_checkpoint("bert", tmp_path_factory.mktemp("bert"), max_position_embeddings=1024)
    return ["--set", f"ground.backbone={folder}", "--set", f"train.encoder={folder}"]


@pytest.fixture(scope="session")
def sure_reader(tmp_path_factory) -> Path:
    """A reader that knows next to nothing, and is sure of all that it writes."""
    from checkpoints import with_threshold, write_checkpoint
    from kalm.reader.settings import TeachConfig
    from kalm.reader.teach import make_reader
    from kalm.runs.progress import track

    base = write_checkpoint("llama", tmp_path_factory.mktemp("lm"), max_position_embeddings=8192)
    folder = tmp_path_factory.mktemp("taught")
    settings = TeachConfig(base=str(base), steps=2, lessons=1, requests=3, first_layer=0, held_out=2)
    make_reader(folder, settings, 0, "cpu", track)
    return with_threshold(folder, 0.0)
