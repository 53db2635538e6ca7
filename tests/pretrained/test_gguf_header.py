"""What the head of a GGUF file says, and what is wrong with files that are none or not whole."""

import struct

import gguf
import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from kalm.errors import KalmError
from kalm.pretrained.gguf_header import read_header

IN_HEAD = "damaged or cut off within its head"


def write(file, architecture="llama", tensor=True, **values):
    writer = gguf.GGUFWriter(file, architecture)
    for key, value in values.items():
        writer.add_uint16(key.replace("_", "."), value)
    if tensor:
        writer.add_tensor("token_embd.weight", np.ones((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_the_head_tells_what_the_file_holds(whole, plain):
    header, model = read_header(whole), AutoModelForCausalLM.from_pretrained(plain)
    assert header.architecture == "llama" and header.values["llama.embedding_length"] == 32
    assert header.values["tokenizer.ggml.tokens"] == model.config.vocab_size  # the length of the list
    assert header.numbers == model.num_parameters() and set(header.kinds) == {"F32"}


def test_it_agrees_with_the_reader_of_the_gguf_package(whole):
    header, reader = read_header(whole), gguf.GGUFReader(whole)
    assert header.numbers == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert {key for key in reader.fields if not key.startswith("GGUF.")} == set(header.values)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda data: b"", "is empty"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (lambda data: b"PK\x03\x04" + data[4:], "not in the GGUF format"),
        (lambda data: data[:4] + struct.pack("<I", 1) + data[8:], "version 1"),
        (lambda data: data[:20], IN_HEAD),
        (lambda data: data[:300], IN_HEAD),
        (lambda data: data[:-40], r"has \d+ bytes where its head says \d+: it is cut off"),
        (
            lambda data: data[:8] + struct.pack("<Q", 1 << 60) + data[16:],
            IN_HEAD,
        ),
        (
            lambda data: data[:16] + struct.pack("<Q", 1 << 60) + data[24:],
            IN_HEAD,
        ),
        (
            lambda data: data.replace(b"general.architecture", b"general.architectur_"),
            "names no architecture",
        ),
    ],
    ids=[
        "empty",
        "pointer",
        "zip",
        "old",
        "counts",
        "words",
        "tensors",
        "many tensors",
        "many keys",
        "nameless",
    ],
)
def test_what_is_no_whole_file_is_refused_by_name(copied, content, why):
    copied.write_bytes(content(copied.read_bytes()))
    with pytest.raises(KalmError, match=why) as refused:
        read_header(copied)
    assert str(copied) in str(refused.value) and "\n" not in str(refused.value)


def test_any_cut_and_any_changed_byte_of_the_head_end_in_one_error_or_none(tmp_path):
    whole = write(tmp_path / "whole.gguf").read_bytes()
    damaged = tmp_path / "damaged.gguf"
    rng = np.random.default_rng(0)
    for at in range(0, len(whole) - 1, 3):
        damaged.write_bytes(whole[:at])
        with pytest.raises(KalmError):
            read_header(damaged)
        changed = bytearray(whole)
        changed[at] = rng.integers(256)
        damaged.write_bytes(changed)
        try:
            read_header(damaged)
        except KalmError as error:
            assert str(damaged) in str(error)


def test_a_file_without_tensors_and_a_part_of_a_model_are_refused(tmp_path):
    with pytest.raises(KalmError, match="holds no weights"):
        read_header(write(tmp_path / "words.gguf", tensor=False))
    with pytest.raises(KalmError, match="aligned"):
        read_header(write(tmp_path / "aligned.gguf", general_alignment=0))
    with pytest.raises(KalmError, match="one of 3 parts.*llama-gguf-split --merge"):
        read_header(write(tmp_path / "part.gguf", split_count=3))


def test_a_tensor_of_an_unknown_kind_is_refused(tmp_path):
    file = write(tmp_path / "odd.gguf")
    data = file.read_bytes()
    at = data.index(b"token_embd.weight") + len(b"token_embd.weight") + 4 + 2 * 8
    file.write_bytes(data[:at] + struct.pack("<I", 999) + data[at + 4 :])
    with pytest.raises(KalmError, match="unknown way 999"):
        read_header(file)
