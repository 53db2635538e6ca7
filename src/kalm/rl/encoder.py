"""Goal text -> vector by a frozen sentence encoder, each distinct text computed once.

Mean pooling over the mask and L2 norm, which for the packaged MiniLM is the vector it was trained to give,
times sqrt(E): its numbers are then as large as those of a state, and a policy hears them (docs/log.md).
Unusual: the shape of the batch that a text is computed in depends on the length of that text alone; what is
lacking is filled up with copies. The last digits of a vector depend on that shape, and so they are the same
whatever other texts come with it, in whatever order and number: two trainings that share data see the same.
The model is loaded at the first text that no cache knows, so a policy of cached goals starts at once.
The cache on disk is one file per encoder, named by a hash of its weights: others can never serve its vectors.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from kalm.errors import KalmError
from kalm.pretrained import MINILM, locate
from kalm.runs.io import atomic_write, file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

WIDTHS = 8  # a batch is as wide as its texts are long, rounded up to a multiple of this
ROWS, TOKENS = 32, 1024  # of a batch: rows, fewer where that would be more tokens than this
IDENTITY_SUFFIXES = (".safetensors", ".bin", ".json", ".txt", ".model")


class GoalEncoder:
    """Frozen BERT-family encoder with a memory of the texts it has seen.

    Args:
        name: ``minilm``, a folder, a hub name, or what else `kalm.pretrained` knows.
        device: torch device of the model; vectors are NumPy arrays whatever it is.
        cache: folder for vectors that outlive the process; None keeps them in memory only.
        known: folder of another cache whose vectors are used too and which is only read.

    Raises:
        KalmError: no such weights, or a cache file that cannot be read.
    """

    def __init__(
        self, name: str = MINILM, device: str = "cpu", cache: Path | None = None, known: Path | None = None
    ) -> None:
        self.name = name
        self.device = device
        self._source = locate(name)
        self._local = Path(self._source).is_dir()
        self._rows: dict[str, int] = {}
        self._vectors = np.zeros((0, self.size), dtype=np.float32)  # (texts, E)
        self._file = self._cache_file(cache)
        for file in (self._cache_file(known), self._file):
            self._recall(file)

    @property
    def size(self) -> int:
        """Length E of a vector."""
        return int(self._config.hidden_size)

    @cached_property
    def identity(self) -> str:
        """Hash of the weights and tokenizer (a folder's files, or a hub model's revision)."""
        if not self._local:
            return hashlib.sha256(f"{self._source}@{self._config._commit_hash}".encode()).hexdigest()
        files = sorted(path for path in Path(self._source).iterdir() if path.suffix in IDENTITY_SUFFIXES)
        digests = "\n".join(f"{path.name} {file_sha256(path)}" for path in files)
        return hashlib.sha256(digests.encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Return the vectors of N texts, repeats allowed: (N, E) float32, each of length sqrt(E)."""
        new = sorted({text for text in texts if text not in self._rows}, key=lambda text: (len(text), text))
        if new:
            self._remember(new, self._compute(new))
            self._store()
        return self._vectors[[self._rows[text] for text in texts]]

    def _remember(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        self._rows.update({text: len(self._rows) + i for i, text in enumerate(texts)})
        self._vectors = np.concatenate([self._vectors, vectors])

    def _compute(self, texts: Sequence[str]) -> np.ndarray:
        tokenizer, _ = self._loaded
        lengths = [len(ids) for ids in tokenizer(list(texts), truncation=True)["input_ids"]]
        widths = np.array([-(-length // WIDTHS) * WIDTHS for length in lengths])
        vectors = np.zeros((len(texts), self.size), dtype=np.float32)
        for width in np.unique(widths):
            found = np.flatnonzero(widths == width)
            rows = _rows(int(width))
            for part in (found[at : at + rows] for at in range(0, len(found), rows)):
                vectors[part] = self._batch([texts[int(row)] for row in part], int(width))
        return vectors

    def _batch(self, texts: Sequence[str], width: int) -> np.ndarray:
        """Return the vectors of B texts of up to `width` tokens, as many as its rows or fewer: (B, E)."""
        import torch

        tokenizer, model = self._loaded
        rows = [*texts, *[texts[-1]] * (_rows(width) - len(texts))]
        longest = min(width, tokenizer.model_max_length)  # never beyond what the model can read
        tokens = tokenizer(
            rows, padding="max_length", truncation=True, max_length=longest, return_tensors="pt"
        ).to(self.device)
        with torch.inference_mode():
            hidden = model(**tokens).last_hidden_state  # (B, L, E)
            mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)  # (B, L, 1)
            mean = (hidden * mask).sum(1) / mask.sum(1)  # (B, E)
            return (self.size**0.5 * torch.nn.functional.normalize(mean, dim=1)).cpu().numpy()[: len(texts)]

    @cached_property
    def _config(self) -> PreTrainedConfig:
        from transformers import AutoConfig

        with self._loading():
            return AutoConfig.from_pretrained(self._source, local_files_only=self._local)

    @cached_property
    def _loaded(self) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        import torch
        from transformers import AutoModel, AutoTokenizer

        source, local = self._source, self._local
        with self._loading():
            model = AutoModel.from_pretrained(source, local_files_only=local, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=local)
            if tokenizer.pad_token is None:
                raise ValueError("its tokenizer has no padding token")
        return tokenizer, model.to(self.device).eval().requires_grad_(False)

    @contextmanager
    def _loading(self) -> Iterator[None]:
        """Silence progress bars; say whose files cannot be loaded."""
        from transformers.utils import logging

        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            yield
        except (OSError, ValueError) as error:
            raise KalmError(
                f"encoder {self.name!r} cannot be loaded ({error}). Give a folder with a transformers "
                "encoder and its tokenizer, a hub name such as org/model, or 'minilm'."
            ) from None
        finally:
            if bars:
                logging.enable_progress_bar()

    def _cache_file(self, folder: Path | None) -> Path | None:
        return None if folder is None else Path(folder) / f"goals-{self.identity[:16]}.safetensors"

    def _recall(self, file: Path | None) -> None:
        if file is None or not file.exists():
            return
        try:
            with safe_open(file, "numpy") as stored:
                texts, vectors = json.loads(stored.metadata()["texts"]), stored.get_tensor("vectors")
            if vectors.shape != (len(texts), self.size):
                raise ValueError(f"{len(texts)} texts of size {self.size}, vectors {vectors.shape}")
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise KalmError(
                f"goal cache {file} is damaged ({error}). Delete it; it is built again."
            ) from None
        new = [i for i, text in enumerate(texts) if text not in self._rows]
        self._remember([texts[i] for i in new], vectors[new])

    def _store(self) -> None:
        """Write the cache, with what another process may have added to it meanwhile."""
        if self._file is None:
            return
        self._recall(self._file)
        with atomic_write(self._file) as temporary:
            save_file({"vectors": self._vectors}, temporary, {"texts": json.dumps(list(self._rows))})


def _rows(width: int) -> int:
    """Return the rows of a batch of texts of this width."""
    return max(1, min(ROWS, TOKENS // width))
