"""A cache of its own for every test, and one tiny GGUF file."""

from pathlib import Path

import pytest

from checkpoints import write_checkpoint, write_gguf


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KALM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Path:
    """The random Llama that the GGUF files are made from."""
    return write_checkpoint("llama", tmp_path_factory.mktemp("plain"), tie_word_embeddings=True)


@pytest.fixture(scope="session")
def whole(plain, tmp_path_factory) -> Path:
    """A sound GGUF file; not to be changed."""
    return write_gguf(plain, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    """A GGUF file to damage."""
    file = tmp_path / "copied.gguf"
    file.write_bytes(whole.read_bytes())
    return file
