"""GGUF files made into what transformers reads: safetensors in the Hugging Face layout, once, in a cache.

Reading a GGUF file takes seconds for its tokenizer and up to a minute for its weights, so what comes of it
stays in kalm's cache folder: ``KALM_CACHE``, else ``XDG_CACHE_HOME/kalm``, else ``~/.cache/kalm``. ::

    models/SHA-256 of the GGUF file/
        config.json  tokenizer ...  gguf.json           settings and tokenizer; enough for a dry run
        model.safetensors ...       weights.json        the weights, float32, exactly as the file's blocks say

``gguf.json`` and ``weights.json`` come last and name all files with their sizes: what a stopped process
left is never taken for a model, and a lock lets one process make what others wait for. Deleting the folder is
safe.

The loader is that of transformers; what it gives still counts as quantized and refuses to be saved, so the
tensors are put into a plain model of the same settings.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from kalm.errors import KalmError
from kalm.pretrained.gguf_header import GgufHeader, read_header
from kalm.runs.io import HIDDEN, atomic_folder, file_sha256, read_json, reason, write_json
from kalm.runs.progress import announce

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log: logging.Logger = logging.getLogger(__name__)

FORMAT = 1  # of a conversion; others are made anew
SETTINGS, WEIGHTS = "gguf.json", "weights.json"
UNFINISHED = f"{HIDDEN}weights"
SETTLED = 2.0  # seconds after which a change of a file cannot hide in the resolution of its time stamps
OTHERWISE = "Give the model's folder in the Hugging Face layout, or another GGUF file."


@dataclass(frozen=True)
class Conversion:
    """A GGUF file in the cache.

    Attributes:
        folder: where it is.
        path: of the file that it was made from.
        sha256: its digest.
        stamp: its inode, size and times; nothing if it was too young then.
        kinds: how many of its tensors were stored in which way.
        weights: it has its weights, not only settings and tokenizer.
        weight_bytes: size of its files.
    """

    folder: Path
    path: str
    sha256: str
    stamp: list[int]
    kinds: dict[str, int]
    weights: bool
    weight_bytes: int


def cache_folder() -> Path:
    """Return kalm's cache folder, which need not exist. Raises KalmError: nobody's home."""
    chosen, shared = os.environ.get("KALM_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        return Path(shared).absolute() / "kalm" if shared else Path.home() / ".cache" / "kalm"
    except RuntimeError as error:
        raise KalmError(f"no place for the cache ({error}). Set KALM_CACHE to a folder.") from None


def conversion_folder(digest: str) -> Path:
    """Return where the file with this SHA-256 is, or will be, in the Hugging Face layout."""
    return cache_folder() / "models" / digest


def is_converted(folder: Path) -> bool:
    """Whether a folder of the cache has settings, tokenizer and weights, all of their length."""
    return _complete(folder, SETTINGS) and _complete(folder, WEIGHTS)


def conversions() -> list[Conversion]:
    """Return what is in the cache, by name."""
    found = [gguf_source(folder) for folder in (cache_folder() / "models").glob("[!.]*")]
    return sorted((one for one in found if one), key=lambda one: (one.path, one.sha256))


def gguf_source(folder: Path) -> Conversion | None:
    """Return what a folder of the cache was made from; None for other folders."""
    if not _complete(folder, SETTINGS):
        return None
    about = read_json(folder / SETTINGS, "cache")
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    return Conversion(
        folder, about["path"], about["sha256"], about["stamp"], about["kinds"], is_converted(folder), size
    )


def convert_settings(file: Path, path: str = "") -> Path:
    """Return a folder with settings and tokenizer of a GGUF file, made now if it is not in the cache.

    Args:
        file: the GGUF file.
        path: where it is from, if it will not stay where it is.

    Raises:
        KalmError: the file is none, is damaged, or transformers cannot read its architecture or tokenizer.
    """
    header = read_header(file)
    digest, stamp = _digest(file)
    folder = conversion_folder(digest)
    if not _complete(folder, SETTINGS):
        with _held(folder):
            if not _complete(folder, SETTINGS):
                announce(f"Reading {file} ...")
                source = {"path": path or str(file.resolve()), "sha256": digest, "stamp": stamp}
                _write_settings(file, header, folder, source)
    return folder


def convert_weights(file: Path, path: str = "") -> Path:
    """Return the folder of a GGUF file in the Hugging Face layout, made now if it is not in the cache.

    Raises:
        KalmError: as `convert_settings`; weights are missing in it or are no numbers; the disk is full.
    """
    folder = convert_settings(file, path)
    if not is_converted(folder):
        with _held(folder):
            if not is_converted(folder):
                _write_weights(file, folder)
    return folder


def weights_unchanged(folder: Path) -> bool:
    """Whether the weights in a folder of the cache are, to the bit, those that were written."""
    about = read_json(folder / WEIGHTS, "cache")
    return all(file_sha256(folder / name) == digest for name, digest in about["sha256"].items())


def discard_weights(folder: Path) -> None:
    """Forget the weights in a folder of the cache, so that they are made again."""
    with _held(folder):
        (folder / WEIGHTS).unlink(missing_ok=True)


def _complete(folder: Path, listing: str) -> bool:
    if not (folder / listing).is_file():
        return False
    about = read_json(folder / listing, "cache")
    if about.get("format") != FORMAT:
        return False
    sizes = {name: (folder / name).stat().st_size for name in about["files"] if (folder / name).is_file()}
    return sizes == about["files"]


def _require_architecture(file: Path, architecture: str) -> None:
    from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    known = {*GGUF_SUPPORTED_ARCHITECTURES, *GGUF_CONFIG_ARCHS} - {"general", "tokenizer"}
    if _plain(architecture) in {_plain(name) for name in known}:
        return
    encoder = any(part in architecture for part in ("bert", "encoder"))
    raise KalmError(
        f"{file} holds {'an encoder' if encoder else 'a model'} of the architecture {architecture!r}, which "
        f"transformers does not read from GGUF files. {OTHERWISE} Read are: {', '.join(sorted(known))}."
    )


def _plain(architecture: str) -> str:
    return architecture.replace("-", "").replace("_", "")


def _digest(file: Path) -> tuple[str, list[int]]:
    """Return the SHA-256 of a file and the stamp of its state; one that is in the cache as it is, at once."""
    path, stamp = str(file.resolve()), _stamp(file)
    for one in conversions():
        if stamp and (one.path, one.stamp) == (path, stamp):
            return one.sha256, stamp
    digest = file_sha256(file)
    return digest, stamp if stamp == _stamp(file) else []


def _stamp(file: Path) -> list[int]:
    """Return what changes whenever a file's content does; nothing while it was just written."""
    about = file.stat()
    young = time.time() - max(about.st_mtime, about.st_ctime) < SETTLED
    return [] if young else [about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns]


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Let one process at a time make a folder of the cache; others wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{HIDDEN}{folder.name}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            announce(f"Waiting for another process that makes {folder} ...")
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError as error:
            raise KalmError(
                f"files in {folder.parent} cannot be locked ({reason(error)}). "
                "Set KALM_CACHE to a folder on another disk."
            ) from None
        yield


def _write_settings(file: Path, header: GgufHeader, folder: Path, source: dict[str, object]) -> None:
    from transformers import AutoConfig, AutoTokenizer

    _require_architecture(file, header.architecture)
    try:
        config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # of any kind: the files hold what their makers liked
        raise _unread(file, error) from None
    with atomic_folder(folder) as new:
        config.save_pretrained(new)
        tokenizer.save_pretrained(new)
        _list(new, SETTINGS, {**source, "numbers": header.numbers, "kinds": header.kinds})


def _write_weights(file: Path, folder: Path) -> None:
    """Add the weights to a folder that has the settings."""
    numbers = read_json(folder / SETTINGS, "cache")["numbers"]
    free = shutil.disk_usage(folder).free
    if free < 4 * numbers:
        raise KalmError(
            f"{file} needs {4 * numbers / 1e9:.1f} GB in {folder.parent}, where {free / 1e9:.1f} GB are "
            "free. Make room, or set KALM_CACHE to a folder on another disk."
        )
    announce(f"Converting {file.name} once ({numbers / 1e6:,.0f} million numbers), into {folder} ...")
    model = _plain_model(file, folder)
    held = sum(weight.numel() for weight in model.parameters())
    if held < numbers:
        log.warning("%s holds %s numbers that transformers does not read.", file, f"{numbers - held:,}")
    new = folder / UNFINISHED
    shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
    try:
        model.save_pretrained(new, max_shard_size="1TB")
        files = [path for path in new.iterdir() if path.name != "config.json"]
        digests = {path.name: file_sha256(path) for path in files}
        for path in files:
            shutil.copymode(folder / SETTINGS, path)  # as others may read it, not the library's own
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    _list(folder, WEIGHTS, {"sha256": digests}, digests)


def _list(folder: Path, listing: str, about: dict[str, object], names: Iterable[str] | None = None) -> None:
    """Write the list of files that completes a folder."""
    files = [folder / name for name in names] if names else sorted(folder.iterdir())
    sizes = {file.name: file.stat().st_size for file in files}
    write_json(folder / listing, {"format": FORMAT, **about, "files": sizes})


def _plain_model(file: Path, folder: Path) -> PreTrainedModel:
    """Return the model of a GGUF file as if it had never been quantized."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, config=config, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:
        raise _unread(file, error) from None
    model, about = cast("tuple[PreTrainedModel, dict[str, set[str]]]", loaded)
    if lacking := sorted(about["missing_keys"]):
        raise KalmError(f"{file} lacks the weights {', '.join(lacking[:5])}: it is damaged. {OTHERWISE}")
    tensors = model.state_dict()
    if odd := [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]:
        raise KalmError(f"{file} holds what are no finite numbers, in {odd[0]}: it is damaged. {OTHERWISE}")
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(tensors, assign=True)
    plain.tie_weights()
    return plain


def _unread(file: Path, error: Exception) -> KalmError:
    lines = str(error).strip().splitlines()
    said = f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
    return KalmError(f"transformers cannot read {file} ({said}). {OTHERWISE}")
