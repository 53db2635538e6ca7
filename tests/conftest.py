"""What tests of whole runs share."""

import pytest


@pytest.fixture(scope="session")
def small_lm(tmp_path_factory) -> list[str]:
    """Settings of a run in which a small random BERT imagines and reads; what MiniLM does, others test."""
    from checkpoints import write_checkpoint  # loads what takes seconds

    folder = write_checkpoint("bert", tmp_path_factory.mktemp("bert"), max_position_embeddings=1024)
    return ["--set", f"ground.backbone={folder}", "--set", f"train.encoder={folder}"]
