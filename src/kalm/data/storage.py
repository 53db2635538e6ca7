"""Rollout sets on disk: a folder of Parquet shards and a manifest, ``dataset.json``.

Unusual: the manifest is written last. A folder without it is unfinished: its shards are whole (each was
renamed into place), and the work that makes them goes on at the first missing one. Facts about a shard
(such as the number of episodes run) travel inside the shard, so that totals are right after a stop.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kalm.data.columns import InstructionTable, from_table, schema, to_table
from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError
from kalm.runs.io import atomic_write, file_sha256, read_json, versions, write_json
from kalm.types import JsonObject, WorldSpec

FORMAT_VERSION = 2
UNWEIGHTED = 1  # the format version that had no weights
MANIFEST = "dataset.json"
SHARD_ROLLOUTS = 20_000

_NOTE = b"kalm"


def write(rollouts: RolloutSet, folder: Path, provenance: Mapping[str, object]) -> None:
    """Write a whole set; a dataset that the folder already holds is replaced."""
    (folder / MANIFEST).unlink(missing_ok=True)
    for index in finished_shards(folder):
        shard_path(folder, index).unlink()
    for index, start in enumerate(range(0, max(len(rollouts), 1), SHARD_ROLLOUTS)):
        rows = np.arange(start, min(start + SHARD_ROLLOUTS, len(rollouts)))
        write_shard(folder, index, rollouts.take(rows))
    seal(folder, rollouts.spec, provenance)


def write_shard(
    folder: Path, index: int, rollouts: RolloutSet, facts: Mapping[str, object] | None = None
) -> None:
    """Write one shard atomically, with JSON-ready facts for its maker to find again (`shard_facts`)."""
    note = {"rollouts": len(rollouts), "transitions": rollouts.transitions, "facts": dict(facts or {})}
    table = to_table(rollouts).replace_schema_metadata({_NOTE: json.dumps(note).encode()})
    with atomic_write(shard_path(folder, index)) as temporary:
        pq.write_table(table, temporary, row_group_size=max(len(rollouts), 1))


def shard_path(folder: Path, index: int) -> Path:
    """Return the place of a shard."""
    return folder / f"shard-{index:05}.parquet"


def finished_shards(folder: Path) -> set[int]:
    """Return the indices of the shards that are on disk, each of them whole."""
    return {int(path.stem.removeprefix("shard-")) for path in folder.glob("shard-*.parquet")}


def shard_facts(folder: Path, index: int) -> JsonObject:
    """Return the facts that were given to `write_shard`."""
    return _note(shard_path(folder, index))["facts"]


def seal(folder: Path, spec: WorldSpec, provenance: Mapping[str, object]) -> None:
    """Write the manifest over all shards in the folder: from now on it is a dataset.

    Args:
        folder: holds the shards.
        spec: world of the rollouts.
        provenance: how they were made (command, settings, seed, ...); package versions are added.
    """
    paths = [shard_path(folder, index) for index in sorted(finished_shards(folder))]
    shards = [{"file": path.name, **_note(path), "sha256": file_sha256(path)} for path in paths]
    for leftover in folder.glob(".shard-*"):
        leftover.unlink()
    write_json(
        folder / MANIFEST,
        {
            "format_version": FORMAT_VERSION,
            "world": spec.to_json(),
            "rollouts": sum(shard["rollouts"] for shard in shards),
            "transitions": sum(shard["transitions"] for shard in shards),
            "shards": shards,
            "provenance": {**provenance, "versions": versions()},
        },
    )


def sealed(folder: Path) -> bool:
    """Whether the folder holds a finished dataset."""
    return (folder / MANIFEST).exists()


def read(folder: Path, verify: bool = True) -> RolloutSet:
    """Read a dataset; `verify` compares every shard with its checksum.

    Raises:
        KalmError: missing or unknown manifest, missing or altered shard, or a row that is no rollout; names
            the file.
    """
    manifest, spec = read_manifest(folder)
    weighted = manifest["format_version"] != UNWEIGHTED
    instructions = InstructionTable()
    parts = [from_table(schema(spec).empty_table(), spec, instructions, folder)]
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        table = _load(path, shard["sha256"] if verify else None)
        parts.append(from_table(table, spec, instructions, path, weighted))
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return RolloutSet(spec=spec, instructions=tuple(instructions.rows), **columns)


def read_manifest(folder: Path) -> tuple[JsonObject, WorldSpec]:
    """Return the manifest and the world of its rollouts.

    Raises:
        KalmError: no manifest, one of another format version, or one that lacks an entry.
    """
    path = folder / MANIFEST
    manifest = read_json(path, "dataset")
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version not in (UNWEIGHTED, FORMAT_VERSION):
        raise KalmError(
            f"{path}: format version {version!r}; this library reads {UNWEIGHTED} and {FORMAT_VERSION}."
        )
    try:
        spec = WorldSpec.from_json(manifest["world"])
        for shard in manifest["shards"]:
            _require_name(path, shard["file"], shard["sha256"])
    except (KeyError, TypeError) as error:
        raise KalmError(f"{path}: 'world' or 'shards' is missing or malformed ({error!r}).") from None
    return manifest, spec


def describe(folder: Path) -> JsonObject:
    """Return what a dataset holds and where it comes from, JSON-ready."""
    manifest, _ = read_manifest(folder)
    contents = read(folder).stats()
    return {
        "folder": str(folder),
        "world": manifest["world"],
        **contents,
        "shards": len(manifest["shards"]),
        "bytes": sum((folder / shard["file"]).stat().st_size for shard in manifest["shards"]),
        "provenance": manifest.get("provenance", {}),
    }


def _require_name(path: Path, file: str, sha256: str) -> None:
    """Refuse a manifest that points outside its folder: it is input like any other file."""
    if Path(file).name != file or not isinstance(sha256, str):
        raise KalmError(f"{path}: shard {file!r} must be a file name with its sha256.")


def _load(path: Path, sha256: str | None) -> pa.Table:
    """Read one file once, for its checksum and its rows."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KalmError(
            f"{path}: shard cannot be read ({error.strerror}). Restore it or collect anew."
        ) from None
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise KalmError(f"{path}: checksum differs from {MANIFEST}; the file is cut off or was changed.")
    try:
        # Arrow's threads may outlive the interpreter and then abort it (apache/arrow 34314, 39862).
        return pq.ParquetFile(pa.BufferReader(data), pre_buffer=False).read(use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise KalmError(f"{path}: not a readable Parquet file ({error}).") from None


def _note(path: Path) -> JsonObject:
    try:
        return json.loads((pq.read_schema(path).metadata or {})[_NOTE])
    except (OSError, pa.ArrowException, KeyError) as error:
        raise KalmError(
            f"{path}: no shard written by this library ({error}). Delete it and run again."
        ) from None
