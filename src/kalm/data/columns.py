"""Rollout sets as Arrow tables: one row per rollout, the same flat columns on both sides.

::

    instruction   dictionary<string>            a line of a goal file (JSON)
    states        list<fixed_size_list<float>>  T + 1 rows of S
    actions       list<int64> or list<fixed_size_list<float>>   T
    rewards       list<float>                   T
    success       bool
    source        dictionary<string>            a name of `kalm.types.SOURCES`
    weights       float                         how much it counts in training; missing in format version 1

Nothing is done per row in Python. A file from elsewhere can carry the right types and still hold nulls: they
are refused at every depth. The error names the rollout and the column.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from kalm.data.rollouts import RolloutSet
from kalm.errors import KalmError
from kalm.types import SOURCES, Instruction, WorldSpec


class InstructionTable:
    """The distinct instructions of many tables; each sentence is parsed once."""

    def __init__(self) -> None:
        self.rows: dict[Instruction, int] = {}
        self.seen: dict[str, int] = {}

    def index(self, line: str) -> int:
        """Return the row of a JSON line, or -1 if it is no instruction."""
        if line not in self.seen:
            try:
                instruction = Instruction.from_json(json.loads(line))
                self.seen[line] = self.rows.setdefault(instruction, len(self.rows))
            except (ValueError, KeyError, TypeError, AttributeError):
                self.seen[line] = -1
        return self.seen[line]


def schema(spec: WorldSpec, weighted: bool = True) -> pa.Schema:
    """Return the column types for a world; files of format version 1 are not `weighted`."""
    category = pa.dictionary(pa.int32(), pa.string())
    action = pa.int64() if spec.action_kind == "discrete" else pa.list_(pa.float32(), spec.action_size)
    columns = pa.schema(
        {
            "instruction": category,
            "states": pa.list_(pa.list_(pa.float32(), spec.state_size)),
            "actions": pa.list_(action),
            "rewards": pa.list_(pa.float32()),
            "success": pa.bool_(),
            "source": category,
        }
    )
    return columns.append(pa.field("weights", pa.float32())) if weighted else columns


def to_table(rollouts: RolloutSet) -> pa.Table:
    """Return the set as a table; numbers are shared, not copied."""
    lines = [json.dumps(item.to_json(), ensure_ascii=False) for item in rollouts.instructions]
    columns = [
        pa.DictionaryArray.from_arrays(pa.array(rollouts.which), pa.array(lines, pa.string())),
        _ragged(rollouts.states, rollouts.lengths + 1),
        _ragged(rollouts.actions, rollouts.lengths),
        _ragged(rollouts.rewards, rollouts.lengths),
        pa.array(rollouts.success),
        pa.DictionaryArray.from_arrays(pa.array(rollouts.source.astype(np.int32)), pa.array(SOURCES)),
        pa.array(rollouts.weights),
    ]
    return pa.Table.from_arrays(columns, schema=schema(rollouts.spec))


def from_table(
    table: pa.Table, spec: WorldSpec, instructions: InstructionTable, path: Path, weighted: bool = True
) -> dict[str, np.ndarray]:
    """Return the array columns of a `RolloutSet`; instructions are added to the shared table.

    Rollouts of a table that is not `weighted` have the weight 1.

    Raises:
        KalmError: a column is missing, has another type, or a row is no rollout; names `path`.
    """
    wanted = schema(spec, weighted)
    _require_types(table.schema, wanted, path)
    arrays = {name: table[name].combine_chunks() for name in wanted.names}
    flat, counts = {}, {}
    for name in ("states", "actions", "rewards"):
        flat[name], counts[name] = _flat(arrays[name], name, path)
    lengths = counts["actions"]
    _reject(counts["states"] != lengths + 1, path, "states", "must have one row more than it has actions")
    _reject(counts["rewards"] != lengths, path, "rewards", "must have as many numbers as it has actions")
    _reject(_nulls(arrays["success"]), path, "success", "is null")
    return {
        "which": _codes(arrays["instruction"], instructions.index, path, "instruction").astype(np.int32),
        "lengths": lengths.astype(np.int32),
        **flat,
        "success": arrays["success"].to_numpy(zero_copy_only=False).astype(bool),
        "source": _codes(arrays["source"], _source, path, "source").astype(np.int8),
        "weights": _weights(arrays["weights"], path) if weighted else np.ones(len(lengths), np.float32),
    }


def _weights(column: pa.FloatArray, path: Path) -> np.ndarray:
    _reject(_nulls(column), path, "weights", "is null")
    return column.to_numpy()


def _ragged(flat: np.ndarray, counts: np.ndarray) -> pa.ListArray:
    """Return lists of `counts` rows each, over a flat (M,) or (M, K) column."""
    values = pa.array(flat.reshape(-1))
    if flat.ndim == 2:
        values = pa.FixedSizeListArray.from_arrays(values, flat.shape[1])
    offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    assert offsets[-1] < 2**31, offsets[-1]
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)


def _require_types(came: pa.Schema, wanted: pa.Schema, path: Path) -> None:
    for field in wanted:
        if field.name not in came.names:
            raise KalmError(f"{path}: column {field.name!r} is missing; has {', '.join(came.names)}.")
        kind = came.field(field.name).type
        if kind != field.type:
            raise KalmError(f"{path}: column {field.name!r} is {kind}; this environment needs {field.type}.")


def _flat(lists: pa.ListArray, name: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat column, (M,) or (M, K), and the number of rows of each rollout, (N,)."""
    _reject(_nulls(lists), path, name, "is null")
    offsets = lists.offsets.to_numpy().astype(np.int64)
    offsets = offsets - offsets[0]
    rows = lists.flatten()
    shape: tuple[int, ...] = (len(rows),)
    _reject(_owners(_nulls(rows), offsets), path, name, "has a row that is null")
    if pa.types.is_fixed_size_list(rows.type):
        shape = (len(rows), rows.type.list_size)
        rows = rows.flatten()
        null = np.any(_nulls(rows).reshape(shape), axis=1)
        _reject(_owners(null, offsets), path, name, "has a number that is null")
    return rows.to_numpy(zero_copy_only=False).reshape(shape), np.diff(offsets)


def _codes(column: pa.DictionaryArray, index: Callable[[str], int], path: Path, name: str) -> np.ndarray:
    """Translate the file's dictionary into our indices, one look-up per distinct value: -> (N,) int."""
    _reject(_nulls(column), path, name, "is null")
    values = column.dictionary.to_pylist()
    rows = column.indices.to_numpy()
    used = np.unique(rows)
    translation = np.full(len(values), -1)
    translation[used] = [index(values[code]) for code in used]
    codes = translation[rows]
    allowed = "is no line of a goal file" if name == "instruction" else f"is none of {', '.join(SOURCES)}"
    _reject(codes < 0, path, name, allowed)
    return codes


def _source(name: str) -> int:
    return SOURCES.index(name) if name in SOURCES else -1


def _nulls(array: pa.Array) -> np.ndarray:
    """Return which entries are null: (M,) bool."""
    if array.null_count == 0:
        return np.zeros(len(array), dtype=bool)
    return array.is_null().to_numpy(zero_copy_only=False)


def _owners(bad: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return which rollouts own a bad row: (M,) bool -> (N,) bool."""
    mask = np.zeros(len(offsets) - 1, dtype=bool)
    mask[np.searchsorted(offsets, np.flatnonzero(bad), side="right") - 1] = True
    return mask


def _reject(bad: np.ndarray, path: Path, name: str, complaint: str) -> None:
    if bad.any():
        raise KalmError(
            f"{path}: rollout {int(np.argmax(bad))}: column {name!r} {complaint} "
            f"({int(bad.sum())} of {len(bad)} rows)."
        )
