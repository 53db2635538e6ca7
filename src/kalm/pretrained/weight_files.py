"""What is wrong with a model folder's files, said before and after a library stumbles over them.

Downloads break off, Git LFS leaves pointers instead of weights, files lie there empty. The libraries then
speak of "headers" and "metadata"; here a look at the first bytes of each file gives its name and a remedy.
Weights that are pickled are left to torch, which loads tensors from them and nothing else: no code in them
ever runs.
"""

from __future__ import annotations

import json
from pathlib import Path

from kalm.errors import KalmError

LFS = b"version https://git-lfs"
INDEX = "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth")
AGAIN = "Download or copy it again."


def require_sound_files(folder: Path) -> None:
    """Refuse a folder with weights that cannot be whole; without any weights it passes.

    Raises:
        KalmError: names the first such file, what is wrong with it, and what to do.
    """
    index = folder / INDEX
    for name in sorted(_shards(index)) if index.is_file() else ():
        if not (folder / name).is_file():
            raise KalmError(f"{folder / name} is missing, although {INDEX} names it. Download or copy it.")
    for file in sorted(folder.glob("*.safetensors")):
        if fault := _fault(file):
            raise KalmError(f"{file} {fault}")
    for file in pickled_files(folder):
        if fault := no_content(file):
            raise KalmError(f"{file} {fault}")


def pickled_files(folder: Path) -> list[Path]:
    """Return the folder's pickled weights if it has no others."""
    if any(folder.glob("*.safetensors")):
        return []
    return sorted(file for pattern in PICKLED for file in folder.glob(pattern))


def no_content(file: Path) -> str:
    """Return what the first bytes give away of a file of any kind, or nothing."""
    with file.open("rb") as stream:
        start = stream.read(len(LFS))
    if not start:
        return f"is empty. {AGAIN}"
    if start == LFS:
        return "is a Git LFS pointer, not the weights. Run `git lfs pull` in its folder."
    return ""


def _shards(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise KalmError(f"{index} is damaged: {str(error).splitlines()[0]}. {AGAIN}") from None


def _fault(file: Path) -> str:
    """Return what is wrong with a safetensors file, or nothing: length of header, header, tensors."""
    if fault := no_content(file):
        return fault
    held = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if 8 + length > held:
            return f"is cut off within its header, after {held} bytes. {AGAIN}"
        try:
            header = json.loads(stream.read(length))
            ends = [about["data_offsets"][1] for name, about in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, AttributeError, TypeError, IndexError):
            return f"is not in the safetensors format. {AGAIN}"
    whole = 8 + length + max(ends, default=0)
    return "" if held == whole else f"has {held} bytes where its header says {whole}. {AGAIN}"
