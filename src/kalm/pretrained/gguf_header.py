"""The head of a GGUF file: what it says of its model, and whether the file is as long as its tensors need.

Nothing of the tensors is read, and of lists such as the words of a tokenizer only the length, so this takes
milliseconds where the reader of the `gguf` package takes seconds. A GGUF file carries no checksum: what is
altered within the tensors shows only where the whole file's SHA-256 is known.

    magic  version  counts | keys and values ... | names, shapes, kinds, offsets ... | tensors
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from dataclasses import dataclass
from math import prod
from pathlib import Path

from kalm.errors import KalmError
from kalm.pretrained.weight_files import AGAIN, no_content

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
ALIGNMENT = 32  # where the file does not say otherwise
Value = str | int | float


@dataclass(frozen=True)
class GgufHeader:
    """What the head of a sound file says.

    Attributes:
        architecture: in the words of llama.cpp, such as ``llama`` or ``qwen2``.
        values: scalars and texts by their keys; of lists the length.
        numbers: count of all numbers in the tensors.
        kinds: how many tensors are stored in which way, such as ``Q4_1``.
    """

    architecture: str
    values: dict[str, Value]
    numbers: int
    kinds: dict[str, int]


def read_header(file: Path) -> GgufHeader:
    """Read the head of a GGUF file.

    Raises:
        KalmError: it is no GGUF file, it is damaged or cut off, it holds no weights or only a part of them.
    """
    if fault := no_content(file):
        raise KalmError(f"{file} {fault}")
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:4] != MAGIC:
            raise KalmError(f"{file} is not in the GGUF format: it begins with {data[:4]!r}, not {MAGIC!r}.")
        try:
            return _parsed(file, _Cursor(data))
        except (struct.error, UnicodeDecodeError, KeyError, OverflowError) as error:
            raise KalmError(f"{file} is damaged or cut off within its head ({error}). {AGAIN}") from None


class _Cursor:
    """A place in the bytes of a file, which moves on as values are read."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.at = len(MAGIC)

    def take(self, form: str) -> tuple[Value, ...]:
        """Return the values of a `struct` format, little-endian and without gaps."""
        values = struct.unpack_from(f"<{form}", self.data, self.at)
        self.at += struct.calcsize(f"<{form}")
        return values

    def count(self, form: str = "Q") -> int:
        """Return one number that counts or points to something."""
        return int(self.take(form)[0])

    def text(self) -> str:
        """Return a text, stored behind its length."""
        start = self.at + 8
        self.skip(self.count())
        return self.data[start : self.at].decode("utf-8")

    def skip(self, size: int) -> None:
        """Go over bytes, which have to be there."""
        self.at += size
        if self.at > len(self.data):
            raise struct.error(f"{len(self.data)} bytes, where there should be {self.at} at least")

    def value(self, kind: int) -> Value:
        """Return a scalar or a text; of a list the length."""
        if kind in SCALARS:
            return self.take(SCALARS[kind])[0]
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            raise struct.error(f"a value of the unknown kind {kind}")
        inner, length = self.count("I"), self.count()
        if inner in SCALARS:
            self.skip(length * struct.calcsize(f"<{SCALARS[inner]}"))
        else:
            for _ in range(length):
                self.skip(self.count()) if inner == STRING else self.value(inner)
        return length


def _parsed(file: Path, cursor: _Cursor) -> GgufHeader:
    version = cursor.count("I")
    if version not in VERSIONS:
        raise KalmError(
            f"{file} is GGUF of version {version}; versions 2 and 3 can be read. Convert it anew."
        )
    tensors, pairs = cursor.count(), cursor.count()
    values: dict[str, Value] = {}
    for _ in range(pairs):
        key = cursor.text()
        values[key] = cursor.value(cursor.count("I"))
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str):
        raise KalmError(f"{file} names no architecture (general.architecture). {AGAIN}")
    parts = values.get("split.count", 0)
    if isinstance(parts, int) and parts > 1:
        raise KalmError(
            f"{file} is one of {parts} parts of a model. Join them first: "
            "`llama-gguf-split --merge FIRST_PART WHOLE.gguf`, from llama.cpp."
        )
    if not tensors:
        raise KalmError(f"{file} holds no weights, only words about a model. Give the file that has them.")
    alignment = values.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise KalmError(f"{file} is damaged: its tensors are aligned to {alignment!r} bytes. {AGAIN}")
    numbers, kinds = _checked_tensors(file, cursor, tensors, alignment)
    return GgufHeader(architecture, values, numbers, kinds)


def _checked_tensors(file: Path, cursor: _Cursor, count: int, alignment: int) -> tuple[int, dict[str, int]]:
    """Return the count of numbers and how they are stored. Raises KalmError: the file is too short."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    known = {kind.value for kind in GGMLQuantizationType}
    numbers, end, kinds = 0, 0, Counter[str]()
    for _ in range(count):
        name = cursor.text()
        elements = prod(int(size) for size in cursor.take(f"{cursor.count('I')}Q"))
        kind, offset = cursor.count("I"), cursor.count()
        if kind not in known:
            raise KalmError(f"{file} stores {name} in the unknown way {kind}. Convert it anew.")
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        end = max(end, offset + elements // block * size)
        numbers += elements
        kinds[GGMLQuantizationType(kind).name] += 1
    whole = -(-cursor.at // alignment) * alignment + end
    if len(cursor.data) < whole:
        raise KalmError(
            f"{file} has {len(cursor.data)} bytes where its head says {whole}: it is cut off. {AGAIN}"
        )
    return numbers, dict(kinds)
