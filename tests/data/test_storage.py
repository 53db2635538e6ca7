"""Round trips, and every kind of damage to a dataset."""

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from sets import SPECS, assert_same, make, ragged

from kalm.data import storage
from kalm.data.columns import InstructionTable
from kalm.errors import KalmError
from kalm.runs.io import file_sha256


@given(ragged())
@settings(max_examples=30)
def test_round_trip(rollouts):
    with tempfile.TemporaryDirectory() as name:
        storage.write(rollouts, Path(name), {"made_by": "test"})
        assert_same(storage.read(Path(name)), rollouts)


def test_instructions_of_earlier_datasets_are_of_no_split():
    table = InstructionTable()
    new = make(SPECS["discrete"], [1]).instructions[0].to_json() | {"split": "tune"}
    old = {name: value for name, value in new.items() if name != "split"}
    assert [table.index(json.dumps(line)) for line in (old, new)] == [0, 1]
    assert [one.split for one in table.rows] == ["", "tune"]


def test_shards_join_in_order(tmp_path):
    rollouts = make(SPECS["discrete"], range(1, 9))
    for index in (2, 0, 1):  # workers finish in any order
        storage.write_shard(
            tmp_path, index, rollouts.take(np.arange(3 * index, min(3 * index + 3, 8))), {"episodes": index}
        )
    assert storage.finished_shards(tmp_path) == {0, 1, 2}
    assert storage.shard_facts(tmp_path, 2) == {"episodes": 2}
    assert not storage.sealed(tmp_path)
    storage.seal(tmp_path, rollouts.spec, {})
    assert_same(storage.read(tmp_path), rollouts)


def test_long_sets_are_cut_into_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SHARD_ROLLOUTS", 3)
    rollouts = make(SPECS["continuous"], range(1, 9))
    storage.write(rollouts, tmp_path, {})
    assert storage.finished_shards(tmp_path) == {0, 1, 2}
    assert_same(storage.read(tmp_path), rollouts)


def test_manifest_and_description(tmp_path):
    rollouts = make(SPECS["discrete"], [2, 3])
    storage.write(rollouts, tmp_path, {"command": "kalm collect", "seed": 7})
    manifest = json.loads((tmp_path / "dataset.json").read_text())
    assert (manifest["format_version"], manifest["rollouts"], manifest["transitions"]) == (2, 2, 5)
    assert manifest["shards"] == [
        {
            "file": "shard-00000.parquet",
            "rollouts": 2,
            "transitions": 5,
            "facts": {},
            "sha256": file_sha256(tmp_path / "shard-00000.parquet"),
        }
    ]
    about = storage.describe(tmp_path)
    assert (about["rollouts"], about["transitions"], about["shards"]) == (2, 5, 1)
    assert about["provenance"]["seed"] == 7
    assert about["provenance"]["versions"]["pyarrow"] == pa.__version__
    assert json.loads(json.dumps(about)) == about


def test_rewriting_leaves_nothing_of_the_old_set(tmp_path):
    for index in range(3):
        storage.write_shard(tmp_path, index, make(SPECS["discrete"], [5]))
    (tmp_path / ".shard-00003.parquet.x.parquet").write_bytes(b"left by a kill")
    (tmp_path / "notes.txt").write_text("mine")
    small = make(SPECS["discrete"], [1, 2])
    storage.write(small, tmp_path, {})
    assert_same(storage.read(tmp_path), small)
    assert sorted(os.listdir(tmp_path)) == ["dataset.json", "notes.txt", "shard-00000.parquet"]


@pytest.fixture
def dataset(tmp_path):
    storage.write(make(SPECS["discrete"], [2, 3, 1]), tmp_path, {})
    return tmp_path


def complaint(folder, verify=True):
    with pytest.raises(KalmError) as error:
        storage.read(folder, verify)
    return str(error.value)


def test_missing_manifest(dataset):
    (dataset / "dataset.json").unlink()
    assert "dataset.json does not exist" in complaint(dataset)


def test_broken_manifest(dataset):
    path = dataset / "dataset.json"
    path.write_text(path.read_text()[:-30])
    assert "dataset.json cannot be read as JSON" in complaint(dataset)


@pytest.mark.parametrize("text", ["[]", "{}", '{"format_version": 3}'])
def test_unknown_format(dataset, text):
    (dataset / "dataset.json").write_text(text)
    assert "dataset.json: format version" in complaint(dataset)


@pytest.mark.parametrize("name", ["world", "shards"])
def test_manifest_lacks_an_entry(dataset, name):
    change_manifest(dataset, lambda manifest: manifest.pop(name))
    assert "dataset.json" in complaint(dataset) and name in complaint(dataset)


def test_manifest_may_not_point_elsewhere(dataset):
    change_manifest(
        dataset, lambda manifest: manifest["shards"][0].update(file="../other/shard-00000.parquet")
    )
    assert "must be a file name" in complaint(dataset)


def change_manifest(folder, change):
    manifest = json.loads((folder / "dataset.json").read_text())
    change(manifest)
    (folder / "dataset.json").write_text(json.dumps(manifest))


def test_missing_shard(dataset):
    (dataset / "shard-00000.parquet").unlink()
    assert "shard-00000.parquet: shard cannot be read" in complaint(dataset)


@pytest.mark.parametrize("keep", [0, 3, 0.5, -1])
def test_truncated_shard(dataset, keep):
    path = dataset / "shard-00000.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    assert "shard-00000.parquet: checksum differs" in complaint(dataset)
    assert "shard-00000.parquet: not a readable Parquet file" in complaint(dataset, verify=False)


def test_one_altered_byte(dataset):
    path = dataset / "shard-00000.parquet"
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    assert "shard-00000.parquet: checksum differs" in complaint(dataset)


def test_foreign_file_is_no_shard(dataset):
    (dataset / "shard-00001.parquet").write_bytes(b"PAR1 or so")
    with pytest.raises(KalmError, match="shard-00001.parquet: no shard written by this library"):
        storage.seal(dataset, SPECS["discrete"], {})


def change_column(folder, name, values, kind=None):
    """Rewrite the shard with another column, as a foreign tool would, and make the checksum fit."""
    path = folder / "shard-00000.parquet"
    table = pq.read_table(path)
    at = table.schema.get_field_index(name)
    column = pa.array(values, kind or table.schema.field(name).type)
    pq.write_table(table.set_column(at, name, column), path)
    change_manifest(folder, lambda manifest: manifest["shards"][0].update(sha256=file_sha256(path)))


@pytest.mark.parametrize(
    ("name", "values", "kind", "told"),
    [
        ("states", [[[0.0]] * 3] * 3, pa.list_(pa.list_(pa.float64())), "is list<element: list"),
        ("states", [[[0, 0]] * 3] * 3, pa.list_(pa.list_(pa.float32(), 2)), "this environment needs"),
        ("actions", [[1.0] * 2] * 3, pa.list_(pa.float32()), "is list<element: float>"),
        ("success", ["yes"] * 3, pa.string(), "is string; this environment needs bool"),
        (
            "states",
            [[[0] * 3] * 3, [[0] * 3] * 3, [[0] * 3] * 2],
            None,
            "rollout 1: column 'states' must have one row",
        ),
        ("rewards", [[0] * 2, [0] * 3, [0] * 2], None, "rollout 2: column 'rewards' must have as many"),
        ("rewards", [[0] * 2, None, [0]], None, "rollout 1: column 'rewards' is null"),
        ("rewards", [[0] * 2, [0] * 3, [None]], None, "rollout 2: column 'rewards' has a row that is null"),
        ("states", [[[0] * 3] * 3, [None] * 4, [[0] * 3] * 2], None, "rollout 1: column 'states' has a row"),
        (
            "states",
            [[[0] * 3] * 3, [[0, None, 0]] * 4, [[0] * 3] * 2],
            None,
            "rollout 1: column 'states' has a number",
        ),
        ("success", [True, False, None], None, "rollout 2: column 'success' is null"),
        ("weights", [1.0, None, 2.0], None, "rollout 1: column 'weights' is null"),
        ("weights", [1, 1, 1], pa.int64(), "is int64; this environment needs float"),
        ("instruction", ["{}", None, "{}"], None, "rollout 1: column 'instruction' is null"),
        (
            "instruction",
            ['{"text": "a"}'] * 3,
            None,
            "rollout 0: column 'instruction' is no line of a goal file",
        ),
        ("source", ["real", "dreamt", "real"], None, "rollout 1: column 'source' is none of real, imagined"),
    ],
)
def test_wrong_columns(dataset, name, values, kind, told):
    change_column(dataset, name, values, kind)
    text = complaint(dataset)
    assert "shard-00000.parquet: " in text and repr(name) in text and told in text


def test_a_dataset_of_the_first_version_weighs_nothing(dataset):
    path, whole = dataset / "shard-00000.parquet", storage.read(dataset)
    pq.write_table(pq.read_table(path).drop_columns(["weights"]), path)
    change_manifest(dataset, lambda manifest: manifest["shards"][0].update(sha256=file_sha256(path)))
    assert "column 'weights' is missing" in complaint(dataset)
    change_manifest(dataset, lambda manifest: manifest.update(format_version=1))
    assert_same(storage.read(dataset), replace(whole, weights=np.ones(3, np.float32)))


def test_missing_column(dataset):
    path = dataset / "shard-00000.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["rewards"]), path)
    assert "column 'rewards' is missing" in complaint(dataset, verify=False)
